package ingest

import (
	"fmt"
	"sync"
	"testing"

	"github.com/godwit-mta/godwit/pipeline/identity"
)

// Numbers that push each other out of their slots keep their own normal form.
func TestPhonesAreThoseOfIdentity(t *testing.T) {
	m := newPhones()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 200 {
				for _, s := range []string{fmt.Sprintf("+49 170 1%06d", i), fmt.Sprintf("+491701%06d", i), fmt.Sprintf("0170 1%06d", i), "", "+1"} {
					want, wantErr := identity.Phone(s)
					for range 2 {
						got, err := m.normal(s)
						if got != want || (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
							t.Errorf("%q: %q %v, not %q %v", s, got, err, want, wantErr)
						}
					}
				}
			}
		})
	}
	all.Wait()
}

func TestPhonesHaveLimitedRoom(t *testing.T) {
	m := newPhones()
	clash := phoneForm{"+49 30 123456", "+4930999999"} // as if all places were taken
	for i := range m.places {
		m.places[i].Store(&clash)
	}
	if got, err := m.normal("+49 30 654321"); got != "+4930654321" || err != nil {
		t.Error(got, err)
	}
	if got, err := m.normal(clash.given); got != clash.normal || err != nil {
		t.Errorf("it is not remembered: %v %v", got, err)
	}
}

// BenchmarkPhones is a number of 10,000 that come again and again.
func BenchmarkPhones(b *testing.B) {
	var all []string
	for i := range 10_000 {
		all = append(all, fmt.Sprintf("+49170%07d", i))
	}
	m := newPhones()
	for _, s := range all {
		if _, err := m.normal(s); err != nil {
			b.Fatal(err)
		}
	}
	for i := 0; b.Loop(); i++ {
		if _, err := m.normal(all[i*37%len(all)]); err != nil {
			b.Fatal(err)
		}
	}
}
