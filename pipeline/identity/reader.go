package identity

import (
	"errors"
	"fmt"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Standing is what became of a profile.
type Standing uint8

// What may become of a profile. One that nobody ever heard of counts as living: the stage knows identifiers, not profiles.
const (
	Living  Standing = iota
	Merged           // it is part of another one
	Deleted          // it, or what it was part of, is deleted
)

// String is the word for it.
func (s Standing) String() string { return [...]string{"living", "merged", "deleted"}[s] }

// ErrElsewhere is returned when another node has the partition that knows.
var ErrElsewhere = errors.New("identity: another node has the partition that knows")

// Reader answers whose an identifier is, as far as the stage has committed. It is safe for concurrent use.
type Reader struct {
	state      func(partition int32) (State, bool)
	partitions int32
}

// State is what is committed of a partition, here or at another node. Get returns keyed.ErrNotFound for what is
// not there, and an error that wraps keyed.ErrClosed when nobody has the partition at the moment.
type State interface {
	Get(key []byte) ([]byte, error)
}

// NewReader returns a Reader of the states that store finds, of a first log of so many partitions.
func NewReader(store func(partition int32) (*keyed.Store, bool), partitions int32) *Reader {
	return NewReaderOf(func(partition int32) (State, bool) {
		s, ok := store(partition)
		return s, ok
	}, partitions)
}

// NewReaderOf returns a Reader of states that may be elsewhere.
func NewReaderOf(state func(partition int32) (State, bool), partitions int32) *Reader {
	return &Reader{state, partitions}
}

// Lookup returns the living profile that an identifier belongs to. false: nobody's, or a deleted one's. A profile id is
// returned as what it is part of by now, whether anybody ever heard of it or not.
func (r *Reader) Lookup(tenant string, id fact.Identifier) (fact.ProfileID, bool, error) {
	if id.Kind == fact.ByProfile {
		return r.byID(tenant, id.Value)
	}
	s, ok := r.state(fact.PartitionOf(tenant, id, r.partitions))
	if !ok {
		return fact.ProfileID{}, false, ErrElsewhere
	}
	t := fact.TenantIDOf(tenant)
	b, err := loadBinding(s, keyOf(t, id.Kind, []byte(id.Value)))
	if err != nil || b == nil {
		return fact.ProfileID{}, false, err
	}
	root, dead, err := follow(s, place{t, b.profile})
	if err != nil || dead {
		return fact.ProfileID{}, false, err
	}
	return root, true, nil
}

func (r *Reader) byID(tenant, id string) (fact.ProfileID, bool, error) {
	p, err := fact.ParseProfileID(id)
	if err != nil {
		return fact.ProfileID{}, false, nil
	}
	p, standing, err := r.Resolve(tenant, p)
	if err != nil || standing == Deleted {
		return fact.ProfileID{}, false, err
	}
	return p, true, nil
}

// Resolve returns the profile that one is part of by now and what became of it. Home decides on merges, so it knows first; if it
// is elsewhere, any partition here knows soon after.
func (r *Reader) Resolve(tenant string, profile fact.ProfileID) (fact.ProfileID, Standing, error) {
	home := fact.Home(tenant, r.partitions)
	for i := range r.partitions {
		s, ok := r.state((home + i) % r.partitions)
		if !ok {
			continue
		}
		root, dead, err := follow(s, place{fact.TenantIDOf(tenant), profile})
		switch {
		case errors.Is(err, keyed.ErrClosed):
			continue
		case err != nil:
			return profile, Living, fmt.Errorf("identity: partition %d: %w", home, err)
		case dead:
			return root, Deleted, nil
		case root != profile:
			return root, Merged, nil
		}
		return root, Living, nil
	}
	return profile, Living, ErrElsewhere
}
