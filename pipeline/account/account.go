// Package account counts for the tenant: how many events there were, the sum of their values
// and how many profiles they were of, for each metric and each value of each dimension, by
// hours, days and months of the tenant's time zone. The numbers are exact and final: an event counts once, in the bucket
// of its own time, however late and however often it comes; those of a merged profile follow it.
//
// A Processor counts the facts of one partition. What it counted since the last commit it has in memory, combined by
// row; a commit writes that as operands, which the state merges. A Reader adds both up, so an event is
// visible at once. Profiles are in one partition each, so numbers of partitions add up.
//
// For each event there is a row that says that it was counted and in which buckets. Of it are made: that a
// repeated event is not counted; that a merge takes all events of a profile out of its buckets and puts them
// into those of the destination, which may have had some of them itself.
package account

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Version is of the rows; it belongs into keyed.Spec.
const Version = 1

// Options are the configurable parts.
type Options struct {
	Zone         string            `toml:"zone" doc:"Time zone whose hours, days and months are counted, such as Europe/Berlin, for tenants that have none of their own."`
	Zones        map[string]string `toml:"zones" doc:"Time zones of tenants. A change applies to a tenant from its first event in a new state on: delete the state of the account stage to count anew."`
	DedupeWindow units.Duration    `toml:"dedupe_window" doc:"An event that comes again within this time is recognised. At present none is forgotten."`
	Profiles     int               `toml:"profiles" doc:"Profiles that each partition remembers in memory; others are looked up in the state."`
	Filter       units.Size        `toml:"filter" doc:"Memory of each partition for telling new events from repeated ones without a look into the state."`
	Pending      units.Size        `toml:"pending" doc:"Memory of each partition for counts since the last commit; when it is full a commit comes early."`
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	return Options{Zone: "UTC", DedupeWindow: units.Duration(90 * 24 * time.Hour), Profiles: 1 << 19, Filter: 8 << 20, Pending: 24 << 20}
}

// Validate names the first key that cannot be used.
func (o Options) Validate() error {
	if _, err := newZones(o); err != nil {
		return err
	}
	checks := []struct {
		bad  bool
		text string
	}{
		{o.DedupeWindow < 0, "dedupe_window: must not be negative"},
		{o.Profiles < 1000, "profiles: must be at least 1000"},
		{o.Filter < 64<<10 || o.Filter > 4<<30, "filter: must be between 64KiB and 4GiB"},
		{o.Pending < 1<<20 || o.Pending > 1<<30, "pending: must be between 1MiB and 1GiB"},
	}
	for _, c := range checks {
		if c.bad {
			return errors.New("account: " + c.text)
		}
	}
	return nil
}

// Deps are what a processor works with.
type Deps struct {
	Facts      stream.Topic // the input, to which transfers go as well
	Partitions int32        // of the first log: so many markers make a merge complete
	Logger     *slog.Logger // nil drops
}

// Stats count what a processor did since it was made.
type Stats struct {
	Events, Repeated       int64 // counted, and not counted because they were before
	Moved                  int64 // events that came from a merged profile
	Conflicts              int64 // of those, the ones that the destination had itself
	Merges, Deletions      int64 // completed
	Lookups                int64 // repeated or not, that needed the state
	Operands, OperandBytes int64 // written
}

// Processor counts one partition. It implements keyed.Processor.
type Processor struct {
	o     Options
	d     Deps
	a     stream.Assignment
	store *keyed.Store
	seen  *keyed.Seen
	zones *zones

	// What only the partition's goroutine uses.
	profiles profiles
	filter   filter
	covered  int // events of a profile that are put into the filter at most
	sketch   sketch
	scratch  scratch
	items    []item
	flushed  bool // Flush was called: all that is written is committed
	numbers  numbers
	saved    numbers // in the state, or will be with the next commit
	value    eventValue
	key      []byte
	f        fact.Fact

	// mu is held while what a Reader sees changes, and while it takes a copy of it.
	mu      sync.Mutex
	tenants map[string]*tenant
	metrics map[uint32]*metric
	dims    map[string]uint32
	names   []string  // of dimensions, by number
	open    *window   // what is being counted
	written []*window // what the next commit brings, or the last one brought
	spare   *window

	// steady is held for reading by a Reader that commits overtook too often, for writing by Flush.
	steady sync.RWMutex
	count  struct {
		events, repeated, moved, conflicts, merges, deletions, lookups, operands, bytes atomic.Int64
	}
}

// NewProcessor checks the options and returns what keyed.Spec wants as New.
func NewProcessor(o Options, d Deps) (func(*keyed.Store, stream.Assignment) (keyed.Processor, error), error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if d.Facts == nil || d.Partitions < 1 {
		return nil, errors.New("account: facts and partitions are needed")
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	return func(s *keyed.Store, a stream.Assignment) (keyed.Processor, error) { return newProcessor(o, d, s, a) }, nil
}

func newProcessor(o Options, d Deps, s *keyed.Store, a stream.Assignment) (*Processor, error) {
	z, err := newZones(o)
	if err != nil {
		return nil, err
	}
	seen, err := keyed.OpenSeen(s)
	if err != nil {
		return nil, err
	}
	p := &Processor{
		o: o, d: d, a: a, store: s, seen: seen, zones: z, flushed: true,
		profiles: newProfiles(o.Profiles, int(o.Filter)/4), filter: *newFilter(int(o.Filter) * 3 / 4), covered: maxCovered, sketch: sketch{many: muchEvents},
		tenants: map[string]*tenant{}, metrics: map[uint32]*metric{}, dims: map[string]uint32{},
	}
	gen, err := p.load()
	if err != nil {
		return nil, err
	}
	p.open = newWindow(gen + 1)
	return p, nil
}

// Stats may be called at any time.
func (p *Processor) Stats() Stats {
	c := &p.count
	return Stats{
		Events: c.events.Load(), Repeated: c.repeated.Load(), Moved: c.moved.Load(), Conflicts: c.conflicts.Load(), Merges: c.merges.Load(),
		Deletions: c.deletions.Load(), Lookups: c.lookups.Load(), Operands: c.operands.Load(), OperandBytes: c.bytes.Load(),
	}
}

// Apply implements keyed.Processor.
func (p *Processor) Apply(tx *keyed.Tx, recs []stream.Record) error {
	p.turn()
	for i := range recs {
		if err := p.apply(tx, &recs[i]); err != nil {
			return fmt.Errorf("account: record at offset %d: %w", recs[i].Offset, err)
		}
		if p.open.size() > int(p.o.Pending) {
			if err := p.write(tx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Processor) apply(tx *keyed.Tx, r *stream.Record) error {
	f := &p.f
	if err := f.Parse(r.Data); err != nil {
		return err
	}
	switch {
	case f.Kind == fact.KindEvent && f.Event != nil:
	case f.Kind == fact.KindMarker && f.Merge != nil:
	case f.Kind == fact.KindTransfer && f.Transfer != nil && f.Transfer.Level == fact.StageAccount:
	default:
		return nil // for others
	}
	first, err := p.seen.First(tx, uint8(f.From.Stage), f.From.Partition, f.From.Offset, f.From.N)
	if err != nil || !first {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch f.Kind {
	case fact.KindEvent:
		return p.event(tx, f, r.Offset)
	case fact.KindMarker:
		return p.marker(tx, f, r.Offset)
	default:
		return p.transfer(tx, f, r.Offset)
	}
}

// turn does between two commits what must not be done within one: what the last one brought is forgotten, caches are trimmed.
func (p *Processor) turn() {
	if !p.flushed {
		return
	}
	p.flushed = false
	p.profiles.trim()
	p.filter.turn()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trim()
	for _, w := range p.written {
		p.spare = w
	}
	p.written = p.written[:0]
}

// Flush implements keyed.Processor.
func (p *Processor) Flush(tx *keyed.Tx) error {
	p.steady.Lock()
	defer p.steady.Unlock()
	p.flushed = true
	if p.numbers != p.saved {
		p.saved = p.numbers
		if err := tx.Set(numbersKey(), p.numbers.append(nil)); err != nil {
			return err
		}
	}
	return p.write(tx)
}

// write writes the open window and begins the next one. It stays visible until it is committed.
func (p *Processor) write(tx *keyed.Tx) error {
	w := p.open
	if w.empty() {
		return nil
	}
	if err := p.writeRows(tx, w); err != nil {
		return err
	}
	if err := p.writeEvents(tx, w); err != nil {
		return err
	}
	if err := tx.Put(genKey(), appendGen(nil, w.gen)); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.written = append(p.written, w)
	if p.open, p.spare = p.spare, nil; p.open == nil {
		p.open = newWindow(w.gen + 1)
	} else {
		p.open.reset(w.gen + 1)
	}
	return nil
}

func (p *Processor) writeRows(tx *keyed.Tx, w *window) error {
	x := &p.scratch
	p.items = w.bySeries(p.items[:0])
	n, bytes := int64(0), int64(0)
	defer func() {
		p.count.operands.Add(n)
		p.count.bytes.Add(bytes)
	}()
	put := func(key, operand []byte) error {
		n, bytes = n+1, bytes+int64(len(key)+len(operand))
		return tx.Merge(key, operand)
	}
	daily := p.items[:0] // those that have rows of days
	for _, it := range p.items {
		s := &w.series[it.at]
		much := p.sketch.much(s)
		operand, err := w.month(s, much, x)
		if err == nil && len(operand) > 0 {
			err = put(w.keyOf(s), operand)
		}
		if err != nil {
			return err
		}
		if much || w.leaving(s) {
			it.head = 0
			if much {
				it.head = 1
			}
			daily = append(daily, it)
		}
	}
	for _, it := range daily {
		s := &w.series[it.at]
		err := w.days(s, it.head == 1, x, func(day uint8, operand []byte) error {
			x.key = dayKey(x.key[:0], w.keyOf(s), int(s.dayAt), day)
			return put(x.key, operand)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Processor) writeEvents(tx *keyed.Tx, w *window) error {
	p.items = w.byProfile(p.items[:0])
	for _, it := range p.items {
		e := &w.events[it.at]
		if e.len == gone {
			continue
		}
		p.key = e.append(p.key[:0])
		if err := tx.Put(p.key, w.values[e.at:e.at+e.len]); err != nil {
			return err
		}
	}
	return nil
}

// event counts what came from the log.
func (p *Processor) event(tx *keyed.Tx, f *fact.Fact, offset int64) error {
	e := f.Event
	m, err := p.metric(tx, f.Tenant, e.Metric, e.Service, e.Name, f.At)
	if err != nil {
		return err
	}
	who, err := p.profile(tx, f.Profile)
	if err != nil {
		return err
	}
	v := &p.value
	v.at, v.value, v.dims = e.Time.Unix(), e.Value, v.dims[:0]
	for i := range e.Dims {
		if err := p.addDim(tx, v, e.Dims[i].Name, e.Dims[i].Value); err != nil {
			return err
		}
	}
	p.key = append(p.key[:0], e.UID...)
	h := sha256.Sum256(p.key)
	k := eventKey{profile: who.dense, metric: m.number, uid: [16]byte(h[:16])}
	if who.state == profileMoved {
		return p.pass(tx, f, &k, v, offset)
	}
	if fresh, err := p.tally(tx, &k, v, m.tenant, who); err != nil || !fresh {
		p.count.repeated.Add(1)
		return err
	}
	p.count.events.Add(1)
	return nil
}

// addDim adds a dimension to an event. Of several values of one name the first counts.
func (p *Processor) addDim(tx *keyed.Tx, v *eventValue, name, value string) error {
	if name == "" {
		return nil // the total
	}
	n, err := p.dim(tx, name)
	if err != nil {
		return err
	}
	for _, d := range v.dims {
		if d.number == n {
			return nil
		}
	}
	if len(v.dims) < cap(v.dims) {
		v.dims = v.dims[:len(v.dims)+1]
	} else {
		v.dims = append(v.dims, dim{})
	}
	d := &v.dims[len(v.dims)-1]
	d.number, d.value = n, append(d.value[:0], value...)
	return nil
}

// tally counts an event unless it was counted before.
func (p *Processor) tally(tx *keyed.Tx, k *eventKey, v *eventValue, t *tenant, who profile) (fresh bool, err error) {
	known, err := p.known(tx, k, who)
	if err != nil || known {
		return false, err
	}
	p.filter.add(k.hash())
	at := len(p.open.values)
	if who.state != profileDeleted {
		p.open.values = v.append(p.open.values)
	}
	p.open.note(k, at)
	p.change(k, v, t, 1)
	return true, nil
}

// known reports whether an event was counted before.
func (p *Processor) known(tx *keyed.Tx, k *eventKey, who profile) (bool, error) {
	if p.filter.covers(who.since) && !p.filter.has(k.hash()) {
		return false, nil
	}
	if p.open.event(k) != nil {
		return true, nil
	}
	for _, w := range p.written {
		if w.event(k) != nil {
			return true, nil
		}
	}
	p.count.lookups.Add(1)
	p.key = k.append(p.key[:0])
	return tx.Has(p.key)
}

// change adds an event to all its series, or takes it out of them.
func (p *Processor) change(k *eventKey, v *eventValue, t *tenant, sign int64) {
	b := t.clock.at(v.at)
	p.key = appendSeries(p.key[:0], k.metric, 0, b.month)
	p.open.add(p.key, len(p.key)-1, k.metric, 0, b, v.value, k.profile, sign)
	for i := range v.dims {
		d := &v.dims[i]
		p.key = appendSeries(p.key[:0], k.metric, d.number, b.month)
		at := len(p.key) - 1
		p.key = append(p.key, d.value...)
		p.open.add(p.key, at, k.metric, d.number, b, v.value, k.profile, sign)
	}
}
