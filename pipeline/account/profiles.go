package account

import (
	"encoding/binary"
	"errors"

	"github.com/godwit-mta/godwit/internal/bloom"
	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Where a profile is.
const (
	profileLiving = iota
	profileMoved
	profileDeleted
)

// profile is what is kept in memory of one.
type profile struct {
	dense uint32
	since uint32 // epoch of the filter since which all its events are in there; 0: they are not
	state uint8
	wide  bool // it has too many events to put them into the filter
	used  bool // of a profileTable's place: somebody has it
}

// profileTable finds profiles by their id, which is a hash. A place is less than a cache line.
type profileTable struct {
	places []profilePlace
	n      int
}

type profilePlace struct {
	id fact.ProfileID
	profile
}

func newProfileTable() profileTable { return profileTable{places: make([]profilePlace, 1<<10)} }

// place returns where a profile is, or would be.
func (t *profileTable) place(id *fact.ProfileID) *profilePlace {
	mask := uint64(len(t.places) - 1)
	for i := hashOf(id[:]) & mask; ; i = (i + 1) & mask {
		if p := &t.places[i]; !p.used || p.id == *id {
			return p
		}
	}
}

func (t *profileTable) put(id fact.ProfileID, f profile) {
	p := t.place(&id)
	if p.used {
		p.profile, p.used = f, true
		return
	}
	if t.n++; 3*t.n > 2*len(t.places) {
		before := t.places
		t.places = make([]profilePlace, 2*len(before))
		for i := range before {
			if before[i].used {
				*t.place(&before[i].id) = before[i]
			}
		}
		p = t.place(&id)
	}
	*p = profilePlace{id, f}
	p.used = true
}

func (t *profileTable) reset() {
	clear(t.places)
	t.n = 0
}

// profiles are the ones that were used last, in two generations. Their tables hold no pointers, so that collecting garbage
// does not look at them.
type profiles struct {
	most       int
	young, old profileTable
	known      bloom.Filter // all that the state has, so that new ones need not be looked for; nil if they are too many
}

func newProfiles(most, filter int) profiles {
	return profiles{most: most, young: newProfileTable(), old: newProfileTable(), known: bloom.New(filter)}
}

// load notes which profiles the state has.
func (p *profiles) load(s *keyed.Store) error {
	n, most := 0, 2*p.known.Capacity()
	err := s.Scan([]byte{prefixProfile}, nil, func(k, _ []byte) bool {
		p.known.Add(hashOf(k[1:]))
		n++
		return n <= most
	})
	if n > most {
		p.known = nil
	}
	return err
}

// hashOf mixes a profile's id, which is a hash itself; its first bytes choose the partition.
func hashOf(id []byte) uint64 { return binary.LittleEndian.Uint64(id[len(id)-8:]) }

// isNew reports whether the state does not have a profile for sure. It does from now on.
func (p *profiles) isNew(id fact.ProfileID) bool {
	if p.known == nil || p.known.Has(hashOf(id[:])) {
		return false
	}
	p.known.Add(hashOf(id[:]))
	return true
}

func (p *profiles) get(id *fact.ProfileID) (profile, bool) {
	if f := p.young.place(id); f.used {
		return f.profile, true
	}
	f := p.old.place(id)
	if f.used {
		p.young.put(*id, f.profile)
	}
	return f.profile, f.used
}

func (p *profiles) put(id fact.ProfileID, f profile) { p.young.put(id, f) }

// trim forgets those that were not used for long. It must not be called between two uses of
// one commit: what is new is not in the state before.
func (p *profiles) trim() {
	if p.young.n > p.most/2 {
		p.old, p.young = p.young, p.old
		p.young.reset()
	}
}

func profileKey(id fact.ProfileID) []byte { return append([]byte{prefixProfile}, id[:]...) }

// appendProfile appends a profile's row: its dense number, and where it went if it is not living; nowhere is
// the zero profile.
func appendProfile(b []byte, p profile, to fact.ProfileID) []byte {
	b = binary.AppendUvarint(b, uint64(p.dense))
	if p.state != profileLiving {
		b = append(b, to[:]...)
	}
	return b
}

func parseProfile(b []byte) (p profile, to fact.ProfileID, err error) {
	r := parser{b: b}
	p.dense = r.number()
	if len(r.b) > 0 {
		copy(to[:], r.take(16))
		if p.state = profileMoved; to.IsZero() {
			p.state = profileDeleted
		}
	}
	if r.bad || len(r.b) > 0 {
		return p, to, errDamaged
	}
	return p, to, nil
}

// profile finds a profile, or makes it. One that was merged has no number if it left before it had an event.
func (p *Processor) profile(tx *keyed.Tx, id fact.ProfileID) (profile, error) {
	f, known := p.profiles.get(&id)
	switch {
	case known && f.dense == 0 && f.state == profileDeleted:
		return p.enroll(tx, id, f)
	case known && (f.wide || f.state == profileMoved || p.filter.Covers(f.since)):
		return f, nil
	case known: // it comes again, so it may be worth it
		err := p.cover(tx, &f)
		p.profiles.put(id, f)
		return f, err
	case p.profiles.isNew(id):
		return p.enroll(tx, id, profile{since: p.filter.Epoch()})
	}
	v, err := tx.Get(profileKey(id))
	if errors.Is(err, keyed.ErrNotFound) {
		return p.enroll(tx, id, profile{since: p.filter.Epoch()})
	}
	if err == nil {
		f, _, err = parseProfile(v)
	}
	if err != nil {
		return f, err
	}
	p.profiles.put(id, f)
	if f.dense == 0 && f.state == profileDeleted {
		return p.enroll(tx, id, f)
	}
	return f, nil
}

// enroll gives a profile its number.
func (p *Processor) enroll(tx *keyed.Tx, id fact.ProfileID, f profile) (profile, error) {
	if p.numbers.profile == ^uint32(0) {
		return f, errors.New("too many profiles")
	}
	f.dense = p.numbers.profile
	p.numbers.profile++
	p.profiles.put(id, f)
	return f, tx.Put(profileKey(id), appendProfile(nil, f, fact.ProfileID{}))
}

// maxCovered is how many events of a profile are worth reading to spare looking for single ones.
const maxCovered = 128

// cover puts the events of a profile into the filter. Those of this window are there already.
func (p *Processor) cover(tx *keyed.Tx, f *profile) error {
	n := 0
	p.key = appendEvents(p.key[:0], f.dense)
	err := tx.Store().Scan(p.key, nil, func(k, _ []byte) bool {
		if e, ok := parseEventKey(k); ok {
			p.filter.Add(e.hash())
		}
		n++
		return n <= p.covered
	})
	if f.wide = n > p.covered; !f.wide {
		f.since = p.filter.Epoch()
	}
	return err
}
