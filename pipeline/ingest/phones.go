package ingest

import (
	"strings"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/godwit-mta/godwit/pipeline/identity"
)

// maxPhones bounds the phone numbers that are remembered: a few megabytes. A number may be in one of phoneWays places.
const (
	maxPhones = 1 << 15
	phoneWays = 4
)

// phones remembers numbers that came lately with their normal form: to find that takes longer than all else that is done
// for an event, and profiles that have events have several. Where there is no room a number takes the place of another one.
type phones struct{ places []atomic.Pointer[phoneForm] }

type phoneForm struct{ given, normal string }

func newPhones() phones { return phones{make([]atomic.Pointer[phoneForm], maxPhones)} }

// normal is identity.Phone.
func (m phones) normal(s string) (string, error) {
	h := xxhash.Sum64String(s)
	places := m.places[h%(maxPhones/phoneWays)*phoneWays:][:phoneWays]
	free := int(h >> 32 & (phoneWays - 1))
	for i := range places {
		switch f := places[i].Load(); {
		case f == nil:
			free = i
		case f.given == s:
			return f.normal, nil
		}
	}
	v, err := identity.Phone(s)
	if err == nil {
		given := strings.Clone(s) // it lies in the body of a request
		f := &phoneForm{given, given}
		if v != s {
			f.normal = strings.Clone(v)
		}
		places[free].Store(f)
	}
	return v, err
}
