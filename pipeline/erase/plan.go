package erase

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// plan is what a pass does, once it is found out.
type plan struct {
	Format   int
	Deleted  []who // that wait
	Profiles []who // these, and those that were merged into them
	// Empty are the offsets of records of the first log that led to nothing. Made are those that led to a fact; Whose
	// is the index of the profile, for each.
	Empty []int64
	Made  []int64
	Whose []int32
	Facts int  // records of the second log
	Logs  bool `json:",omitempty"` // both are rewritten; what is left to do is to compact states

	in   map[who]int32
	made map[int64]int32
	none map[int64]bool
}

// index makes what is looked up.
func (p *plan) index() {
	p.in, p.made, p.none = map[who]int32{}, make(map[int64]int32, len(p.Made)), make(map[int64]bool, len(p.Empty))
	for i, w := range p.Profiles {
		p.in[w] = int32(i)
	}
	for i, offset := range p.Made {
		p.made[offset] = p.Whose[i]
	}
	for _, offset := range p.Empty {
		p.none[offset] = true
	}
}

func (p *plan) has(tenant string, profile fact.ProfileID) bool {
	_, there := p.in[who{tenant, profile}]
	return there
}

// loadPlan returns the plan of a pass that was begun, or nil.
func (e *Eraser) loadPlan() (*plan, error) {
	p := new(plan)
	err := e.read(planName, p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, errDamaged) || err == nil && (p.Format != format || len(p.Made) != len(p.Whose)):
		e.log.Error("erase: the plan of the last pass cannot be used; the pass begins anew", "error", err)
		return nil, nil
	case err != nil:
		return nil, err
	}
	p.index()
	return p, nil
}

// draw makes the plan.
func (e *Eraser) draw(ctx context.Context, deleted []who, f *family) (*plan, error) {
	p := &plan{Format: format, Deleted: deleted, Profiles: f.all}
	p.index()
	if err := e.origins(ctx, p); err != nil {
		return nil, err
	}
	if err := e.leftovers(ctx, p, f.roots); err != nil {
		return nil, err
	}
	p.index()
	return p, nil
}

// origins finds the records of the first log that facts of the profiles were made of.
func (e *Eraser) origins(ctx context.Context, p *plan) error {
	return e.d.Log.Each(ctx, e.d.Facts.Name(), func(_ int32, _ int64, data []byte) error {
		h, ok := headOf(data)
		if !ok || !personal(h.kind) {
			return nil
		}
		whose, there := p.in[who{string(h.tenant), h.profile}]
		if !there {
			return nil
		}
		p.Facts++
		if h.kind == fact.KindTransfer {
			return nil
		}
		var f fact.Fact
		if f.Parse(data) != nil || f.From.Stage != fact.StageIdentity {
			return nil
		}
		if _, twice := p.made[f.From.Offset]; !twice {
			p.made[f.From.Offset] = whose
			p.Made, p.Whose = append(p.Made, f.From.Offset), append(p.Whose, whose)
		}
		return nil
	})
}

// search is what leftovers knows of the first log so far.
type search struct {
	p     *plan
	roots []int32 // as family has them
	// theirs are the identifiers that records of the profiles lay under, and of which one that is deleted.
	theirs map[owner]int32
	over   map[closed]bool
	in     fact.Intake
}

// owner is an identifier of a tenant, hashed: a pass has many.
type owner [16]byte

// closed is a partition that knows of a deletion.
type closed struct{ partition, root int32 }

func ownerOf(tenant string, id fact.Identifier) owner {
	h := sha256.Sum256(append(append([]byte(tenant), 0, byte(id.Kind)), id.Value...))
	return owner(h[:len(owner{})])
}

// leftovers finds the records of the first log that are about the profiles and led to no fact: a change that was only to make a profile
// that existed, and what named a deleted profile by its id. Claims name the profile, so they are known when they are met.
func (e *Eraser) leftovers(ctx context.Context, p *plan, roots []int32) error {
	s := &search{p: p, roots: roots, theirs: map[owner]int32{}, over: map[closed]bool{}}
	return e.d.Log.Each(ctx, e.d.Intake.Name(), func(partition int32, offset int64, data []byte) error {
		h, ok := headOf(data)
		if !ok {
			return nil
		}
		switch h.kind {
		case fact.KindEvent, fact.KindChange:
			s.subject(partition, offset, data)
		case fact.KindRedirect:
			if s.in.Parse(data) == nil && s.in.Merge != nil && s.in.Merge.Destination.IsZero() {
				if whose, there := p.in[who{s.in.Tenant, s.in.Merge.Source}]; there {
					s.over[closed{partition, whose}] = true
				}
			}
		}
		return nil
	})
}

// subject looks at an event or a change.
func (s *search) subject(partition int32, offset int64, data []byte) {
	whose, made := s.p.made[offset]
	if s.in.Parse(data) != nil || len(s.in.Who) == 0 {
		return
	}
	first := s.in.Who[0]
	key := ownerOf(s.in.Tenant, first)
	if made {
		s.theirs[key] = s.roots[whose]
		return
	}
	if first.Kind == fact.ByProfile {
		if id, err := fact.ParseProfileID(first.Value); err == nil && s.p.has(s.in.Tenant, id) {
			s.p.Empty = append(s.p.Empty, offset)
		}
		return
	}
	// While the identifier was theirs, a record that was to make a profile made none.
	if root, there := s.theirs[key]; there && s.in.Fresh && !s.over[closed{partition, root}] {
		s.p.Empty = append(s.p.Empty, offset)
	}
}
