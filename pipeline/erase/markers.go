package erase

import (
	"context"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// move is what a marker tells: where a profile went; a zero one says that it is deleted.
type move struct {
	who
	to fact.ProfileID
}

// markerIn reads a marker; nil is returned for other records, which are told by their second byte.
func markerIn(data []byte) (m move, f *fact.Fact) {
	if len(data) < 2 || fact.Kind(data[1]) != fact.KindMarker {
		return m, nil
	}
	f = new(fact.Fact)
	if f.Parse(data) != nil || f.Merge == nil {
		return m, nil
	}
	return move{who{f.Tenant, f.Merge.Source}, f.Merge.Destination}, f
}

// family are the profiles that deletions are about.
type family struct {
	all   []who   // the deleted ones, and those that were merged into them
	roots []int32 // of each, the index of the deleted one that it is part of
	depth int     // length of the longest chain of merges
}

// families finds the profiles that became part of those deleted.
func (e *Eraser) families(ctx context.Context, deleted []who) (*family, error) {
	to := map[who]fact.ProfileID{}
	err := e.d.Log.Each(ctx, e.d.Facts.Name(), func(_ int32, _ int64, data []byte) error {
		if m, marker := markerIn(data); marker != nil && !m.to.IsZero() {
			to[m.who] = m.to
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	f := new(family)
	wanted := map[who]int32{}
	for i, w := range deleted {
		wanted[w] = int32(i)
		f.all, f.roots = append(f.all, w), append(f.roots, int32(i))
	}
	for w := range to {
		at, hops := w, 0
		for next, moved := to[at]; moved && hops <= len(to); next, moved = to[at] {
			at.profile = next
			hops++
		}
		if root, ours := wanted[at]; ours && at != w {
			f.all, f.roots = append(f.all, w), append(f.roots, root)
			f.depth = max(f.depth, hops)
		}
	}
	return f, nil
}
