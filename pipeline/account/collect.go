package account

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
)

// cellNumbers is what one bucket has.
type cellNumbers struct {
	count  int64
	sum    Sum
	unique int64
	ids    *union // until they are counted
}

// lines has the buckets of each value.
type lines map[string]map[int64]*cellNumbers

// collector adds up rows of one partition.
type collector struct {
	plan    *plan
	lines   lines
	cells   int                      // in lines
	open    map[int64][]*cellNumbers // have ids
	buckets map[int64]int64          // of hours that were looked up; noBucket is none
}

const noBucket = -1 << 62

func newCollector(p *plan) *collector {
	return &collector{plan: p, lines: lines{}, open: map[int64][]*cellNumbers{}, buckets: map[int64]int64{}}
}

// bucket is plan.bucket, remembered.
func (c *collector) bucket(at int64) (int64, bool) {
	id, known := c.buckets[at]
	if !known {
		var ok bool
		if id, ok = c.plan.bucket(at); !ok {
			id = noBucket
		}
		c.buckets[at] = id
	}
	return id, id != noBucket
}

// add adds a row of a value up. whole says that the month's row is to be taken as a whole.
func (c *collector) add(k *rowKey, value, data []byte, whole bool) error {
	r := row{rest: data}
	var e entry
	for {
		if _, ok := r.next(&e); !ok {
			break
		}
		id, ok := int64(k.month), whole
		if e.slot != wholeMonth && !whole {
			id, ok = c.bucket(startOf(k.month, e.slot))
		}
		if !ok {
			continue
		}
		if err := c.entry(value, id, &e); err != nil {
			return err
		}
	}
	if r.bad {
		return errDamaged
	}
	return nil
}

func (c *collector) entry(value []byte, id int64, e *entry) error {
	line := c.lines[string(value)]
	if line == nil {
		line = map[int64]*cellNumbers{}
		c.lines[string(value)] = line
	}
	n := line[id]
	if n == nil {
		if c.cells++; c.plan.most > 0 && c.cells > c.plan.most {
			return ErrTooMany
		}
		n = &cellNumbers{}
		line[id] = n
	}
	n.count += e.count
	n.sum = n.sum.Add(e.sum)
	if !c.plan.unique || e.head&entryAdds == 0 {
		return nil
	}
	if n.ids == nil {
		n.ids = &union{}
		c.open[id] = append(c.open[id], n)
	}
	return n.ids.add(e.adds)
}

// passed counts the ids of intervals that are over, so that not all have to be in memory at once.
func (c *collector) passed(at int64) {
	for id, cells := range c.open {
		if c.plan.over(id) > at {
			continue
		}
		for _, n := range cells {
			n.unique += n.ids.size()
			n.ids = nil
		}
		delete(c.open, id)
	}
}

// never is behind all times.
const never = 1 << 62

// layer is what a window has for a question: operands by key.
type layer struct {
	gen  uint64
	rows map[string][]byte
}

// subject is what a question is about, by the numbers of a partition.
type subject struct {
	metric, dim uint32
	zone        *time.Location // in which it is counted
	values      []wantedValue  // nil: all
	layers      []layer
	fresh       []freshValue
}

// wantedValue is a value that is asked for.
type wantedValue struct {
	text   []byte
	number uint32 // 0: it has none, or had none when the windows were looked at
	place  ref    // in the windows; 0: in none
}

// subject finds it, and copies what is not committed. It returns nil if nothing was counted.
func (p *Processor) subject(q *plan, tenant string) (*subject, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &subject{fresh: p.values.fresh}
	t, m, err := p.lookup(tenant, q)
	if err != nil || m == nil {
		return nil, err
	}
	s.metric, s.zone = m.number, t
	if q.dim != "" {
		var known bool
		if s.dim, known = p.dims[q.dim]; !known {
			return nil, nil
		}
	}
	if err := q.check(s.zone); err != nil {
		return nil, err
	}
	for _, text := range q.values {
		v := wantedValue{text: []byte(text)}
		if s.dim != 0 {
			if v.number, v.place, err = p.knownValue(s.dim, v.text); err != nil {
				return nil, err
			}
		}
		s.values = append(s.values, v)
	}
	for _, w := range p.windows() {
		l := layer{w.gen, map[string][]byte{}}
		if err := p.copyWindow(w, q, s, l.rows); err != nil {
			return nil, err
		}
		s.layers = append(s.layers, l)
	}
	return s, nil
}

// copyWindow copies what a window has for a question.
func (p *Processor) copyWindow(w *window, q *plan, s *subject, to map[string][]byte) error {
	x := &scratch{}
	if s.values == nil {
		for i := range w.series {
			if r := &w.series[i]; r.metric == s.metric && r.dim == s.dim {
				if err := p.copyRows(w, r, to, x); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, c := range q.pieces(s.zone) {
		for _, v := range s.values {
			for _, by := range v.refs(s.dim) {
				if r := w.find(seriesID{s.metric, by, c.month}); r != nil {
					if err := p.copyRows(w, r, to, x); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// refs are what a value may go by in a window.
func (v *wantedValue) refs(dim uint32) (out []ref) {
	if dim == 0 {
		return []ref{0}
	}
	if v.number != 0 {
		out = append(out, ref(v.number))
	}
	if v.place != 0 {
		out = append(out, v.place)
	}
	return out
}

// lookup finds the zone of a tenant and a metric's row, nil if there is none.
func (p *Processor) lookup(tenant string, q *plan) (*time.Location, *metric, error) {
	if t := p.tenants[tenant]; t != nil {
		if m := t.metrics[q.metric]; m != nil {
			return t.clock.zone, m, nil
		}
	}
	v, err := p.store.Get(metricKey(q.tenant, q.metric))
	if errors.Is(err, keyed.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	m := &metric{}
	if err := m.parse(v); err != nil {
		return nil, nil, err
	}
	if v, err = p.store.Get(tenantKey(q.tenant)); err != nil {
		return nil, nil, err
	}
	zone := p.zones.of(tenant)
	if string(v) != zone.String() {
		if zone, err = time.LoadLocation(string(v)); err != nil {
			return nil, nil, err
		}
	}
	return zone, m, nil
}

// copyRows copies a series as operands, where only those who leave matter for other rows than the month's.
func (p *Processor) copyRows(w *window, s *series, to map[string][]byte, x *scratch) error {
	operand, err := w.month(s, false, x)
	if err != nil {
		return err
	}
	to[string(p.appendRow(nil, s, 0))] = bytes.Clone(operand)
	if !w.leaving(s) {
		return nil
	}
	return w.days(s, false, x, func(day uint8, operand []byte) error {
		to[string(p.appendRow(nil, s, day))] = bytes.Clone(operand)
		return nil
	})
}

// attempts are how often a reader that a commit overtakes tries again before it keeps the next one waiting.
const attempts = 3

// collect adds up what a partition has.
func (p *Processor) collect(ctx context.Context, q *plan, tenant string) (lines, error) {
	for range attempts {
		if l, ok, err := p.try(ctx, q, tenant); err != nil || ok {
			return l, err
		}
	}
	p.steady.RLock()
	defer p.steady.RUnlock()
	for { // what was flushed already may still be committed, but nothing after it
		if l, ok, err := p.try(ctx, q, tenant); err != nil || ok {
			return l, err
		}
	}
}

// try adds up what is committed and what is not. It fails if something is committed meanwhile.
func (p *Processor) try(ctx context.Context, q *plan, tenant string) (lines, bool, error) {
	s, err := p.subject(q, tenant)
	if err != nil || s == nil {
		return nil, true, err
	}
	before, err := committed(p.store)
	if err != nil {
		return nil, false, err
	}
	if err := s.number(p.store); err != nil {
		return nil, false, err
	}
	pending, err := s.pending(before)
	if err != nil {
		return nil, false, err
	}
	c := newCollector(q)
	if err := p.read(ctx, c, s, pending); err != nil {
		return nil, false, err
	}
	c.passed(never)
	after, err := committed(p.store)
	return c.lines, before == after, err
}

// number finds the numbers that were committed after the windows were looked at: rows may be under them by now.
func (s *subject) number(store *keyed.Store) (err error) {
	for i := range s.values {
		if v := &s.values[i]; v.number == 0 && s.dim != 0 {
			if v.number, err = storedNumber(store, s.dim, v.text); err != nil {
				return err
			}
		}
	}
	return nil
}

// pending combines what is not committed.
func (s *subject) pending(committed uint64) (map[string][]byte, error) {
	var out map[string][]byte
	for _, l := range s.layers {
		if l.gen <= committed {
			continue
		}
		if out == nil {
			out = l.rows
			continue
		}
		for k, newer := range l.rows {
			if older, both := out[k]; both {
				var err error
				if newer, err = (Merger{}).Combine(nil, older, newer); err != nil {
					return nil, err
				}
			}
			out[k] = newer
		}
	}
	return out, nil
}

// read calls the collector for all rows in the order of months and days.
func (p *Processor) read(ctx context.Context, c *collector, s *subject, pending map[string][]byte) error {
	r := &rowReader{ctx: ctx, p: p, c: c, pending: pending, keys: slices.Sorted(maps.Keys(pending)), fresh: s.fresh}
	if !c.plan.bounded {
		prefix := appendPlace(nil, s.metric, s.dim, 0, 0)
		return r.scan(prefix[:len(prefix)-3], nil, c.plan.interval == Month && s.zone.String() == c.plan.zone.String())
	}
	for _, piece := range c.plan.pieces(s.zone) {
		if err := r.piece(s, piece); err != nil {
			return err
		}
	}
	return nil
}

// rowReader reads rows together with what is pending of them.
type rowReader struct {
	ctx     context.Context
	p       *Processor
	c       *collector
	pending map[string][]byte
	keys    []string // of pending, in order
	fresh   []freshValue
	texts   map[uint32][]byte // of numbers that were met; nil: none was
	n       int
}

func (r *rowReader) piece(s *subject, c piece) error {
	if s.values == nil {
		month := appendPlace(nil, s.metric, s.dim, c.month, 0)
		if err := r.scan(month, nil, c.whole); err != nil || c.whole {
			return err
		}
		return r.scan(appendPlace(nil, s.metric, s.dim, c.month, c.first), appendPlace(nil, s.metric, s.dim, c.month, c.last+1), false)
	}
	for day := range c.last + 1 {
		if day > 0 && (c.whole || day < c.first) {
			continue
		}
		for _, v := range s.values {
			if err := r.get(appendTextRow(nil, s.metric, s.dim, c.month, day, v.text), c.whole); err != nil {
				return err
			}
			if v.number == 0 {
				continue
			}
			if err := r.get(appendNumberRow(nil, s.metric, s.dim, c.month, day, v.number), c.whole); err != nil {
				return err
			}
		}
	}
	return nil
}

// get reads one row.
func (r *rowReader) get(key []byte, whole bool) error {
	v, err := r.p.store.Get(key)
	if errors.Is(err, keyed.ErrNotFound) {
		v, err = nil, nil
	}
	if err != nil {
		return err
	}
	if operand := r.pending[string(key)]; operand != nil {
		if v, err = (Merger{}).Combine(key, v, operand); err != nil {
			return err
		}
	}
	if v == nil {
		return nil
	}
	return r.row(key, v, whole)
}

// scan reads all rows from a key to another, or that begin with the first one if there is no other. With whole it takes months' rows only.
func (r *rowReader) scan(from, to []byte, whole bool) error {
	if to == nil {
		to = keyed.After(from)
	}
	at, _ := slices.BinarySearch(r.keys, string(from))
	var inner error
	err := r.p.store.Scan(from, to, func(key, value []byte) bool {
		for ; at < len(r.keys) && r.keys[at] < string(key) && inner == nil; at++ {
			inner = r.row([]byte(r.keys[at]), r.pending[r.keys[at]], whole)
		}
		if inner != nil {
			return false
		}
		if at < len(r.keys) && r.keys[at] == string(key) {
			value, inner = (Merger{}).Combine(key, bytes.Clone(value), r.pending[r.keys[at]])
			at++
		}
		if inner == nil {
			inner = r.row(key, value, whole)
		}
		return inner == nil
	})
	for ; at < len(r.keys) && r.keys[at] < string(to) && inner == nil; at++ {
		inner = r.row([]byte(r.keys[at]), r.pending[r.keys[at]], whole)
	}
	return errors.Join(inner, err)
}

func (r *rowReader) row(key, value []byte, whole bool) error {
	if r.n++; r.n%1024 == 0 {
		if err := r.ctx.Err(); err != nil {
			return err
		}
	}
	k, ok := parseRowKey(key)
	if !ok {
		return errDamaged
	}
	if whole && k.day != 0 {
		return nil
	}
	if len(r.c.open) > 0 {
		r.c.passed((firstDate(k.month)+int64(max(k.day, 1))-1)*daySeconds - farthest)
	}
	var text []byte
	if r.c.plan.by { // otherwise all together, so that a profile is one
		var err error
		if text, err = r.text(&k); err != nil {
			return err
		}
	}
	return r.c.add(&k, text, value, whole)
}

// text is the value that a row is of.
func (r *rowReader) text(k *rowKey) ([]byte, error) {
	if k.number == 0 {
		return k.text, nil
	}
	if r.texts == nil {
		r.texts = map[uint32][]byte{}
		for _, f := range r.fresh {
			r.texts[f.number] = []byte(f.text)
		}
	}
	t, known := r.texts[k.number]
	if !known {
		var err error
		if t, err = r.p.shown.get(r.p.store, k.number); err != nil {
			return nil, err
		}
		r.texts[k.number] = t
	}
	return t, nil
}
