package account

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// The first bytes of keys. docs/formats/account.md has what follows them.
const (
	prefixRow     = 'A'
	prefixDim     = 'D'
	prefixEvent   = 'E'
	prefixGen     = 'G'
	prefixMarkers = 'M'
	prefixNumber  = 'N' // of a metric
	prefixProfile = 'P'
	prefixMetric  = 'R'
	prefixTenant  = 'T'
	prefixText    = 'V' // of a value's number
	prefixValue   = 'W' // the number of a value
	prefixNext    = 'n'
	prefixVersion = 'v'
)

var errDamaged = errors.New("account: the state is damaged; delete it, and it is made anew from the log")

func genKey() []byte     { return []byte{prefixGen} }
func numbersKey() []byte { return []byte{prefixNext} }

func appendGen(b []byte, gen uint64) []byte { return binary.BigEndian.AppendUint64(b, gen) }

// committed is the number of the last window that is in the state.
func committed(s *keyed.Store) (uint64, error) {
	v, err := s.Get(genKey())
	switch {
	case errors.Is(err, keyed.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case len(v) != 8:
		return 0, errDamaged
	}
	return binary.BigEndian.Uint64(v), nil
}

// numbers are the next ones to give: to profiles, metrics, dimensions and values of them.
type numbers struct{ profile, metric, dim, value uint32 }

func (n numbers) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(n.profile))
	b = binary.AppendUvarint(b, uint64(n.metric))
	b = binary.AppendUvarint(b, uint64(n.dim))
	return binary.AppendUvarint(b, uint64(n.value))
}

// load reads what is kept in memory of the state, and returns the number of its last window.
func (p *Processor) load() (gen uint64, err error) {
	if err := p.checkVersion(); err != nil {
		return 0, err
	}
	if gen, err = committed(p.store); err != nil {
		return 0, err
	}
	p.numbers = numbers{1, 1, 1, 1} // dimension 0 is the total
	switch v, err := p.store.Get(numbersKey()); {
	case err == nil:
		r := parser{b: v}
		if p.numbers = (numbers{r.number(), r.number(), r.number(), r.number()}); r.bad {
			return 0, errDamaged
		}
	case !errors.Is(err, keyed.ErrNotFound):
		return 0, err
	}
	p.saved = p.numbers
	if err := errors.Join(p.profiles.load(p.store), p.values.load(p.store)); err != nil {
		return 0, err
	}
	p.names = make([]string, p.numbers.dim)
	damaged := false
	err = p.store.Scan([]byte{prefixDim}, nil, func(k, v []byte) bool {
		r := parser{b: v}
		n := r.number()
		if damaged = r.bad || n == 0 || int(n) >= len(p.names); !damaged {
			p.names[n] = string(k[1:])
			p.dims[p.names[n]] = n
		}
		return !damaged
	})
	if err == nil && damaged {
		err = errDamaged
	}
	return gen, err
}

// checkVersion refuses a state that another version of this package made.
func (p *Processor) checkVersion() error {
	v, err := p.store.Get([]byte{prefixVersion})
	if errors.Is(err, keyed.ErrNotFound) {
		return nil // it is new, and gets its version with its first tenant
	}
	if err == nil && (len(v) != 1 || v[0] != Version) {
		return fmt.Errorf("account: the state has version %d, not %d; delete it, and it is made anew from the log", v, Version)
	}
	return err
}

// tenant is what is known of one.
type tenant struct {
	name    string
	id      fact.TenantID
	clock   clock
	metrics map[fact.MetricID]*metric
}

// metric is a row of the registry.
type metric struct {
	tenant           *tenant
	id               fact.MetricID
	number           uint32
	created, updated int64 // Unix milliseconds; updated is rounded to the day
	service, name    string
}

// maxMetrics are kept in memory between commits.
const maxMetrics = 1 << 16

// trim keeps the memory of tenants and metrics bounded.
func (p *Processor) trim() {
	if len(p.metrics) > maxMetrics || len(p.tenants) > maxMetrics {
		clear(p.metrics)
		clear(p.tenants)
		p.last = nil
	}
}

// tenantOf finds a tenant, or notes a new one with its zone.
func (p *Processor) tenantOf(tx *keyed.Tx, name []byte) (*tenant, error) {
	if t := p.last; t != nil && t.name == string(name) {
		return t, nil
	}
	t := p.tenants[string(name)]
	if t == nil {
		var err error
		if t, err = p.findTenant(tx, string(name)); err != nil {
			return nil, err
		}
		p.tenants[t.name] = t
	}
	p.last = t
	return t, nil
}

func (p *Processor) findTenant(tx *keyed.Tx, name string) (*tenant, error) {
	id := fact.TenantIDOf(name)
	zone := p.zones.of(name)
	key := tenantKey(id)
	switch v, err := tx.Get(key); {
	case err == nil:
		if string(v) != zone.String() {
			p.d.Logger.Warn("account: a tenant is counted in another time zone than is configured; delete the state of the account stage to count anew",
				"tenant", name, "zone", string(v), "configured", zone.String())
			if zone, err = time.LoadLocation(string(v)); err != nil {
				return nil, fmt.Errorf("tenant %s: %w", name, err)
			}
		}
	case !errors.Is(err, keyed.ErrNotFound):
		return nil, err
	default:
		if err := errors.Join(tx.Set([]byte{prefixVersion}, []byte{Version}), tx.Set(key, []byte(zone.String()))); err != nil {
			return nil, err
		}
	}
	return &tenant{name: name, id: id, clock: clock{zone: zone}, metrics: map[fact.MetricID]*metric{}}, nil
}

func tenantKey(id fact.TenantID) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixTenant}, uint64(id))
}

func metricKey(t fact.TenantID, m fact.MetricID) []byte {
	k := binary.BigEndian.AppendUint64([]byte{prefixMetric}, uint64(t))
	return binary.BigEndian.AppendUint64(k, uint64(m))
}

func numberKey(n uint32) []byte { return binary.AppendUvarint([]byte{prefixNumber}, uint64(n)) }

func (m *metric) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(m.number))
	b = binary.AppendVarint(b, m.created)
	b = binary.AppendVarint(b, m.updated)
	return appendBytes(appendBytes(b, m.service), m.name)
}

func (m *metric) parse(b []byte) error {
	p := parser{b: b}
	m.number, m.created, m.updated = p.number(), p.varint(), p.varint()
	m.service, m.name = p.string(), p.string()
	if p.bad || len(p.b) > 0 {
		return errDamaged
	}
	return nil
}

const dayMillis = 1000 * daySeconds

// metric finds a metric of a tenant, or notes a new one. at is when the event was accepted, in Unix milliseconds.
func (p *Processor) metric(tx *keyed.Tx, tenant []byte, id fact.MetricID, service, name []byte, at int64) (*metric, error) {
	t, err := p.tenantOf(tx, tenant)
	if err != nil {
		return nil, err
	}
	m := t.metrics[id]
	if m == nil {
		if m, err = p.findMetric(tx, t, id, service, name, at); err != nil {
			return nil, err
		}
		t.metrics[id] = m
		p.metrics[m.number] = m
	}
	if at >= m.updated+dayMillis {
		m.updated = floorDiv(at, dayMillis) * dayMillis
		return m, tx.Set(metricKey(t.id, id), m.append(nil))
	}
	return m, nil
}

func (p *Processor) findMetric(tx *keyed.Tx, t *tenant, id fact.MetricID, service, name []byte, at int64) (*metric, error) {
	m := &metric{tenant: t, id: id}
	key := metricKey(t.id, id)
	switch v, err := tx.Get(key); {
	case err == nil:
		return m, m.parse(v)
	case !errors.Is(err, keyed.ErrNotFound):
		return nil, err
	}
	if p.numbers.metric == ^uint32(0) {
		return nil, errors.New("too many metrics")
	}
	m.number, m.service, m.name = p.numbers.metric, string(service), string(name)
	m.created, m.updated = at, floorDiv(at, dayMillis)*dayMillis
	p.numbers.metric++
	return m, errors.Join(tx.Set(key, m.append(nil)), tx.Set(numberKey(m.number), key[1:]))
}

// numbered finds a metric by its number.
func (p *Processor) numbered(tx *keyed.Tx, tenant []byte, n uint32) (*metric, error) {
	if m := p.metrics[n]; m != nil {
		return m, nil
	}
	v, err := tx.Get(numberKey(n))
	if err != nil {
		return nil, err
	}
	if len(v) != 16 {
		return nil, errDamaged
	}
	return p.metric(tx, tenant, fact.MetricID(binary.BigEndian.Uint64(v[8:])), nil, nil, math.MinInt64)
}

// newDim gives a dimension its number.
func (p *Processor) newDim(tx *keyed.Tx, name string) (uint32, error) {
	if p.numbers.dim == ^uint32(0) {
		return 0, errors.New("too many dimensions")
	}
	n := p.numbers.dim
	p.numbers.dim++
	p.dims[name] = n
	p.names = append(p.names, name)
	return n, tx.Set(append([]byte{prefixDim}, name...), binary.AppendUvarint(nil, uint64(n)))
}
