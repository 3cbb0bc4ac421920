package account

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
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

// numbers are the next ones to give: to profiles, metrics and dimensions.
type numbers struct{ profile, metric, dim uint32 }

func (n numbers) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(n.profile))
	b = binary.AppendUvarint(b, uint64(n.metric))
	return binary.AppendUvarint(b, uint64(n.dim))
}

// load reads what is kept in memory of the state, and returns the number of its last window.
func (p *Processor) load() (gen uint64, err error) {
	if err := p.checkVersion(); err != nil {
		return 0, err
	}
	if gen, err = committed(p.store); err != nil {
		return 0, err
	}
	p.numbers = numbers{1, 1, 1} // a dimension 0 is the total
	switch v, err := p.store.Get(numbersKey()); {
	case err == nil:
		r := parser{b: v}
		if p.numbers = (numbers{r.number(), r.number(), r.number()}); r.bad {
			return 0, errDamaged
		}
	case !errors.Is(err, keyed.ErrNotFound):
		return 0, err
	}
	p.saved = p.numbers
	if err := p.profiles.load(p.store); err != nil {
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
	}
}

// tenantOf finds a tenant, or notes a new one with its zone.
func (p *Processor) tenantOf(tx *keyed.Tx, name string) (*tenant, error) {
	if t := p.tenants[name]; t != nil {
		return t, nil
	}
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
	t := &tenant{id: id, clock: clock{zone: zone}, metrics: map[fact.MetricID]*metric{}}
	p.tenants[strings.Clone(name)] = t
	return t, nil
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

// metric finds a metric of a tenant, or notes a new one.
func (p *Processor) metric(tx *keyed.Tx, tenant string, id fact.MetricID, service, name string, at time.Time) (*metric, error) {
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
	if day := at.Truncate(24 * time.Hour).UnixMilli(); day > m.updated {
		m.updated = day
		return m, tx.Set(metricKey(t.id, id), m.append(nil))
	}
	return m, nil
}

func (p *Processor) findMetric(tx *keyed.Tx, t *tenant, id fact.MetricID, service, name string, at time.Time) (*metric, error) {
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
	m.number, m.service, m.name = p.numbers.metric, strings.Clone(service), strings.Clone(name)
	m.created, m.updated = at.UnixMilli(), at.Truncate(24*time.Hour).UnixMilli()
	p.numbers.metric++
	return m, errors.Join(tx.Set(key, m.append(nil)), tx.Set(numberKey(m.number), key[1:]))
}

// numbered finds a metric by its number.
func (p *Processor) numbered(tx *keyed.Tx, tenant string, n uint32) (*metric, error) {
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
	return p.metric(tx, tenant, fact.MetricID(binary.BigEndian.Uint64(v[8:])), "", "", time.Time{})
}

// dim finds the number of a dimension, or gives it one.
func (p *Processor) dim(tx *keyed.Tx, name string) (uint32, error) {
	if n, known := p.dims[name]; known {
		return n, nil
	}
	if p.numbers.dim == ^uint32(0) {
		return 0, errors.New("too many dimensions")
	}
	n := p.numbers.dim
	p.numbers.dim++
	name = strings.Clone(name) // not all of the record that it came in
	p.dims[name] = n
	p.names = append(p.names, name)
	return n, tx.Set(append([]byte{prefixDim}, name...), binary.AppendUvarint(nil, uint64(n)))
}

// Where a profile is.
const (
	profileLiving = iota
	profileMoved
	profileDeleted
)

// profile is what is kept in memory of one.
type profile struct {
	dense uint32
	since uint32 // epoch of the filter since which all its events are in there; 0: they are not
	state uint8
	wide  bool // it has too many events to put them into the filter
}

// profiles are the ones that were used last, in two generations. Their maps hold no pointers, so that collecting garbage
// does not look at them.
type profiles struct {
	most       int
	young, old map[fact.ProfileID]profile
	known      bloom // all that the state has, so that new ones need not be looked for; nil if they are too many
}

func newProfiles(most, filter int) profiles {
	return profiles{most: most, young: map[fact.ProfileID]profile{}, old: map[fact.ProfileID]profile{}, known: newBloom(filter)}
}

// load notes which profiles the state has.
func (p *profiles) load(s *keyed.Store) error {
	n, most := 0, 2*p.known.capacity()
	err := s.Scan([]byte{prefixProfile}, nil, func(k, _ []byte) bool {
		p.known.add(hashOf(k[1:]))
		n++
		return n <= most
	})
	if n > most {
		p.known = nil
	}
	return err
}

// hashOf mixes a profile's id, which is a hash itself; its first bytes choose the partition.
func hashOf(id []byte) uint64 { return binary.LittleEndian.Uint64(id[len(id)-8:]) }

// isNew reports whether the state does not have a profile for sure. It does from now on.
func (p *profiles) isNew(id fact.ProfileID) bool {
	if p.known == nil || p.known.has(hashOf(id[:])) {
		return false
	}
	p.known.add(hashOf(id[:]))
	return true
}

func (p *profiles) get(id fact.ProfileID) (profile, bool) {
	if f, known := p.young[id]; known {
		return f, true
	}
	f, known := p.old[id]
	if known {
		p.young[id] = f
	}
	return f, known
}

func (p *profiles) put(id fact.ProfileID, f profile) { p.young[id] = f }

// trim forgets those that were not used for long. It must not be called between two uses of
// one commit: what is new is not in the state before.
func (p *profiles) trim() {
	if len(p.young) > p.most/2 {
		p.old, p.young = p.young, p.old
		clear(p.young)
	}
}

func profileKey(id fact.ProfileID) []byte { return append([]byte{prefixProfile}, id[:]...) }

// appendProfile appends a profile's row: its dense number, and where it went if it is not living; nowhere is
// the zero profile.
func appendProfile(b []byte, p profile, to fact.ProfileID) []byte {
	b = binary.AppendUvarint(b, uint64(p.dense))
	if p.state != profileLiving {
		b = append(b, to[:]...)
	}
	return b
}

func parseProfile(b []byte) (p profile, to fact.ProfileID, err error) {
	r := parser{b: b}
	p.dense = r.number()
	if len(r.b) > 0 {
		copy(to[:], r.take(16))
		if p.state = profileMoved; to.IsZero() {
			p.state = profileDeleted
		}
	}
	if r.bad || len(r.b) > 0 {
		return p, to, errDamaged
	}
	return p, to, nil
}

// profile finds a profile, or makes it. One that was merged has no number if it left before it had an event.
func (p *Processor) profile(tx *keyed.Tx, id fact.ProfileID) (profile, error) {
	f, known := p.profiles.get(id)
	switch {
	case known && f.dense == 0 && f.state == profileDeleted:
		return p.enroll(tx, id, f)
	case known && (f.wide || f.state == profileMoved || p.filter.covers(f.since)):
		return f, nil
	case known: // it comes again, so it may be worth it
		err := p.cover(tx, &f)
		p.profiles.put(id, f)
		return f, err
	case p.profiles.isNew(id):
		return p.enroll(tx, id, profile{since: p.filter.epoch})
	}
	v, err := tx.Get(profileKey(id))
	if errors.Is(err, keyed.ErrNotFound) {
		return p.enroll(tx, id, profile{since: p.filter.epoch})
	}
	if err == nil {
		f, _, err = parseProfile(v)
	}
	if err != nil {
		return f, err
	}
	p.profiles.put(id, f)
	if f.dense == 0 && f.state == profileDeleted {
		return p.enroll(tx, id, f)
	}
	return f, nil
}

// enroll gives a profile its number.
func (p *Processor) enroll(tx *keyed.Tx, id fact.ProfileID, f profile) (profile, error) {
	if p.numbers.profile == ^uint32(0) {
		return f, errors.New("too many profiles")
	}
	f.dense = p.numbers.profile
	p.numbers.profile++
	p.profiles.put(id, f)
	return f, tx.Put(profileKey(id), appendProfile(nil, f, fact.ProfileID{}))
}

// maxCovered is how many events of a profile are worth reading to spare looking for single ones.
const maxCovered = 128

// cover puts the events of a profile into the filter. Those of this window are there already.
func (p *Processor) cover(tx *keyed.Tx, f *profile) error {
	n := 0
	p.key = appendEvents(p.key[:0], f.dense)
	err := tx.Store().Scan(p.key, nil, func(k, _ []byte) bool {
		if e, ok := parseEventKey(k); ok {
			p.filter.add(e.hash())
		}
		n++
		return n <= p.covered
	})
	if f.wide = n > p.covered; !f.wide {
		f.since = p.filter.epoch
	}
	return err
}
