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

// add adds a row up. whole says that the month's row is to be taken as a whole.
func (c *collector) add(k *rowKey, data []byte, whole bool) error {
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
		value := k.value
		if !c.plan.by {
			value = nil // all together, so that a profile is one
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
	layers      []layer
}

// subject finds it, and copies what is not committed. It returns nil if nothing was counted.
func (p *Processor) subject(q *plan, tenant string) (*subject, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &subject{}
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
	x := &scratch{}
	for _, w := range p.windows() {
		l := layer{w.gen, map[string][]byte{}}
		if q.values == nil {
			err = w.copySeries(s, l.rows, x)
		} else {
			for _, c := range q.pieces(s.zone) {
				for _, v := range q.values {
					key := append(appendSeries(nil, s.metric, s.dim, c.month), v...)
					if r := w.find(key); r != nil {
						err = errors.Join(err, w.copyRows(r, l.rows, x))
					}
				}
			}
		}
		if err != nil {
			return nil, err
		}
		s.layers = append(s.layers, l)
	}
	return s, nil
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

// copySeries copies all rows of a dimension.
func (w *window) copySeries(of *subject, to map[string][]byte, x *scratch) error {
	for i := range w.series {
		if s := &w.series[i]; s.metric == of.metric && s.dim == of.dim {
			if err := w.copyRows(s, to, x); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyRows copies a series as operands, where only those who leave matter for other rows than the month's.
func (w *window) copyRows(s *series, to map[string][]byte, x *scratch) error {
	operand, err := w.month(s, false, x)
	if err != nil {
		return err
	}
	to[string(w.keyOf(s))] = bytes.Clone(operand)
	if !w.leaving(s) {
		return nil
	}
	return w.days(s, false, x, func(day uint8, operand []byte) error {
		to[string(dayKey(nil, w.keyOf(s), int(s.dayAt), day))] = bytes.Clone(operand)
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
	r := &rowReader{ctx: ctx, p: p, c: c, pending: pending, keys: slices.Sorted(maps.Keys(pending))}
	if !c.plan.bounded {
		prefix := appendSeries(nil, s.metric, s.dim, 0)
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
	n       int
}

func (r *rowReader) piece(s *subject, c piece) error {
	month := appendSeries(nil, s.metric, s.dim, c.month)
	at := len(month) - 1
	if r.c.plan.values != nil {
		for day := range int(c.last) + 1 {
			if day > 0 && (c.whole || day < int(c.first)) {
				continue
			}
			for _, v := range r.c.plan.values {
				if err := r.get(append(dayKey(nil, month, at, uint8(day)), v...), c.whole); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := r.scan(month, nil, c.whole); err != nil || c.whole {
		return err
	}
	return r.scan(dayKey(nil, month, at, c.first), dayKey(nil, month, at, c.last+1), false)
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
	return r.c.add(&k, value, whole)
}
