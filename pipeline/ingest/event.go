package ingest

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Limits of texts in an event, in characters for the name and bytes for the rest.
const (
	maxName     = 128
	maxService  = 128
	maxUID      = 255
	maxProperty = 255 // bytes of a property's name

	mostValue = math.MaxInt64 / 1_000_000 // of Event.Value, in units
)

// readSingle reads the document of one event.
func (r *reader) readSingle() {
	r.item = -1
	found := false
	if !r.open() {
		return
	}
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			break
		}
		if key != "data" {
			r.skip()
			continue
		}
		r.readEvent()
		found = true
	}
	r.end()
	if !found && !r.bad && len(r.errs) == 0 {
		r.invalid(inJob, "", "is required")
	}
	if !r.bad && len(r.errs) == 0 {
		r.finish("0")
	}
}

// readEvent reads an event resource into r.event and r.profile.
func (r *reader) readEvent() {
	r.event = fact.Event{Dims: r.event.Dims[:0]}
	r.dropProperties()
	r.seen.attributes, r.seen.metric, r.seen.time = false, false, false
	if r.item < 0 {
		r.seen.profile = false
	}
	if !r.enter('{', inEvent, "") {
		return
	}
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			break
		}
		switch key {
		case "type":
			r.wantType(inEvent, "/type", "event")
		case "attributes":
			r.seen.attributes = true
			r.attributes()
		default:
			r.skip()
		}
	}
	switch {
	case r.bad:
	case !r.seen.attributes:
		r.invalid(inEvent, "/attributes", "is required")
	case !r.seen.metric:
		r.invalid(inEvent, "/attributes/metric", "is required")
	}
	if r.seen.attributes && !r.seen.profile && !r.bad {
		r.invalid(inEvent, "/attributes/profile", "is required")
	}
}

func (r *reader) attributes() {
	if !r.enter('{', inEvent, "/attributes") {
		r.seen.metric, r.seen.profile = true, true // one error is enough
		return
	}
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			return
		}
		switch key {
		case "properties":
			r.properties()
		case "time":
			r.time()
		case "value":
			r.value()
		case "value_currency":
			r.currency()
		case "unique_id":
			r.event.UID, _ = r.short(inEvent, "/attributes/unique_id", maxUID)
		case "backfill":
			r.event.Backfill = r.bool(inEvent, "/attributes/backfill")
		case "metric":
			r.seen.metric = true
			r.metric()
		case "profile":
			r.eventProfile()
		default:
			r.skip()
			r.invalid(inEvent, "/attributes/"+escape(key), "is not an attribute of an event; what is yours belongs in properties")
		}
	}
}

func (r *reader) time() {
	r.event.Time, r.seen.time = time.Time{}, false
	const rel = "/attributes/time"
	v, ok := r.string(inEvent, rel)
	if !ok {
		return
	}
	t, ok := instant(v)
	switch {
	case !ok:
		r.invalid(inEvent, rel, "must be a date and time of ISO 8601, such as 2026-11-21T09:30:00Z")
	case t.UnixMilli() <= 0:
		r.invalid(inEvent, rel, "must be after 1970")
	case t.After(r.now.Add(r.o.Ahead.D())):
		r.invalid(inEvent, rel, "must not be more than %v in the future", r.o.Ahead)
	default:
		r.event.Time, r.seen.time = t, true
	}
}

func (r *reader) value() {
	const rel = "/attributes/value"
	r.event.Value, r.event.HasValue = 0, false
	c := r.peek()
	raw := r.skip()
	switch {
	case c == 'n' || raw == "":
		return
	case c != '-' && (c < '0' || c > '9'):
		r.invalid(inEvent, rel, "must be a number")
		return
	}
	if r.event.Value, r.event.HasValue = millionths(raw); !r.event.HasValue {
		r.invalid(inEvent, rel, "must be between -%d and %d", int64(mostValue), int64(mostValue))
	}
}

func (r *reader) currency() {
	const rel = "/attributes/value_currency"
	r.event.Currency = ""
	v, ok := r.string(inEvent, rel)
	if !ok {
		return
	}
	if r.event.Currency, ok = currency(v); !ok {
		r.invalid(inEvent, rel, "must be a currency code of ISO 4217, such as EUR")
	}
}

// currency is a code of three letters in upper case.
func currency(s string) (string, bool) {
	if len(s) != 3 {
		return "", false
	}
	for _, c := range []byte(s) {
		if c |= 0x20; c < 'a' || c > 'z' {
			return "", false
		}
	}
	return strings.ToUpper(s), true
}

// metric reads {data:{type,attributes:{name,service}}}.
func (r *reader) metric() {
	r.event.Name, r.event.Service = "", ""
	named := false
	if !r.enterData(inEvent, "/attributes/metric") {
		return
	}
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			break
		}
		switch key {
		case "type":
			r.wantType(inEvent, "/attributes/metric/data/type", "metric")
		case "attributes":
			named = r.metricAttributes()
		default:
			r.skip()
		}
	}
	r.leaveData()
	if !named && !r.bad {
		r.invalid(inEvent, "/attributes/metric/data/attributes/name", "is required")
	}
}

// metricAttributes reports whether a name was there, be it one that cannot be used.
func (r *reader) metricAttributes() (named bool) {
	const rel = "/attributes/metric/data/attributes"
	r.event.Name, r.event.Service = "", ""
	if !r.enter('{', inEvent, rel) {
		return true
	}
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			return named
		}
		switch key {
		case "name":
			named = r.peek() != 'n'
			r.event.Name, _ = r.short(inEvent, rel+"/name", 4*maxName)
			if utf8.RuneCountInString(r.event.Name) > maxName {
				r.invalid(inEvent, rel+"/name", "must have at most %d characters", maxName)
			}
		case "service":
			r.event.Service, _ = r.short(inEvent, rel+"/service", maxService)
		default:
			r.skip()
		}
	}
}

func (r *reader) eventProfile() {
	if r.item >= 0 {
		r.skip()
		r.invalid(inEvent, "/attributes/profile", "must not be here: the profile of a bulk job's events stands beside them")
		return
	}
	r.seen.profile = true
	if !r.enterData(inEvent, "/attributes/profile") {
		return
	}
	r.readProfile()
	r.leaveData()
}

// properties passes the properties of an event, and keeps those that are looked at.
func (r *reader) properties() {
	r.dropProperties()
	const rel = "/attributes/properties"
	if r.peek() == 'n' {
		r.skip()
		return
	}
	start := r.i
	if !r.enter('{', inEvent, rel) {
		return
	}
	n := 0
	for ; ; n++ {
		key, ok := r.member(n)
		if !ok {
			break
		}
		raw := r.property(inEvent, rel, key)
		if s, ok := r.door.keys[key]; ok {
			r.slots[s] = raw
		}
	}
	if n > r.o.MaxProperties {
		r.invalid(inEvent, rel, "has %d properties, %d are allowed", n, r.o.MaxProperties)
	}
	if !r.bad {
		r.props, r.members = r.doc[start:r.i], n
	}
}

func (r *reader) dropProperties() {
	clear(r.slots)
	r.props, r.members = "", 0
}

// finish makes the record of an event that was read without an error. name tells it from the others of its request.
func (r *reader) finish(name string) {
	if r.complete(name); len(r.errs) > 0 {
		return
	}
	r.record = fact.Intake{Kind: fact.KindEvent, Tenant: r.tenant, At: r.now, Who: r.profile.who, Event: &r.event, Change: r.profile.take()}
	r.add(&r.record, fact.PartitionOf(r.tenant, r.profile.who[0], r.door.d.Intake.Partitions()))
	r.noteOld(&r.record)
}

// complete gives the event what it does not say itself.
func (r *reader) complete(name string) {
	e := &r.event
	if e.Service == "" {
		e.Service = "api"
	}
	if !r.seen.time {
		e.Time = r.now
	}
	if r.propertyValue(); len(r.errs) > 0 {
		return
	}
	if e.UID == "" {
		e.UID = r.uid(name)
	}
	r.filled = append(r.filled[:0], r.props...)
	r.hydrate()
	e.Properties = r.filled
	if e.Currency != "" && r.slots[slotCurrency] == "" {
		r.slots[slotCurrency] = `"` + e.Currency + `"`
	}
	r.dims()
	e.Metric = r.door.metric(r.tenant, e.Service, e.Name)
}

// propertyValue takes value and currency from the properties where the attributes have none.
func (r *reader) propertyValue() {
	e := &r.event
	if raw := r.slots[slotValue]; raw != "" && !e.HasValue {
		number := raw
		if raw[0] == '"' {
			s := scanner{doc: raw}
			s = scanner{doc: s.text()}
			if number = s.number(); s.bad || s.i < len(s.doc) {
				number = ""
			}
		}
		if number != "" && (number[0] == '-' || number[0] >= '0' && number[0] <= '9') {
			if e.Value, e.HasValue = millionths(number); !e.HasValue {
				r.invalid(inEvent, "/attributes/properties/$value", "must be between -%d and %d", int64(mostValue), int64(mostValue))
			}
		}
	}
	if raw := r.slots[slotCurrency]; raw != "" && e.Currency == "" && raw[0] == '"' {
		s := scanner{doc: raw}
		e.Currency, _ = currency(s.text())
	}
}

// uid is the unique id of an event that has none: one that follows from the request, or its time cut to the second.
func (r *reader) uid(name string) string {
	if r.seed != "" {
		return r.seed + name
	}
	return strconv.FormatInt(r.event.Time.Unix(), 10)
}

// seedOf is what unique ids begin with that come from a request of this name.
func seedOf(s string) string {
	if s == "" {
		return ""
	}
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:16]) + "."
}
