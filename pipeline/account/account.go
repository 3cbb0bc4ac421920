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
// into those of the destination, which may have had some of them itself. No row is ever forgotten, so a repeated event is
// recognised however late it comes.
//
// Values of dimensions that come often have numbers, by which their rows are shorter; see values.go.
package account

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/bloom"
	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Version is of the rows; it belongs into keyed.Spec.
const Version = 2

// Options are the configurable parts.
type Options struct {
	Zone     string            `toml:"zone" doc:"Time zone whose hours, days and months are counted, such as Europe/Berlin, for tenants that have none of their own."`
	Zones    map[string]string `toml:"zones" doc:"Time zones of tenants. A change applies to a tenant from its first event in a new state on: delete the state of the account stage to count anew."`
	Profiles int               `toml:"profiles" doc:"Profiles that each partition remembers in memory; others are looked up in the state."`
	Values   int               `toml:"values" doc:"Values of dimensions that each partition remembers in memory, about 80 bytes each. Those that come again while they are remembered take less room in the state."`
	Filter   units.Size        `toml:"filter" doc:"Memory of each partition for telling new events from repeated ones without a look into the state."`
	Pending  units.Size        `toml:"pending" doc:"Memory of each partition for counts since the last commit; when it is full a commit comes early."`
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	return Options{Zone: "UTC", Profiles: 1 << 20, Values: 1 << 18, Filter: 16 << 20, Pending: 24 << 20}
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
		{o.Profiles < 1000, "profiles: must be at least 1000"},
		{o.Values < 1000 || o.Values > 1<<28, "values: must be between 1000 and 268435456"},
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
	Facts      stream.Topic          // the input, to which transfers go as well
	Partitions int32                 // of the first log: so many markers make a merge complete
	Logger     *slog.Logger          // nil drops
	Registerer prometheus.Registerer // nil registers nothing
}

// Processor counts one partition. It implements keyed.Processor.
type Processor struct {
	o     Options
	d     Deps
	a     stream.Assignment
	store *keyed.Store
	seen  *keyed.Seen
	zones *zones
	m     *metrics

	// What only the partition's goroutine uses.
	profiles profiles
	values   values        // what a Reader needs of it changes under mu
	filter   *bloom.Recent // events: those that are covered by it and not in it are new
	covered  int           // events of a profile that are put into the filter at most
	sketch   sketch
	scratch  scratch
	done     counts // since metrics were told
	flushed  bool   // Flush was called: all that is written is committed
	numbers  numbers
	saved    numbers // in the state, or will be with the next commit
	value    eventValue
	key      []byte
	view     view
	daily    []dailySeries

	// mu is held while what a Reader sees changes, and while it takes a copy of it.
	mu      sync.Mutex
	tenants map[string]*tenant
	last    *tenant // of them, the last one
	metrics map[uint32]*metric
	dims    map[string]uint32
	names   []string  // of dimensions, by number
	open    *window   // what is being counted
	written []*window // what the next commit brings, or the last one brought
	spare   *window

	// steady is held for reading by a Reader that commits overtook too often, for writing by Flush.
	steady sync.RWMutex
	shown  readTexts
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
	m, err := newMetrics(d.Registerer)
	if err != nil {
		return nil, err
	}
	return func(s *keyed.Store, a stream.Assignment) (keyed.Processor, error) { return newProcessor(o, d, m, s, a) }, nil
}

func newProcessor(o Options, d Deps, m *metrics, s *keyed.Store, a stream.Assignment) (*Processor, error) {
	z, err := newZones(o)
	if err != nil {
		return nil, err
	}
	seen, err := keyed.OpenSeen(s)
	if err != nil {
		return nil, err
	}
	p := &Processor{
		o: o, d: d, a: a, m: m, store: s, seen: seen, zones: z, flushed: true, values: newValues(o.Values),
		profiles: newProfiles(o.Profiles, int(o.Filter)/4), filter: bloom.NewRecent(int(o.Filter) * 3 / 4), covered: maxCovered, sketch: sketch{many: muchEvents},
		tenants: map[string]*tenant{}, metrics: map[uint32]*metric{}, dims: map[string]uint32{},
	}
	gen, err := p.load()
	if err != nil {
		return nil, err
	}
	p.open = newWindow(gen + 1)
	return p, nil
}

// Apply implements keyed.Processor.
func (p *Processor) Apply(tx *keyed.Tx, recs []stream.Record) error {
	p.turn()
	defer p.report()
	for len(recs) > 0 {
		n := min(len(recs), atOnce)
		if err := p.applySome(tx, recs[:n]); err != nil {
			return err
		}
		recs = recs[n:]
		if p.open.size() > int(p.o.Pending) {
			if err := p.write(tx); err != nil {
				return err
			}
		}
	}
	return nil
}

// atOnce is how many records are applied before a Reader may look.
const atOnce = 64

func (p *Processor) applySome(tx *keyed.Tx, recs []stream.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range recs {
		if err := p.apply(tx, &recs[i]); err != nil {
			return fmt.Errorf("account: record at offset %d: %w", recs[i].Offset, err)
		}
	}
	return nil
}

func (p *Processor) apply(tx *keyed.Tx, r *stream.Record) error {
	v := &p.view
	switch is, err := v.parseEvent(r.Data); {
	case err != nil:
		return err
	case !is:
		return p.other(tx, r)
	}
	if first, err := p.first(tx, &v.from); err != nil || !first {
		return err
	}
	return p.event(tx, v, r.Offset)
}

// other applies what is no event.
func (p *Processor) other(tx *keyed.Tx, r *stream.Record) error {
	if k := fact.Kind(r.Data[1]); k != fact.KindMarker && k != fact.KindTransfer {
		return nil
	}
	f := &fact.Fact{}
	if err := f.Parse(r.Data); err != nil {
		return err
	}
	marker := f.Kind == fact.KindMarker && f.Merge != nil
	if !marker && (f.Kind != fact.KindTransfer || f.Transfer == nil || f.Transfer.Level != fact.StageAccount) {
		return nil // for others
	}
	if first, err := p.first(tx, &f.From); err != nil || !first {
		return err
	}
	if marker {
		return p.marker(tx, f, r.Offset)
	}
	return p.transfer(tx, f, r.Offset)
}

func (p *Processor) first(tx *keyed.Tx, from *fact.Origin) (bool, error) {
	return p.seen.First(tx, uint8(from.Stage), from.Partition, from.Offset, from.N)
}

// report tells the metrics what was done.
func (p *Processor) report() {
	p.m.add(&p.done)
	p.done = counts{}
}

// turn does between two commits what must not be done within one: what the last one brought is forgotten, caches are trimmed.
func (p *Processor) turn() {
	if !p.flushed {
		return
	}
	p.flushed = false
	p.profiles.trim()
	p.filter.Turn()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trim()
	for _, w := range p.written {
		p.spare = w
	}
	p.written = p.written[:0]
	p.values.turn()
}

// Flush implements keyed.Processor.
func (p *Processor) Flush(tx *keyed.Tx) error {
	p.steady.Lock()
	defer p.steady.Unlock()
	defer p.report()
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

// dailySeries is a series that has rows of days.
type dailySeries struct {
	at   uint32
	much bool
}

// writeRows writes the rows of months, then those of days. Their order is the store's to make.
func (p *Processor) writeRows(tx *keyed.Tx, w *window) error {
	x := &p.scratch
	p.daily = p.daily[:0]
	for i := range w.series {
		s := &w.series[i]
		much := p.sketch.much(s)
		operand, err := w.month(s, much, x)
		if err == nil && len(operand) > 0 {
			err = p.merge(tx, s, 0, operand)
		}
		if err != nil {
			return err
		}
		if much || w.leaving(s) {
			p.daily = append(p.daily, dailySeries{uint32(i), much})
		}
	}
	for _, d := range p.daily {
		s := &w.series[d.at]
		err := w.days(s, d.much, x, func(day uint8, operand []byte) error { return p.merge(tx, s, day, operand) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Processor) merge(tx *keyed.Tx, s *series, day uint8, operand []byte) error {
	p.key = p.appendRow(p.key[:0], s, day)
	p.done.rows++
	p.done.bytes += len(p.key) + len(operand)
	return tx.Merge(p.key, operand)
}

// appendRow appends the key of a row of a series.
func (p *Processor) appendRow(b []byte, s *series, day uint8) []byte {
	if s.value&cold == 0 && s.value != 0 {
		return appendNumberRow(b, s.metric, s.dim, s.month, day, uint32(s.value))
	}
	var text []byte
	if s.value != 0 {
		text = p.values.young.textOf(uint32(s.value &^ cold))
	}
	return appendTextRow(b, s.metric, s.dim, s.month, day, text)
}

func (p *Processor) writeEvents(tx *keyed.Tx, w *window) error {
	for i := range w.events {
		e := &w.events[i]
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
func (p *Processor) event(tx *keyed.Tx, f *view, offset int64) error {
	m, err := p.metric(tx, f.tenant, f.metric, f.service, f.name, f.at)
	if err != nil {
		return err
	}
	who, err := p.profile(tx, f.profile)
	if err != nil {
		return err
	}
	v := &p.value
	v.at, v.value, v.dims = f.time, f.value, v.dims[:0]
	for i := range f.dims {
		if err := p.addDim(tx, v, f.dims[i].name, f.dims[i].value); err != nil {
			return err
		}
	}
	k := eventKey{profile: who.dense, metric: m.number, uid: hashUID(f.uid)}
	if who.state == profileMoved {
		return p.pass(tx, f, &k, v, offset)
	}
	if fresh, err := p.tally(tx, &k, v, m.tenant, who); err != nil || !fresh {
		p.done.repeated++
		return err
	}
	p.done.events++
	return nil
}

// addDim adds a dimension to an event. Of several values of one name the first counts. The value is not copied.
func (p *Processor) addDim(tx *keyed.Tx, v *eventValue, name, value []byte) error {
	if len(name) == 0 {
		return nil // the total
	}
	n, known := p.dims[string(name)]
	if !known {
		var err error
		if n, err = p.newDim(tx, string(name)); err != nil {
			return err
		}
	}
	for i := range v.dims {
		if v.dims[i].number == n {
			return nil
		}
	}
	v.dims = append(v.dims, dim{number: n, text: value})
	return nil
}

// tally counts an event unless it was counted before. Its dimensions have their texts.
func (p *Processor) tally(tx *keyed.Tx, k *eventKey, v *eventValue, t *tenant, who profile) (fresh bool, err error) {
	hash := k.hash()
	known, err := p.known(tx, k, hash, who)
	if err != nil || known {
		return false, err
	}
	for i := range v.dims {
		d := &v.dims[i]
		if d.ref, err = p.ref(tx, d.number, d.text); err != nil {
			return false, err
		}
		if d.ref&cold == 0 {
			d.value = uint32(d.ref)
		}
	}
	p.filter.Add(hash)
	at := len(p.open.values)
	if who.state != profileDeleted {
		p.open.values = v.append(p.open.values)
	}
	p.open.note(k, hash, at)
	p.change(k, v, t, 1)
	return true, nil
}

// known reports whether an event was counted before.
func (p *Processor) known(tx *keyed.Tx, k *eventKey, hash uint64, who profile) (bool, error) {
	if p.filter.Covers(who.since) && !p.filter.Has(hash) {
		return false, nil
	}
	if p.open.event(k, hash) != nil {
		return true, nil
	}
	for _, w := range p.written {
		if w.event(k, hash) != nil {
			return true, nil
		}
	}
	p.done.lookups++
	p.key = k.append(p.key[:0])
	return tx.Has(p.key)
}

// change adds an event to all its series, or takes it out of them. Its dimensions have their refs.
func (p *Processor) change(k *eventKey, v *eventValue, t *tenant, sign int64) {
	b := t.clock.at(v.at)
	p.open.add(seriesID{k.metric, 0, b.month}, 0, b, v.value, k.profile, sign)
	for i := range v.dims {
		d := &v.dims[i]
		p.open.add(seriesID{k.metric, d.ref, b.month}, d.number, b, v.value, k.profile, sign)
	}
}
