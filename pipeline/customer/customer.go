// Package customer keeps what is known of each profile: its attributes, what
// it allows, the lists it is on, and its events. It is one of the consumers of the second log, and has what segments and flows
// will ask for.
//
// For each record the Processor takes these steps: skip it if it came before (keyed.Seen); find the profile's head, a small
// row that says whether it lives, was merged or deleted (head.go); change the profile (change.go, consent.go), store the
// event unless it is there already (event.go), or take part in a merge (merge.go, transfer.go). Every 64th record moves events that
// have grown too old into counts per day (fold.go). A Reader answers questions from what is committed, on any goroutine.
//
// The package has more files than most: each kind of question the Reader answers has its own.
package customer

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/bloom"
	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Version is of the rows of this package, for keyed.Spec.
const Version = 1

// Options are the configurable parts.
type Options struct {
	Window         units.Duration `toml:"window" doc:"How long each event of a profile is kept by itself, counted from its time; older ones are kept as counts per day (UTC). It must not be shorter than the longest window of a segment."`
	Dedupe         units.Duration `toml:"dedupe" doc:"How long each event is kept by itself at least, counted from its arrival: a second one with its unique_id is told apart for so long."`
	KeepProperties bool           `toml:"keep_properties" doc:"Keep the properties of each event as long as the event, for reading a profile's events."`
	MaxProfile     units.Size     `toml:"max_profile" doc:"Largest profile. A change of attributes and properties that would make it larger is not taken, and counted."`
	Known          int            `toml:"known_profiles" doc:"Profiles of each partition whose state is kept in memory, about 75 bytes each."`
	Filter         units.Size     `toml:"filter" doc:"Memory of each partition for telling new events from repeated ones without a look into the state."`
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	const day = units.Duration(24 * time.Hour)
	return Options{Window: 400 * day, Dedupe: 90 * day, KeepProperties: true, MaxProfile: 192 << 10, Known: 1 << 20, Filter: 16 << 20}
}

// Validate names the first key that cannot be used.
func (o Options) Validate() error {
	const day = 24 * time.Hour
	switch {
	case o.Window.D() < day:
		return errors.New("window: must be at least 1d")
	case o.Dedupe.D() < day:
		return errors.New("dedupe: must be at least 1d")
	case o.MaxProfile < 1<<10 || o.MaxProfile > maxChunk*3/4:
		return fmt.Errorf("max_profile: must be between 1KiB and %dKiB", maxChunk*3/4>>10)
	case o.Known < 0 || o.Known > 1<<26:
		return errors.New("known_profiles: must be between 0 and 67108864")
	case o.Filter < 64<<10 || o.Filter > 4<<30:
		return errors.New("filter: must be between 64KiB and 4GiB")
	}
	return nil
}

// Deps are what a processor works with.
type Deps struct {
	Facts stream.Topic // transfers of merged profiles go here
	// Partitions is the number of those of the first log: each sends a marker for a merge.
	Partitions int32
	// Keep names the top-level properties of a metric's events that live definitions read. They are kept in
	// the event's row. Nil keeps none.
	Keep       func(tenant string, metric fact.MetricID) []string
	Logger     *slog.Logger          // nil drops
	Registerer prometheus.Registerer // nil registers nothing
}

// NewProcessor returns what keyed.Spec.New needs. It is called once for a process.
func NewProcessor(o Options, d Deps) (func(*keyed.Store, stream.Assignment) (keyed.Processor, error), error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("customer: %w", err)
	}
	if d.Facts == nil || d.Partitions < 1 {
		return nil, errors.New("customer: the facts and the number of partitions of the first log are needed")
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(d.Registerer)
	if err != nil {
		return nil, fmt.Errorf("customer: %w", err)
	}
	return func(s *keyed.Store, _ stream.Assignment) (keyed.Processor, error) { return open(s, o, d, m) }, nil
}

// processor is the customer level of one partition.
type processor struct {
	o    Options
	d    Deps
	m    *metrics
	seen *keyed.Seen
	st   state

	known   known
	filter  *bloom.Recent // events: those of profiles that it covers are new if it does not have them
	touched map[who]head  // heads that changed since the last commit
	tenants map[string]fact.TenantID

	clock int64  // latest acceptance of a record so far, milliseconds
	saved int64  // the clock that the state has
	due   uint32 // first day in the index of rows to fold; noDay if there is none

	ahead  lookahead
	offset int64 // of the record that is being applied
	n      int32 // its outputs so far
	fact   *fact.Fact
	key    []byte
	value  []byte
	hash   *xxhash.Digest
}

func open(s *keyed.Store, o Options, d Deps, m *metrics) (*processor, error) {
	seen, err := keyed.OpenSeen(s)
	if err != nil {
		return nil, err
	}
	p := &processor{o: o, d: d, m: m, seen: seen, known: newKnown(o.Known), filter: bloom.NewRecent(int(o.Filter)), touched: map[who]head{},
		tenants: map[string]fact.TenantID{}, clock: math.MinInt64, hash: xxhash.New(), fact: new(fact.Fact)}
	if p.clock, err = loadClock(s); err != nil {
		return nil, err
	}
	p.saved = p.clock
	p.due = noDay
	err = s.Scan([]byte{prefixDue}, nil, func(k, _ []byte) bool {
		p.due = dueDay(k)
		return false
	})
	return p, err
}

// Apply implements keyed.Processor.
func (p *processor) Apply(tx *keyed.Tx, recs []stream.Record) error {
	p.st.tx = tx
	p.filter.Turn()
	for some := range slices.Chunk(recs, aheadMost) {
		if err := p.lookAhead(some); err != nil {
			return fmt.Errorf("customer: records from %d: %w", some[0].Offset, err)
		}
		for i := range some {
			if err := p.record(&some[i], &p.ahead.facts[i], p.ahead.errs[i]); err != nil {
				return fmt.Errorf("customer: record %d: %w", some[i].Offset, err)
			}
		}
	}
	return nil
}

// record applies one record. What is not one, or has contents that cannot be read, is passed over: the state must not
// stand still for ever because of it.
func (p *processor) record(r *stream.Record, f *fact.Fact, unread error) error {
	p.offset, p.n, p.fact = r.Offset, 0, f
	if unread != nil {
		p.damaged("record", unread)
		return nil
	}
	if f.Kind == fact.KindTransfer && (f.Transfer == nil || f.Transfer.Level != fact.StageCustomer) {
		return nil
	}
	first, err := p.seen.First(p.st.tx, uint8(f.From.Stage), f.From.Partition, f.From.Offset, f.From.N)
	if err != nil {
		return err
	}
	if !first {
		p.m.repeated.Inc()
		return nil
	}
	p.clock = max(p.clock, f.At.UnixMilli())
	if err := p.apply(f); err != nil {
		return err
	}
	if p.offset%sweepEvery == 0 && dayOf(p.clock) > int64(p.due) {
		return p.sweep()
	}
	return nil
}

// tenant is the id of a tenant.
func (p *processor) tenant(name string) fact.TenantID {
	id, ok := p.tenants[name]
	if !ok {
		id = fact.TenantIDOf(name)
		p.tenants[strings.Clone(name)] = id // name keeps a whole record alive
	}
	return id
}

func (p *processor) apply(f *fact.Fact) error {
	tenant := p.tenant(f.Tenant)
	w := whoOf(tenant, f.Profile)
	switch {
	case f.Kind == fact.KindEvent && f.Event != nil:
		return p.event(f, w)
	case f.Kind == fact.KindChange && f.Change != nil:
		_, _, err := p.profile(f, w)
		return err
	case f.Kind == fact.KindMarker && f.Merge != nil:
		return p.marker(f, w)
	case f.Kind == fact.KindTransfer:
		return p.transfer(f, w)
	case f.Kind == fact.KindObject && f.Object != nil:
		return p.object(f.Object, tenant)
	}
	p.damaged("fact", fmt.Errorf("kind %d without its content", f.Kind))
	return nil
}

// object stores or deletes a document of a tenant.
func (p *processor) object(o *fact.Object, tenant fact.TenantID) error {
	p.key = append(appendName(appendTenant(p.key[:0], prefixObject, tenant), o.Type), o.ID...)
	if o.Data == nil {
		return p.st.tx.Delete(p.key)
	}
	return p.st.tx.Put(p.key, append(append(p.value[:0], rowVersion), o.Data...))
}

// Flush implements keyed.Processor.
func (p *processor) Flush(tx *keyed.Tx) error {
	p.st.tx = tx
	for w, h := range p.touched {
		p.key = append(append(p.key[:0], prefixHead), w[:]...)
		p.value = h.append(p.value[:0])
		if err := tx.Put(p.key, p.value); err != nil {
			return err
		}
	}
	clear(p.touched)
	p.st.forget()
	if p.clock != p.saved {
		p.saved = p.clock
		return saveClock(tx, p.clock)
	}
	return nil
}

// damaged counts and tells of content that cannot be read.
func (p *processor) damaged(what string, err error) {
	p.m.damaged.Inc()
	p.d.Logger.Error("customer: content that cannot be read was passed over", "what", what, "offset", p.offset, "tenant", p.fact.Tenant, "error", err)
}
