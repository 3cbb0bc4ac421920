//go:build cgo

package duckdb

import (
	"bytes"
	"context"
	"maps"
	"slices"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
	"github.com/godwit-mta/godwit/pipeline/warehouse/keyset"
)

// edit is a profile that the batch makes, changes or removes.
type edit struct {
	tenant  fact.TenantID
	profile fact.ProfileID
	stored  bool // there is a row
	in      *run // where it is
	state   *warehouse.Profile
	changed bool
}

// takeChanges applies the batch's changes and merges to profiles, in order.
func (p *plan) takeChanges(ctx context.Context) error {
	p.edits = make(map[fact.ProfileID]*edit, len(p.b.Changes)/4)
	of := p.lookAtChanges()
	if err := p.fetchProfiles(ctx); err != nil {
		return err
	}
	next := 0
	for i := range p.b.Changes {
		p.rest(i)
		for ; next < len(p.merges) && p.merges[next].Changes <= i; next++ {
			p.join(&p.merges[next])
		}
		if of[i] != nil {
			p.apply(&p.b.Changes[i], of[i])
		}
	}
	for ; next < len(p.merges); next++ {
		p.join(&p.merges[next])
	}
	for _, e := range p.people {
		if e.stored && (e.state == nil || e.changed) {
			p.old = append(p.old, e.profile)
		}
	}
	p.people = slices.DeleteFunc(p.people, func(e *edit) bool { return e.state == nil || !e.changed })
	slices.SortFunc(p.old, compareProfiles)
	return nil
}

func compareProfiles(a, b fact.ProfileID) int { return bytes.Compare(a[:], b[:]) }

// lookAtChanges finds what has to be read, and whose each change is; of changes that say nothing new that is nil.
func (p *plan) lookAtChanges() []*edit {
	of := make([]*edit, len(p.b.Changes))
	for i := range p.b.Changes {
		p.rest(i)
		c := &p.b.Changes[i]
		if t := p.d.tenant(c.Tenant); !p.d.named[t] && !slices.Contains(p.newTenants, c.Tenant) {
			p.newTenants = append(p.newTenants, c.Tenant)
		}
		if of[i] = p.edits[c.Profile]; of[i] == nil && !p.nothingNew(c) {
			of[i] = p.newEdit(c.Tenant, c.Profile)
		}
	}
	for _, m := range p.merges {
		p.edit(m.Tenant, m.Source)
		if !m.Destination.IsZero() {
			p.edit(m.Tenant, m.Destination)
		}
	}
	return of
}

// edit notes that a profile is to be looked at.
func (p *plan) edit(tenant string, id fact.ProfileID) *edit {
	if e := p.edits[id]; e != nil {
		return e
	}
	return p.newEdit(tenant, id)
}

// newEdit is edit of a profile that was not looked at before; one that is new gets its key.
func (p *plan) newEdit(tenant string, id fact.ProfileID) *edit {
	k := keyset.KeyOf(id)
	e := &edit{tenant: p.d.tenant(tenant), profile: id, stored: p.d.keys.Has(k)}
	p.edits[id] = e
	p.people = append(p.people, e)
	p.fresh.Add(k)
	return e
}

// nothingNew reports whether a profile that is there was told the same before. A profile takes an identifier only if it
// has none of that kind, so the same ones change nothing a second time, unless one was taken away in between.
func (p *plan) nothingNew(c *warehouse.Change) bool {
	e := p.d.known.at(c.Profile)
	if c.Change != nil {
		if told := same(c.Change); told == 0 || e.profile != c.Profile || e.same != told {
			return false
		}
	}
	who := p.hash.whoShort(c.Profile, c.Who)
	if e.profile == c.Profile && e.who == who {
		return true
	}
	if p.d.cleared[c.Profile] || !p.d.keys.Has(keyset.KeyOf(c.Profile)) {
		return false
	}
	for i := range c.Who {
		if !p.d.keys.Has(p.hash.who(c.Profile, &c.Who[i])) {
			return false
		}
	}
	e = p.d.known.take(c.Profile)
	e.who = who
	return true
}

// apply applies one change.
func (p *plan) apply(c *warehouse.Change, e *edit) {
	now := c.At.UnixMilli()
	for i := range c.Who {
		p.fresh.Add(p.hash.who(c.Profile, &c.Who[i]))
	}
	remember := p.d.known.take(c.Profile)
	remember.who, remember.same = p.hash.whoShort(c.Profile, c.Who), same(c.Change)
	before, made := "", e.state == nil
	if made {
		e.state, e.changed = &warehouse.Profile{Created: now, Updated: now}, true
	} else {
		before = fingerprint(e.state)
	}
	e.state.Know(c.Who)
	ids := e.state.IDs
	if c.Change != nil {
		if err := e.state.Apply(c.Change, now); err != nil {
			p.d.log.Error("a change of a profile is no JSON and is left out", "profile", c.Profile, "error", err)
		}
	}
	for i := range ids {
		if ids[i] != "" && e.state.IDs[i] == "" {
			p.clear(c.Profile)
			remember.who = 0
		}
	}
	if !made && fingerprint(e.state) != before {
		e.changed = true
		e.state.Updated = max(e.state.Updated, now)
	}
}

// clear notes that a profile lost an identifier. From then on it takes one again whenever it lacks one.
func (p *plan) clear(id fact.ProfileID) {
	if !p.d.cleared[id] && !slices.Contains(p.cleared, id) {
		p.cleared = append(p.cleared, id)
	}
}

// join merges one profile into another, or removes it.
func (p *plan) join(m *merge) {
	source := p.edit(m.Tenant, m.Source)
	from := source.state
	source.state = nil
	p.d.known.forget(m.Source)
	if from == nil || m.Destination.IsZero() {
		return
	}
	to := p.edit(m.Tenant, m.Destination)
	p.d.known.forget(m.Destination)
	to.changed = true
	if to.state == nil {
		to.state = from
		to.state.Updated = max(from.Updated, m.At.UnixMilli())
		return
	}
	before := fingerprint(to.state)
	to.state.Merge(from)
	if fingerprint(to.state) != before {
		to.state.Updated = max(to.state.Updated, m.At.UnixMilli())
	}
}

// fetchProfiles reads the profiles that are stored and looked at.
func (p *plan) fetchProfiles(ctx context.Context) error {
	var ids []fact.ProfileID
	tenants := map[fact.TenantID]bool{}
	for id, e := range p.edits {
		if e.stored {
			e.stored = false // its key may be left of a row that is gone
			ids = append(ids, id)
			tenants[e.tenant] = true
		}
	}
	if len(ids) == 0 {
		return nil
	}
	where, err := p.d.whereAny(ctx, touched, slices.Collect(maps.Keys(tenants)), ids)
	if err != nil {
		return err
	}
	for _, r := range p.d.profiles.runs {
		if err := p.fetchFrom(ctx, r, where); err != nil {
			return err
		}
	}
	return nil
}

// fetchFrom reads the profiles that are in a run.
func (p *plan) fetchFrom(ctx context.Context, r *run, where string) error {
	s := p.d.profiles
	return p.d.eachRow(ctx, s, s.selection(r, where), func(id fact.ProfileID, values []any) (err error) {
		e := p.edits[id]
		e.stored, e.in = true, r
		e.state, err = s.decode(values)
		return err
	})
}

// The temporary tables that whereAny fills.
const (
	touched = "touched" // profiles that are read or written anew
	leaving = "leaving" // profiles whose events leave
)

// fewIDs are so few that a statement lists them: of one it reads only what can have it, and more are listed faster than put into a table.
const fewIDs = 16

// whereAny is a condition that finds profiles: by a list if they are few, else by a temporary table. Either reads one column of all rows first.
// Without tenants it is any's.
func (d *DB) whereAny(ctx context.Context, temporary string, tenants []fact.TenantID, ids []fact.ProfileID) (string, error) {
	if len(ids) <= fewIDs {
		return whereProfiles(tenants, ids), nil
	}
	if err := d.exec(ctx, sqlEmpty(temporary)); err != nil {
		return "", err
	}
	err := d.fill("temp", "main", temporary, func(s *sheet) error {
		for _, id := range ids {
			s.uuid(0, id)
			if err := s.next(); err != nil {
				return err
			}
		}
		return nil
	})
	return whereIn(temporary), err
}

// rowsOf are the places of rows in a table.
func (d *DB) rowsOf(ctx context.Context, q string) (out []int64, err error) {
	err = d.each(ctx, q, func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		out = append(out, id)
		return err
	})
	return out, err
}

// deleteOld removes the events of profiles that left, and the rows of profiles that are written anew.
func (p *plan) deleteOld(ctx context.Context) error {
	for _, r := range p.goneFrom {
		if err := p.d.exec(ctx, sqlDelete(p.d.events.table(r), p.whereGone)); err != nil {
			return err
		}
	}
	if len(p.old) == 0 {
		return nil
	}
	tenants, in := map[fact.TenantID]bool{}, map[*run]bool{}
	for _, id := range p.old {
		e := p.edits[id]
		tenants[e.tenant], in[e.in] = true, true
	}
	where, err := p.d.whereAny(ctx, touched, slices.Collect(maps.Keys(tenants)), p.old)
	if err != nil {
		return err
	}
	for r := range in {
		if err := p.d.exec(ctx, sqlDelete(p.d.profiles.table(r), where)); err != nil {
			return err
		}
	}
	return nil
}
