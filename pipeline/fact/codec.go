package fact

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// version is the first byte of each record.
const version = 1

// ErrFormat is returned for bytes that are not a record.
var ErrFormat = errors.New("fact: not a record")

// The parts of a record: a bit says that one is there.
const (
	hasEvent = 1 << iota
	hasChange
	hasClaim
	hasMerge
	hasTransfer
	hasObject
	hasOrigin
	isFresh
)

// Append appends the record in its binary form.
func (i *Intake) Append(b []byte) []byte {
	r := record{
		kind: i.Kind, tenant: i.Tenant, at: i.At, who: i.Who, fresh: i.Fresh, from: i.From,
		event: i.Event, change: i.Change, claim: i.Claim, merge: i.Merge, object: i.Object,
	}
	return r.append(b)
}

// Append appends the record in its binary form.
func (f *Fact) Append(b []byte) []byte {
	r := record{
		kind: f.Kind, tenant: f.Tenant, profile: f.Profile, at: f.At, who: f.Who, from: f.From,
		event: f.Event, change: f.Change, merge: f.Merge, transfer: f.Transfer, object: f.Object,
	}
	return r.append(b)
}

// Parse reads a record. Byte slices of it lie in data; strings do not, but those of one record may share their
// memory: strings.Clone what is kept for long.
func (i *Intake) Parse(data []byte) error {
	var r record
	if err := r.parse(data); err != nil {
		return err
	}
	if r.transfer != nil || !r.profile.IsZero() {
		return ErrFormat
	}
	*i = Intake{
		Kind: r.kind, Tenant: r.tenant, At: r.at, Who: r.who, Fresh: r.fresh, From: r.from,
		Event: r.event, Change: r.change, Claim: r.claim, Merge: r.merge, Object: r.object,
	}
	return nil
}

// Parse reads a record, as Intake.Parse does.
func (f *Fact) Parse(data []byte) error { return f.parse(data, nil) }

// Room is memory that one fact after the other is read into.
type Room struct {
	who    []Identifier
	event  Event
	change Change
}

// ParseInto is Parse, but event, change and identifiers are in the room: they are valid until it is used for the next fact.
func (f *Fact) ParseInto(data []byte, room *Room) error { return f.parse(data, room) }

func (f *Fact) parse(data []byte, room *Room) error {
	r := record{room: room}
	if err := r.parse(data); err != nil {
		return err
	}
	if r.claim != nil || r.fresh {
		return ErrFormat
	}
	*f = Fact{
		Kind: r.kind, Tenant: r.tenant, Profile: r.profile, At: r.at, Who: r.who, From: r.from,
		Event: r.event, Change: r.change, Merge: r.merge, Transfer: r.transfer, Object: r.object,
	}
	return nil
}

// record is what both have in common.
type record struct {
	kind     Kind
	fresh    bool
	profile  ProfileID
	tenant   string
	at       time.Time
	who      []Identifier
	event    *Event
	change   *Change
	claim    *Claim
	merge    *Merge
	transfer *Transfer
	object   *Object
	from     Origin
	room     *Room // nil: each part gets memory of its own
}

func (r *record) has() byte {
	return flag(r.event != nil)*hasEvent | flag(r.change != nil)*hasChange | flag(r.claim != nil)*hasClaim |
		flag(r.merge != nil)*hasMerge | flag(r.transfer != nil)*hasTransfer | flag(r.object != nil)*hasObject |
		flag(r.from.N > 0)*hasOrigin | flag(r.fresh)*isFresh
}

func (r *record) append(b []byte) []byte {
	b = append(b, version, byte(r.kind), r.has())
	b = appendString(b, r.tenant)
	b = append(b, r.profile[:]...)
	b = appendTime(b, r.at)
	b = binary.AppendUvarint(b, uint64(len(r.who)))
	for _, id := range r.who {
		b = appendIdentifier(b, id)
	}
	if r.from.N > 0 {
		b = r.from.append(b)
	}
	if r.event != nil {
		b = r.event.append(b)
	}
	if r.change != nil {
		b = r.change.append(b)
	}
	if r.claim != nil {
		b = r.claim.append(b)
	}
	if r.merge != nil {
		b = r.merge.append(b)
	}
	if r.transfer != nil {
		b = r.transfer.append(b)
	}
	if r.object != nil {
		b = r.object.append(b)
	}
	return b
}

func (r *record) parse(data []byte) error {
	p := newParser(data)
	if v := p.byte(); v != version {
		return fmt.Errorf("%w of version %d", ErrFormat, version)
	}
	r.kind = Kind(p.byte())
	has := p.byte()
	r.fresh = has&isFresh != 0
	r.tenant = p.string()
	copy(r.profile[:], p.take(16))
	r.at = p.time()
	if n := p.count(2); n > 0 {
		r.who = r.identifiers(n)
		for i := range r.who {
			r.who[i] = p.identifier()
		}
	}
	if has&hasOrigin != 0 {
		r.from.parse(&p)
	}
	r.parts(&p, has)
	return p.end()
}

// parts reads what only some records have.
func (r *record) parts(p *parser, has byte) {
	if has&hasEvent != 0 {
		r.event = r.newEvent()
		r.event.parse(p)
	}
	if has&hasChange != 0 {
		r.change = r.newChange()
		r.change.parse(p)
	}
	if has&hasClaim != 0 {
		r.claim = new(Claim)
		r.claim.parse(p)
	}
	if has&hasMerge != 0 {
		r.merge = new(Merge)
		r.merge.parse(p)
	}
	if has&hasTransfer != 0 {
		r.transfer = new(Transfer)
		r.transfer.parse(p)
	}
	if has&hasObject != 0 {
		r.object = new(Object)
		r.object.parse(p)
	}
}

func (r *record) identifiers(n int) []Identifier {
	if r.room == nil {
		return make([]Identifier, n)
	}
	r.room.who = sized(r.room.who, n)
	return r.room.who
}

func (r *record) newEvent() *Event {
	if r.room == nil {
		return new(Event)
	}
	r.room.event = Event{Dims: r.room.event.Dims[:0]}
	return &r.room.event
}

func (r *record) newChange() *Change {
	if r.room == nil {
		return new(Change)
	}
	r.room.change = Change{}
	return &r.room.change
}

// sized returns a slice of n elements, in the memory of s if there is enough.
func sized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
