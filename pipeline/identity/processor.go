package identity

import (
	"fmt"
	"log/slog"
	"slices"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// NewProcessor returns what makes the stage for each partition of the first log: the New of a keyed.Spec. What
// is wrong with the options or the metrics is the error of its first call.
func NewProcessor(o Options, d Deps) func(*keyed.Store, stream.Assignment) (keyed.Processor, error) {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(d.Registerer)
	if e := o.Validate(); err == nil && e != nil {
		err = fmt.Errorf("identity: %w", e)
	}
	return func(s *keyed.Store, a stream.Assignment) (keyed.Processor, error) {
		if err != nil {
			return nil, err
		}
		return newProcessor(o, d, m, s, a)
	}
}

// processor is the owner of one partition's identifiers. After an error it is of no use any more: what it knows
// is ahead of the state.
type processor struct {
	d      Deps
	m      *metrics
	seen   *keyed.Seen
	cache  *cache
	moves  moves
	ahead  lookahead
	failed error
	names  map[string]*tenant

	// conflict is called when an identifier was not given to a claim; for tests.
	conflict func(tenant string, id fact.Identifier)

	// What the record at hand needs.
	tx    *keyed.Tx
	raw   fact.Raw
	from  fact.Origin // of the last output
	count counts
	buf   []byte
	slab  []byte // free room that outputs are made in
}

// tenant is what the stage knows of a tenant.
type tenant struct {
	name string
	id   fact.TenantID
	home int32
}

func newProcessor(o Options, d Deps, m *metrics, s *keyed.Store, a stream.Assignment) (*processor, error) {
	seen, err := keyed.OpenSeen(s)
	if err != nil {
		return nil, err
	}
	moved, err := loadMoves(s)
	if err != nil {
		return nil, err
	}
	return &processor{
		d: d, m: m, seen: seen, cache: newCache(o.Cached), moves: moved, names: map[string]*tenant{},
		conflict: func(string, fact.Identifier) {},
		from:     fact.Origin{Stage: fact.StageIdentity, Partition: a.Partition, Generation: a.Generation},
	}, nil
}

// Apply implements keyed.Processor.
func (p *processor) Apply(tx *keyed.Tx, recs []stream.Record) error {
	if p.failed != nil {
		return p.failed
	}
	p.tx, p.count = tx, counts{}
	for some := range slices.Chunk(recs, aheadMost) {
		if err := p.some(some); err != nil {
			p.failed = err
			return err
		}
	}
	p.m.add(p.count)
	return nil
}

func (p *processor) some(recs []stream.Record) error {
	if err := p.lookAhead(recs); err != nil {
		return fmt.Errorf("identity: records from %d of partition %d: %w", recs[0].Offset, p.from.Partition, err)
	}
	for i := range recs {
		if err := p.record(&recs[i], p.ahead.found[i]); err != nil {
			return fmt.Errorf("identity: record %d of partition %d: %w", recs[i].Offset, p.from.Partition, err)
		}
	}
	return nil
}

// Flush implements keyed.Processor. All is in the Tx already.
func (p *processor) Flush(*keyed.Tx) error { return nil }

// record applies one record. k is the key of its first identifier, if it is of an event or change.
func (p *processor) record(rec *stream.Record, k key) error {
	r := &p.raw
	if err := r.Parse(rec.Data); err != nil {
		return err
	}
	if r.From.N > 0 {
		first, err := p.seen.First(p.tx, uint8(r.From.Stage), r.From.Partition, r.From.Offset, r.From.N)
		if err != nil {
			return err
		}
		if !first {
			p.count.repeated++
			return nil
		}
	}
	p.from.Offset, p.from.N = rec.Offset, 0
	t := p.tenant(r.Tenant)
	switch r.Kind {
	case fact.KindEvent, fact.KindChange:
		return p.subject(t, k)
	case fact.KindObject:
		return p.object(t, rec.Data)
	case fact.KindClaim, fact.KindMerge, fact.KindRedirect:
		return p.protocol(t, rec.Data)
	}
	return fmt.Errorf("kind %d does not belong into the first log", r.Kind)
}

// maxTenants bounds the memory for tenants; more than that are looked up again.
const maxTenants = 1 << 16

func (p *processor) tenant(name []byte) *tenant {
	if t, ok := p.names[string(name)]; ok {
		return t
	}
	if len(p.names) >= maxTenants {
		clear(p.names)
	}
	t := &tenant{name: string(name)}
	t.id, t.home = fact.TenantIDOf(t.name), fact.Home(t.name, p.d.Intake.Partitions())
	p.names[t.name] = t
	return t
}

// invalid drops a record that its writer should not have written. It was acknowledged, so the log tells of it.
func (p *processor) invalid(why string) error {
	p.count.invalid++
	p.d.Logger.Error("identity: record dropped", "partition", p.from.Partition, "offset", p.from.Offset, "tenant", string(p.raw.Tenant), "why", why)
	return nil
}

// origin is that of the next output.
func (p *processor) origin() fact.Origin {
	p.from.N++
	return p.from
}

const slabSize = 256 << 10

// room returns n bytes of capacity that nobody else has; keep takes what was made in them.
func (p *processor) room(n int) []byte {
	if n > cap(p.slab) {
		p.slab = make([]byte, 0, max(n, slabSize))
	}
	return p.slab
}

func (p *processor) keep(b []byte) []byte {
	p.slab = b[len(b):]
	return b[:len(b):len(b)]
}

// pass sends the record at hand to the second log, under a profile.
func (p *processor) pass(profile fact.ProfileID, partition int32) {
	data := p.keep(p.raw.AppendFact(p.room(p.raw.FactLen()), profile, p.origin()))
	p.tx.Emit(p.d.Facts, stream.Message{Partition: partition, Data: data})
	p.count.resolved++
}

// ask sends a record to a partition of the first log.
func (p *processor) ask(in *fact.Intake, partition int32) {
	in.From = p.origin()
	p.buf = in.Append(p.buf[:0])
	data := p.keep(append(p.room(len(p.buf)), p.buf...))
	p.tx.Emit(p.d.Intake, stream.Message{Partition: partition, Data: data})
}

// tell sends a fact that is not made of the record at hand.
func (p *processor) tell(f *fact.Fact, partition int32) {
	f.From = p.origin()
	p.buf = f.Append(p.buf[:0])
	data := p.keep(append(p.room(len(p.buf)), p.buf...))
	p.tx.Emit(p.d.Facts, stream.Message{Partition: partition, Data: data})
}

// store writes a binding.
func (p *processor) store(k key, b *binding) error {
	p.buf = b.append(k.append(p.buf[:0]))
	return p.tx.Set(p.buf[:keyLen], p.buf[keyLen:])
}

const keyLen = 1 + 8 + 16
