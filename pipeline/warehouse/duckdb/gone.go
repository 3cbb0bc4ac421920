//go:build cgo

package duckdb

import (
	"context"
	"encoding/binary"

	"github.com/godwit-mta/godwit/internal/bloom"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// gone knows which profiles were merged or deleted, or may have been. The keys of their events stay in the set of keys, so of those, and only of
// those, a key does not say that the event is there.
type gone struct{ filter bloom.Filter }

// leastGone is for how many profiles there is room at least: 1.4 MB.
const leastGone = 1 << 20

func newGone(n int64) gone {
	return gone{bloom.New(int(max(leastGone, 2*n)) * bloom.BitsPerKey / 8)}
}

// hashOf spreads an id, which is a hash itself; in tests it need not be.
func hashOf(p fact.ProfileID) uint64 {
	h := (binary.LittleEndian.Uint64(p[:8]) ^ binary.LittleEndian.Uint64(p[8:])*0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9
	return (h ^ h>>31) * 0x94d049bb133111eb
}

func (g gone) add(p fact.ProfileID) { g.filter.Add(hashOf(p)) }

// maybe is false for a profile that is where it was from the beginning.
func (g gone) maybe(p fact.ProfileID) bool { return g.filter.Has(hashOf(p)) }

func (d *DB) loadGone(ctx context.Context) error {
	var n int64
	err := d.each(ctx, sqlGoneCount, func(scan func(...any) error) error { return scan(&n) })
	if err != nil {
		return err
	}
	d.gone = newGone(n)
	return d.each(ctx, sqlGone, func(scan func(...any) error) error {
		var p uuid
		err := scan(&p)
		d.gone.add(fact.ProfileID(p))
		return err
	})
}

// leave notes the profiles that a batch merged or deleted.
func (d *DB) leave(profiles []fact.ProfileID) {
	if len(profiles) == 0 {
		return
	}
	d.sight.Lock()
	defer d.sight.Unlock()
	for _, p := range profiles {
		d.gone.add(p)
	}
}
