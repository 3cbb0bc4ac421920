//go:build cgo

package duckdb

import (
	"context"
	"maps"
	"slices"

	"github.com/godwit-mta/godwit/internal/pace"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
	"github.com/godwit-mta/godwit/pipeline/warehouse/keyset"
)

// plan is what a batch comes to.
type plan struct {
	d     *DB
	b     *warehouse.Batch
	hash  hasher
	pace  pace.Pace    // a batch takes a CPU for tenths of a second
	fresh keyset.Table // keys that the batch adds

	merges     []merge
	redirects  map[fact.ProfileID]fact.ProfileID // that the batch adds
	rows       []row                             // to be appended, but those that are left out
	of         map[fact.ProfileID][]int32        // the rows of profiles that merges are about
	gone       []fact.ProfileID                  // whose events leave
	whereGone  string                            // finds those events
	goneFrom   []*run                            // the runs that have any
	duplicates int

	edits  map[fact.ProfileID]*edit
	people []*edit          // all edits, in the order in which they lie in memory; at last those to be appended
	old    []fact.ProfileID // whose rows are replaced or removed

	cleared []fact.ProfileID // that lost an identifier
	places  []int32          // of the dimensions of rows, in order

	newTenants []string
	newMetrics []namedMetric
}

// row is an event to be appended: one of the batch, or one that is stored under a profile that was merged.
type row struct {
	profile fact.ProfileID
	e       *warehouse.Event
	stored  []any // as the shelf has them; nil for one of the batch
	out     bool  // left out: its profile was deleted, or merged into one that has the same
}

// merge is one of the batch with its ends resolved. A zero destination is a deletion.
type merge struct {
	warehouse.Merge
	moved [][]any // events that are stored under Source
}

type namedMetric struct {
	tenant        fact.TenantID
	id            fact.MetricID
	service, name string
}

// rest is called with each row of a loop.
func (p *plan) rest(i int) {
	if i%32 == 0 { // some 50 µs
		p.pace.Step()
	}
}

func (p *plan) make(ctx context.Context) error {
	if err := p.resolve(ctx); err != nil {
		return err
	}
	if err := p.fetchMoved(ctx); err != nil {
		return err
	}
	p.takeEvents()
	if err := p.takeChanges(ctx); err != nil {
		return err
	}
	return p.makeColumns(ctx)
}

// resolve finds where merged profiles really go: their destination may have been merged itself.
func (p *plan) resolve(ctx context.Context) error {
	p.redirects = map[fact.ProfileID]fact.ProfileID{}
	if len(p.b.Merges) == 0 {
		return nil
	}
	before := map[fact.ProfileID]fact.ProfileID{}
	ask := map[fact.ProfileID]bool{}
	for _, m := range p.b.Merges {
		ask[m.Source], ask[m.Destination] = true, true
	}
	for len(ask) > 0 {
		ids := make([]fact.ProfileID, 0, len(ask))
		for id := range ask {
			ids = append(ids, id)
		}
		clear(ask)
		err := p.d.each(ctx, sqlRedirects(ids), func(scan func(...any) error) error {
			var source, destination uuid
			if err := scan(&source, &destination); err != nil {
				return err
			}
			before[fact.ProfileID(source)] = fact.ProfileID(destination)
			if _, known := before[fact.ProfileID(destination)]; !known {
				ask[fact.ProfileID(destination)] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, m := range p.b.Merges {
		if _, left := before[m.Source]; left || m.Source.IsZero() {
			continue // merged twice is merged once
		}
		for next, moved := before[m.Destination]; moved; next, moved = before[m.Destination] {
			m.Destination = next
		}
		if m.Destination == m.Source {
			continue
		}
		before[m.Source], p.redirects[m.Source] = m.Destination, m.Destination
		p.merges = append(p.merges, merge{Merge: m})
		p.gone = append(p.gone, m.Source)
	}
	return nil
}

// fetchMoved reads the events that are stored under profiles that move, and notes where those of all are that leave.
func (p *plan) fetchMoved(ctx context.Context) error {
	if len(p.gone) == 0 {
		return nil
	}
	of := map[fact.ProfileID]int{}
	tenants := map[fact.TenantID]bool{}
	for i, m := range p.merges {
		of[m.Source] = i
		tenants[p.d.tenant(m.Tenant)] = true
	}
	where, err := p.d.whereAny(ctx, leaving, slices.Collect(maps.Keys(tenants)), p.gone)
	if err != nil {
		return err
	}
	p.whereGone = where
	for _, r := range p.d.events.runs {
		rows, err := p.d.rowsOf(ctx, sqlRowIDs(p.d.events.table(r), where))
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			continue
		}
		p.goneFrom = append(p.goneFrom, r)
		if err := p.fetchRows(ctx, r, rows, of); err != nil {
			return err
		}
	}
	return nil
}

// fetchRows reads events of a run, given their places in it.
func (p *plan) fetchRows(ctx context.Context, r *run, rows []int64, of map[fact.ProfileID]int) error {
	s := p.d.events
	take := func(id fact.ProfileID, values []any) error {
		if m := &p.merges[of[id]]; !m.Destination.IsZero() {
			m.moved = append(m.moved, values)
		}
		return nil
	}
	wheres := near(rows)
	if int64(len(wheres))*rowsOfAQuestion > r.rows {
		wheres = []string{p.whereGone}
	}
	for _, where := range wheres {
		if err := p.d.eachRow(ctx, s, s.selection(r, where), take); err != nil {
			return err
		}
	}
	return nil
}

const (
	// vectorRows is how many rows the database reads at once.
	vectorRows = 2048
	// rowsOfAQuestion is how many rows could be read in the time of one more question.
	rowsOfAQuestion = 10_000
)

// near are conditions that find rows by their places. Each reads one vector: the database finds that by the range of the list, and would read
// all of a longer range.
func near(rows []int64) (wheres []string) {
	slices.Sort(rows)
	for len(rows) > 0 {
		n := 1
		for n < len(rows) && rows[n]/vectorRows == rows[0]/vectorRows {
			n++
		}
		wheres = append(wheres, whereRows(rows[:n]))
		rows = rows[n:]
	}
	return wheres
}

// takeEvents decides which events are new, and whose they are. Merges take effect in their place among the
// events, so that it does not matter where batches are cut.
func (p *plan) takeEvents() {
	next := 0
	seen := map[fact.MetricID]bool{}
	p.rows = make([]row, 0, len(p.b.Events))
	p.of = make(map[fact.ProfileID][]int32, 2*len(p.merges))
	for i := range p.merges {
		p.of[p.merges[i].Source], p.of[p.merges[i].Destination] = nil, nil
	}
	for i := range p.b.Events {
		for ; next < len(p.merges) && p.merges[next].Events <= i; next++ {
			p.move(&p.merges[next])
		}
		p.rest(i)
		e := &p.b.Events[i]
		if !p.d.metrics[e.Metric] && !seen[e.Metric] {
			seen[e.Metric] = true
			p.newMetrics = append(p.newMetrics, namedMetric{p.d.tenant(e.Tenant), e.Metric, e.Service, e.Name})
		}
		k := p.hash.event(e.Profile, e.Metric, e.UID)
		if !p.fresh.Add(k) || p.d.keys.Has(k) {
			p.duplicates++
			continue
		}
		if of, merging := p.of[e.Profile]; merging {
			p.of[e.Profile] = append(of, int32(len(p.rows)))
		}
		p.rows = append(p.rows, row{profile: e.Profile, e: e})
	}
	for ; next < len(p.merges); next++ {
		p.move(&p.merges[next])
	}
	p.rows = slices.DeleteFunc(p.rows, func(r row) bool { return r.out })
}

// move gives the events of a merged profile to its destination, but those that it has already.
func (p *plan) move(m *merge) {
	mine := p.of[m.Source]
	p.of[m.Source] = nil
	for _, values := range m.moved {
		mine = append(mine, int32(len(p.rows)))
		p.rows = append(p.rows, row{profile: m.Source, stored: values})
	}
	for _, i := range mine {
		r := &p.rows[i]
		if r.out = m.Destination.IsZero() || !p.fits(r, m.Destination); !r.out {
			r.profile = m.Destination
			p.of[m.Destination] = append(p.of[m.Destination], i)
		}
	}
}

// fits adds the key of an event under another profile. It is false if there is one already.
func (p *plan) fits(r *row, destination fact.ProfileID) bool {
	metric, uid := r.key()
	k := p.hash.event(destination, metric, uid)
	return p.fresh.Add(k) && !p.d.keys.Has(k)
}

func (r *row) key() (fact.MetricID, string) {
	if r.stored == nil {
		return r.e.Metric, r.e.UID
	}
	metric, _ := r.stored[evMetric].(uint64)
	uid, _ := r.stored[evUID].(string)
	return fact.MetricID(metric), uid
}

// makeColumns makes the columns that dimensions and properties want. They stay, whatever becomes of the batch.
func (p *plan) makeColumns(ctx context.Context) error {
	d := p.d
	var events, profiles []column
	widened := false
	for i := range p.rows {
		if e := p.rows[i].e; e != nil {
			for _, dim := range e.Dims {
				p.places = append(p.places, int32(d.events.place(dim.Name, kindText, func(c column) { events = append(events, c) })))
			}
		}
	}
	for _, e := range p.people {
		for _, m := range e.state.Properties {
			k, scalar := kindOfJSON(m.Value)
			if !scalar {
				continue
			}
			i := d.profiles.place(m.Name, k, func(c column) { profiles = append(profiles, c) })
			if i >= 0 && d.profiles.extra[i].kind != k && d.profiles.extra[i].kind != kindText {
				d.profiles.widen(i)
				widened = true
			}
		}
	}
	if len(events)+len(profiles) == 0 && !widened {
		return nil
	}
	return d.tx(ctx, func() error {
		if err := d.alter(ctx, d.events, events, false); err != nil {
			return err
		}
		return d.alter(ctx, d.profiles, profiles, widened)
	})
}

// alter gives the tail of a shelf new columns. If the type of one changed, a new tail begins: the
// tables before it keep theirs, and the view makes the best of it.
func (d *DB) alter(ctx context.Context, s *shelf, added []column, widened bool) error {
	if len(added) == 0 && !widened {
		return nil
	}
	first := len(s.extra) - len(added)
	for i := range added {
		if err := d.exec(ctx, sqlAddColumn(s, first+i)); err != nil {
			return err
		}
	}
	if widened {
		if err := d.exec(ctx, sqlWidenColumns(s)); err != nil {
			return err
		}
		return d.rotate(ctx, s)
	}
	for i := range added {
		c := s.extra[first+i]
		if err := d.exec(ctx, sqlAlter(s, c)); err != nil {
			return err
		}
		s.tail().columns = append(s.tail().columns, c)
	}
	return d.exec(ctx, s.view())
}
