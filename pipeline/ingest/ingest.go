// Package ingest is the door of the pipeline: everything that comes to be known of a tenant's
// profiles enters through it, whether by the API, a web hook, an import or the delivery engine.
//
// A request goes through these steps: its document is read once from the front and every field checked,
// with an error that points at it (event.go, profile.go); identifiers are put into their normal
// form; the message that an event names is looked up (hydrate.go); the properties that counts are broken
// down by are taken out (dims.go); the records are encoded; events that happened longer ago than the stages recognise are
// left out if the archive has them (archive.go); the rest is appended, all of a request at once.
// When that has returned it is durable, and only then anything is acknowledged.
//
// The package has more than twelve files because each of these steps and each part of a document has its own.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// Options are what a configuration file can set.
type Options struct {
	MaxPayload    units.Size     `toml:"max_payload" doc:"Largest body of a request in bytes."`
	MaxProperties int            `toml:"max_properties" doc:"Most properties of one event or profile."`
	MaxField      units.Size     `toml:"max_field" doc:"Largest value of one property or attribute, in bytes of its JSON."`
	MaxArray      int            `toml:"max_array" doc:"Most items of an array within a property."`
	MaxNesting    int            `toml:"max_nesting" doc:"How many objects and arrays of a property may stand within each other."`
	MaxEvents     int            `toml:"max_events" doc:"Most events of one bulk job."`
	Ahead         units.Duration `toml:"ahead" doc:"How far in the future the time of an event may be."`
	Dimensions    []string       `toml:"dimensions" doc:"Names of the event properties that counts can be broken down by. Each one that an event has costs a counter; a new name counts from then on."`
}

// DefaultOptions are the limits that clients of the API know: 5 MB, 400 properties of 100 kB, arrays
// of 4000, 10 deep, 1000 events a job.
func DefaultOptions() Options {
	return Options{
		MaxPayload: 5 << 20, MaxProperties: 400, MaxField: 100 << 10, MaxArray: 4000, MaxNesting: 10, MaxEvents: 1000,
		Ahead:      units.Duration(366 * 24 * time.Hour),
		Dimensions: DefaultDimensions(),
	}
}

// Validate returns an error that begins with the key at fault.
func (o Options) Validate() error {
	const most = 64 << 20 // of a payload: a record must fit a log
	switch {
	case o.MaxPayload < 1<<10 || o.MaxPayload > most:
		return errors.New("max_payload: must be between 1KiB and 64MiB")
	case o.MaxProperties < 1:
		return errors.New("max_properties: must be at least 1")
	case o.MaxField < 1:
		return errors.New("max_field: must be at least 1")
	case o.MaxArray < 1:
		return errors.New("max_array: must be at least 1")
	case o.MaxNesting < 1 || o.MaxNesting > deepest/2:
		return fmt.Errorf("max_nesting: must be between 1 and %d", deepest/2)
	case o.MaxEvents < 1:
		return errors.New("max_events: must be at least 1")
	case o.Ahead < 0:
		return errors.New("ahead: must not be negative")
	case len(o.Dimensions) > maxDimensions:
		return fmt.Errorf("dimensions: at most %d", maxDimensions)
	}
	for i, name := range o.Dimensions {
		if name == "" || len(name) > maxDimension || slices.Contains(o.Dimensions[:i], name) {
			return fmt.Errorf("dimensions: %q is empty, too long or there twice", name)
		}
	}
	return nil
}

// Deps are what a Door works with.
type Deps struct {
	Intake  stream.Topic
	Hydrate Hydrator // nil: events are not completed
	Archive Archive  // nil: none is asked
	// ArchiveAfter is how long ago an event must have happened for the archive to be asked. It must be less
	// than what the stages recognise, by as much as their clocks may differ from Now.
	ArchiveAfter time.Duration
	Now          func() time.Time      // nil: time.Now
	Registerer   prometheus.Registerer // nil: no metrics
	Logger       *slog.Logger          // nil: discard
}

// Door takes records in. It is safe for concurrent use.
type Door struct {
	o       Options
	d       Deps
	keys    map[string]slot // properties that are looked at, by name
	slots   int
	dims    []slot // of each of Options.Dimensions
	numbers *doorMetrics
	readers sync.Pool // *reader
	phones  phones

	mu      sync.RWMutex
	metrics map[metricKey]fact.MetricID
}

type metricKey struct{ tenant, service, name string }

// maxMetrics bounds the ids that are remembered: names are the tenants' to choose.
const maxMetrics = 1 << 16

// New returns a door to d.Intake.
func New(o Options, d Deps) (*Door, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if d.Intake == nil {
		return nil, errors.New("ingest: there is no log to append to")
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	numbers, err := newDoorMetrics(d.Registerer)
	if err != nil {
		return nil, err
	}
	k := &Door{o: o, d: d, numbers: numbers, phones: newPhones(), metrics: map[metricKey]fact.MetricID{}}
	k.keys, k.slots = newSlots(o.Dimensions)
	for _, name := range o.Dimensions {
		k.dims = append(k.dims, k.keys[name])
	}
	k.readers.New = func() any { return &reader{o: &k.o, door: k, slots: make([]string, k.slots)} }
	return k, nil
}

// Options are those of New.
func (k *Door) Options() Options { return k.o }

// Position tells how far the log goes with what was put: per partition one Mark, of its last record.
type Position []Mark

// Mark is a record's place.
type Mark struct {
	Partition int32
	Offset    int64
}

// Put appends records, all at once. A record without a time of acceptance gets it here. When it returns without an error they
// are durable; after an error it is unknown which are, and to put them again does no harm where they have unique ids.
func (k *Door) Put(ctx context.Context, all []*fact.Intake) (Position, error) {
	r := k.reader("", "")
	defer k.release(r)
	for _, in := range all {
		p, err := k.partition(in)
		if err != nil {
			return nil, err
		}
		if in.At.IsZero() {
			in.At = r.now
		}
		r.add(in, p)
		r.noteOld(in)
	}
	return k.append(ctx, r)
}

// ErrNobody is returned for a record that nobody's partition can be told of.
var ErrNobody = errors.New("ingest: a record names no profile")

// partition is where a record belongs.
func (k *Door) partition(in *fact.Intake) (int32, error) {
	n := k.d.Intake.Partitions()
	switch {
	case in.Kind == fact.KindMerge:
		return fact.Home(in.Tenant, n), nil
	case in.Object != nil && in.Kind == fact.KindObject:
		return fact.ObjectPartition(in.Tenant, in.Object.ID, n), nil
	case len(in.Who) == 0:
		return 0, ErrNobody
	}
	return fact.PartitionOf(in.Tenant, in.Who[0], n), nil
}

// reader takes one from the pool, for a request of a tenant.
func (k *Door) reader(tenant, body string) *reader {
	r := k.readers.Get().(*reader)
	r.begin(tenant, body, k.d.Now().Truncate(time.Millisecond))
	return r
}

// maxKept is how much memory a reader keeps for the next request.
const maxKept = 8 << 20

func (k *Door) release(r *reader) {
	if cap(r.out) > maxKept {
		return
	}
	// Nothing of the request stays alive.
	clear(r.event.Dims[:cap(r.event.Dims)])
	clear(r.profile.who[:cap(r.profile.who)])
	r.begin("", "", time.Time{})
	k.readers.Put(r)
}

// append makes durable what a reader has collected.
func (k *Door) append(ctx context.Context, r *reader) (Position, error) {
	k.askArchive(ctx, r)
	if r.messages(); len(r.msgs) == 0 {
		return nil, nil
	}
	began := time.Now()
	offsets, err := k.d.Intake.Append(ctx, r.msgs)
	if err != nil {
		k.numbers.failed.Inc()
		return nil, fmt.Errorf("ingest: %w", err)
	}
	k.numbers.took.Observe(time.Since(began).Seconds())
	k.numbers.records.Add(float64(len(offsets)))
	var at Position
	for i, offset := range offsets {
		p := r.msgs[i].Partition
		j := slices.IndexFunc(at, func(m Mark) bool { return m.Partition == p })
		if j < 0 {
			at = append(at, Mark{p, offset})
			continue
		}
		at[j].Offset = max(at[j].Offset, offset)
	}
	return at, nil
}

// Event takes the document of POST /api/events. seed names the request where its client repeats it: with the same one, an
// event without a unique id counts once. Errors of the document are jsonapi.Errors.
func (k *Door) Event(ctx context.Context, tenant string, body []byte, seed string) (Position, error) {
	if err := k.checkBody(body); err != nil {
		return nil, err
	}
	r := k.reader(tenant, string(body))
	defer k.release(r)
	r.seed = seedOf(seed)
	r.readSingle()
	if err := r.outcome(); err != nil {
		k.numbers.refused.Inc()
		return nil, err
	}
	return k.append(ctx, r)
}

// Complete fills in what follows from an event's properties, for those who make records and not documents: the ids of metric and
// event, dimensions, what its message is known for, value. Errors are those of the properties.
func (k *Door) Complete(in *fact.Intake) error {
	r := k.reader(in.Tenant, string(in.Event.Properties))
	defer k.release(r)
	r.event = *in.Event
	r.seen.time = !r.event.Time.IsZero()
	if len(in.Event.Properties) > 0 {
		r.properties()
		r.end()
	}
	if r.complete("0"); r.bad || len(r.errs) > 0 {
		return r.outcome()
	}
	*in.Event = r.event
	in.Event.Dims = slices.Clone(r.event.Dims)
	in.Event.Properties = slices.Clone(r.filled)
	r.event.Dims = nil // the strings live on in the record
	return nil
}

// checkBody refuses what need not be read at all.
func (k *Door) checkBody(body []byte) error {
	if int64(len(body)) > int64(k.o.MaxPayload) {
		return TooLarge(k.o.MaxPayload)
	}
	return nil
}

// TooLarge is the error of a body of more than limit bytes.
func TooLarge(limit units.Size) error {
	return jsonapi.Errors{{Status: http.StatusRequestEntityTooLarge, Code: "payload_too_large", Title: "The payload is too large.",
		Detail: fmt.Sprintf("The body of a request has at most %v.", limit)}}
}

// metric is fact.DeriveMetric, remembered.
func (k *Door) metric(tenant, service, name string) fact.MetricID {
	key := metricKey{tenant, service, name}
	k.mu.RLock()
	id, ok := k.metrics[key]
	k.mu.RUnlock()
	if ok {
		return id
	}
	id = fact.DeriveMetric(tenant, service, name)
	key = metricKey{strings.Clone(tenant), strings.Clone(service), strings.Clone(name)}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.metrics) >= maxMetrics {
		clear(k.metrics)
	}
	k.metrics[key] = id
	return id
}
