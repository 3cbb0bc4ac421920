package customer

import (
	"encoding/binary"
	"time"

	"github.com/godwit-mta/godwit/pipeline/customer/patch"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// eventVersion is in the upper half of the first byte of an event's row; the flags are in the lower one.
const eventVersion = 1 << 4

const (
	hasValue   = 1 << iota
	isBackfill // history
	hasKept    // the properties that live definitions read
	hasContent // the row ends with all properties
)

// row is an event as its row has it. Its key has the profile, the metric, and the hash of the unique id.
type row struct {
	flags   byte
	time    int64  // milliseconds
	arrived int64  // milliseconds, in whole seconds from time
	value   int64  // millionths
	kept    []byte // JSON object
	content []byte // JSON object, as it came
}

func (r *row) append(b []byte) []byte {
	b = append(b, eventVersion|r.flags)
	b = binary.AppendVarint(b, r.time)
	b = binary.AppendVarint(b, floorDiv(r.arrived-r.time, 1000))
	if r.flags&hasValue != 0 {
		b = binary.AppendVarint(b, r.value)
	}
	if r.flags&hasKept != 0 {
		b = appendBytes(b, r.kept)
	}
	return append(b, r.content...)
}

// parse reads a row; kept and content lie in b.
func (r *row) parse(b []byte) error {
	d := decoder{b: b}
	f := d.byte()
	*r = row{flags: f & 15, time: d.varint()}
	r.arrived = r.time + d.varint()*1000
	if r.flags&hasValue != 0 {
		r.value = d.varint()
	}
	if r.flags&hasKept != 0 {
		r.kept = d.bytes()
	}
	if r.flags&hasContent != 0 {
		r.content, d.b = d.b, nil
	}
	if f&^15 != eventVersion {
		d.bad = true
	}
	return d.end("event")
}

const dayMillis = int64(24 * time.Hour / time.Millisecond)

// dayOf is the day of UTC, counted from 1970.
func dayOf(ms int64) int64 { return floorDiv(ms, dayMillis) }

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// dueDay is the day after which a row is folded: the window counts from the event's time, the one for duplicates from its arrival.
func (p *processor) dueDay(r *row) uint32 {
	at := max(r.time+p.o.Window.D().Milliseconds(), r.arrived+p.o.Dedupe.D().Milliseconds())
	return uint32(min(max(dayOf(at), 0), noDay-1))
}

// event stores an event, unless its profile has one of the metric with its unique id; and changes or makes the profile.
func (p *processor) event(f *fact.Fact, w who) error {
	s, made, err := p.profile(f, w)
	if err != nil || s == nil {
		return err
	}
	e := f.Event
	key := p.eventKey(w, e)
	hash := eventHash(key)
	if !made && !(p.filter.Covers(s.since) && !p.filter.Has(hash)) { // a new profile has none
		if there, err := p.st.tx.Has(key); err != nil || there {
			p.m.duplicates.Inc()
			return err
		}
	}
	r := row{time: e.Time.UnixMilli(), arrived: f.At.UnixMilli(), value: e.Value}
	if e.HasValue {
		r.flags |= hasValue
	}
	if e.Backfill {
		r.flags |= isBackfill
	}
	p.keep(f, &r)
	if p.o.KeepProperties && len(e.Properties) > 0 {
		r.flags |= hasContent
		r.content = e.Properties
	}
	p.value = r.append(p.value[:0])
	if err := p.setEvent(key, p.value); err != nil {
		return err
	}
	p.m.events.Inc()
	p.touch(w, s, r.time)
	return p.expect(w, s, p.dueDay(&r))
}

// headLag is how far the time in a head may be behind the latest event, in milliseconds, as long as that event's row is there. Without it
// nearly each event would write its profile's head too.
const headLag = int64(time.Hour / time.Millisecond)

// touch notes the time of an event of a profile.
func (p *processor) touch(w who, s *slot, at int64) {
	if s.head.last == never || at >= s.head.last+headLag {
		s.head.last = at
		p.touched[w] = s.head
	}
}

// eventKey makes the key of an event's row. It is valid until the next one is made.
func (p *processor) eventKey(w who, e *fact.Event) []byte {
	p.key = append(append(p.key[:0], prefixEvent), w[:]...)
	p.key = binary.BigEndian.AppendUint64(p.key, uint64(e.Metric))
	p.key = p.appendHash(p.key, e.UID)
	return p.key
}

// setEvent writes the row of an event.
func (p *processor) setEvent(key, value []byte) error {
	p.filter.Add(eventHash(key))
	return p.st.set(key, value)
}

// eventHash is a hash of an event's key, most parts of which are hashes themselves.
func eventHash(key []byte) uint64 {
	b := key[rowHead-8:]
	profile, metric, uid := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
	h := uid ^ profile*0x9e3779b97f4a7c15 ^ metric*0xc2b2ae3d27d4eb4f
	return h ^ h>>29
}

// Seeds of the two halves of the hash of a unique id.
const seed1, seed2 = 0, 0x9e3779b97f4a7c15

func (p *processor) appendHash(b []byte, uid string) []byte {
	for _, seed := range [...]uint64{seed1, seed2} {
		p.hash.ResetWithSeed(seed)
		_, _ = p.hash.WriteString(uid)
		b = binary.BigEndian.AppendUint64(b, p.hash.Sum64())
	}
	return b
}

// keep puts into r what live definitions read of the event's properties.
func (p *processor) keep(f *fact.Fact, r *row) {
	if p.d.Keep == nil || len(f.Event.Properties) == 0 {
		return
	}
	names := p.d.Keep(f.Tenant, f.Event.Metric)
	if len(names) == 0 {
		return
	}
	var kept patch.Object
	err := patch.Pick(f.Event.Properties, names, func(name string, value []byte) {
		if with, err := kept.With(name, value); err == nil {
			kept = with
		}
	})
	if err != nil {
		p.damaged("properties of an event", err)
	}
	if len(kept) > 0 {
		r.flags |= hasKept
		r.kept = kept.Append(nil)
	}
}

// expect sees to it that the rows of a profile are looked at after a day. A day that is over may have been swept.
func (p *processor) expect(w who, s *slot, day uint32) error {
	if s.due == day && int64(day) >= dayOf(p.clock) {
		return nil
	}
	s.due = day
	return p.expectOf(w, day)
}

func (p *processor) expectOf(w who, day uint32) error {
	p.due = min(p.due, day)
	p.key = binary.BigEndian.AppendUint32(append(p.key[:0], prefixDue), day)
	p.key = append(p.key, w[:]...)
	return p.st.set(p.key, []byte{rowVersion})
}
