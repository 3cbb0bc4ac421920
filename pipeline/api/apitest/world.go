// Package apitest has a world in memory for tests of package api: a door with a log behind it whose records are applied
// at once, and what can be read of them. It is simple where the real one is exact: consent is a list of
// what was said, and merges move all at once.
package apitest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/ingest"
)

// World implements what api.Deps wants: its Door the door, Counts and Warehouse what they are called, itself the rest. It
// is safe for concurrent use.
type World struct {
	Door *ingest.Door

	mu       sync.Mutex
	tenants  map[string]*tenant
	appended int64

	// What tests set before they call: an error of every append, of every wait, of every read.
	AppendErr, WaitErr, ReadErr error
	// Puts counts the records that were applied.
	Puts int
	// Before is called before each append, if it is not nil.
	Before func()
}

type tenant struct {
	bound    map[fact.Identifier]fact.ProfileID
	profiles map[fact.ProfileID]*customer.Profile
	moved    map[fact.ProfileID]fact.ProfileID // zero: deleted
	events   []customer.Event
	uids     map[string]bool
	metrics  map[fact.MetricID]account.Metric
	objects  map[string]map[string][]byte
}

// New returns an empty world. Its clock is now.
func New(now func() time.Time) (*World, error) {
	w := &World{tenants: map[string]*tenant{}}
	o := ingest.DefaultOptions()
	door, err := ingest.New(o, ingest.Deps{Intake: (*topic)(w), Now: now})
	if err != nil {
		return nil, fmt.Errorf("apitest: %w", err)
	}
	w.Door = door
	return w, nil
}

func (w *World) tenant(name string) *tenant {
	t := w.tenants[name]
	if t == nil {
		t = &tenant{bound: map[fact.Identifier]fact.ProfileID{}, profiles: map[fact.ProfileID]*customer.Profile{}, moved: map[fact.ProfileID]fact.ProfileID{},
			uids: map[string]bool{}, metrics: map[fact.MetricID]account.Metric{}, objects: map[string]map[string][]byte{}}
		w.tenants[name] = t
	}
	return t
}

// topic is the log behind the door: one partition.
type topic World

func (t *topic) Name() string      { return "intake" }
func (t *topic) Partitions() int32 { return 1 }

func (t *topic) Append(_ context.Context, msgs []stream.Message) ([]int64, error) {
	if t.Before != nil {
		t.Before()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.AppendErr != nil {
		return nil, t.AppendErr
	}
	out := make([]int64, len(msgs))
	for i, m := range msgs {
		var in fact.Intake
		if err := in.Parse(bytes.Clone(m.Data)); err != nil {
			return nil, err
		}
		(*World)(t).apply(&in)
		out[i] = t.appended
		t.appended++
		t.Puts++
	}
	return out, nil
}

func (t *topic) Start(context.Context, int32) (int64, error) { return 0, nil }
func (t *topic) End(context.Context, int32) (int64, error)   { return t.appended, nil }
func (t *topic) Read(context.Context, int32, int64) (stream.Reader, error) {
	return nil, errors.ErrUnsupported
}

// apply does at once what the stages do.
func (w *World) apply(in *fact.Intake) {
	t := w.tenant(in.Tenant)
	switch in.Kind {
	case fact.KindMerge:
		t.merge(in.Merge)
	case fact.KindObject:
		o := in.Object
		if t.objects[o.Type] == nil {
			t.objects[o.Type] = map[string][]byte{}
		}
		if o.Data == nil {
			delete(t.objects[o.Type], o.ID)
		} else {
			t.objects[o.Type][o.ID] = o.Data
		}
	case fact.KindEvent, fact.KindChange:
		p := t.resolve(in)
		if p == nil {
			return
		}
		if in.Change != nil {
			t.change(p, in)
		}
		if in.Event != nil {
			t.event(p, in)
		}
	}
}

func (t *tenant) follow(id fact.ProfileID) fact.ProfileID {
	for {
		to, moved := t.moved[id]
		if !moved || to.IsZero() {
			return id
		}
		id = to
	}
}

func (t *tenant) resolve(in *fact.Intake) *customer.Profile {
	var id fact.ProfileID
	first := in.Who[0]
	if first.Kind == fact.ByProfile {
		id, _ = fact.ParseProfileID(first.Value)
		id = t.follow(id)
	} else if there, ok := t.bound[first]; ok && t.profiles[t.follow(there)] != nil {
		if id = t.follow(there); in.Fresh {
			return nil
		}
	} else {
		id = fact.DeriveProfile(in.Tenant, first, there)
	}
	for _, who := range in.Who {
		if old, ok := t.bound[who]; !ok || t.profiles[t.follow(old)] == nil {
			t.bound[who] = id
		}
	}
	p := t.profiles[id]
	if p == nil {
		p = &customer.Profile{ID: id, Created: in.At, Updated: in.At}
		t.profiles[id] = p
	}
	for _, who := range in.Who {
		if at := place(p, who.Kind.String()); at != nil && *at == "" {
			*at = who.Value
		}
	}
	return p
}

// place is where a profile has an identifier.
func place(p *customer.Profile, name string) *string {
	return map[string]*string{"external_id": &p.External, "email": &p.Email, "phone_number": &p.Phone, "anonymous_id": &p.Anonymous}[name]
}

func (t *tenant) change(p *customer.Profile, in *fact.Intake) {
	p.Updated = in.At
	var attributes map[string]json.RawMessage
	if len(in.Change.Attributes) > 0 {
		_ = json.Unmarshal(in.Change.Attributes, &attributes)
	}
	for name, v := range attributes {
		if at := place(p, name); at != nil {
			*at = ""
			_ = json.Unmarshal(v, at)
			delete(attributes, name)
		}
	}
	p.Attributes = merged(p.Attributes, attributes)
	var properties map[string]json.RawMessage
	if len(in.Change.Properties) > 0 {
		_ = json.Unmarshal(in.Change.Properties, &properties)
	}
	p.Properties = merged(p.Properties, properties)
	for _, c := range in.Change.Consent {
		if c.List != "" {
			t.join(p, c.List, c.Subscribed, in.At)
		}
		for _, list := range slices.Compact([]string{"", c.List}) {
			p.Consents = slices.DeleteFunc(p.Consents, func(o customer.Consent) bool { return o.Channel == c.Channel && o.List == list })
			p.Consents = append(p.Consents, customer.Consent{Channel: c.Channel, List: list, Subscribed: c.Subscribed, At: cmp.Or(c.At, in.At),
				Updated: in.At, Method: c.Method, Source: c.Source, Historical: c.Historical})
		}
	}
	for _, m := range in.Change.Lists {
		t.join(p, m.List, m.Join, in.At)
	}
	for _, s := range in.Change.Suppressions {
		p.Suppressions = slices.DeleteFunc(p.Suppressions, func(o customer.Suppression) bool { return o.Reason == s.Reason })
		if !s.Lift {
			p.Suppressions = append(p.Suppressions, customer.Suppression{Reason: s.Reason, At: in.At})
		}
	}
}

func (t *tenant) join(p *customer.Profile, list string, join bool, at time.Time) {
	i := slices.IndexFunc(p.Lists, func(m customer.Membership) bool { return m.List == list })
	switch {
	case join && i < 0:
		p.Lists = append(p.Lists, customer.Membership{List: list, Joined: at})
	case !join && i >= 0:
		p.Lists = slices.Delete(p.Lists, i, i+1)
	}
}

// merged sets the members of change in an object, null takes one away.
func merged(object []byte, change map[string]json.RawMessage) []byte {
	all := map[string]json.RawMessage{}
	if len(object) > 0 {
		_ = json.Unmarshal(object, &all)
	}
	for name, v := range change {
		if string(v) == "null" {
			delete(all, name)
		} else {
			all[name] = v
		}
	}
	b, _ := json.Marshal(all)
	return b
}

func (t *tenant) event(p *customer.Profile, in *fact.Intake) {
	e := in.Event
	key := p.ID.String() + e.Metric.String() + e.UID
	if t.uids[key] {
		return
	}
	t.uids[key] = true
	m, ok := t.metrics[e.Metric]
	if !ok {
		m = account.Metric{ID: e.Metric, Name: e.Name, Service: e.Service, Created: in.At}
	}
	m.Updated = in.At
	t.metrics[e.Metric] = m
	out := customer.Event{Profile: p.ID, Metric: e.Metric, Time: e.Time, Value: e.Value, HasValue: e.HasValue, Backfill: e.Backfill, Properties: bytes.Clone(e.Properties)}
	copy(out.ID[:], p.ID[:])
	b := bigEndian(uint64(e.Metric), xxhash.Sum64String(e.UID), 0)
	copy(out.ID[16:], b)
	t.events = append(t.events, out)
	if e.Time.After(p.LastEvent) {
		p.LastEvent = e.Time
	}
}

func bigEndian(numbers ...uint64) (out []byte) {
	for _, n := range numbers {
		for shift := 56; shift >= 0; shift -= 8 {
			out = append(out, byte(n>>shift))
		}
	}
	return out
}

func (t *tenant) merge(m *fact.Merge) {
	from, to := t.follow(m.Source), t.follow(m.Destination)
	p := t.profiles[from]
	if p == nil || from == to {
		return
	}
	delete(t.profiles, from)
	t.moved[from] = m.Destination
	if m.Destination.IsZero() {
		t.events = slices.DeleteFunc(t.events, func(e customer.Event) bool { return e.Profile == from })
		return
	}
	for i := range t.events {
		if t.events[i].Profile == from {
			t.events[i].Profile = to
			copy(t.events[i].ID[:], to[:])
		}
	}
}
