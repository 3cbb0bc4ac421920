package account

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// marker notes that one partition of the first log sends nothing more under the source of a merge. When all have
// said so, the source leaves.
func (p *Processor) marker(tx *keyed.Tx, f *fact.Fact, offset int64) error {
	if f.From.Partition >= p.d.Partitions {
		return fmt.Errorf("a marker from partition %d of %d", f.From.Partition, p.d.Partitions)
	}
	key := append([]byte{prefixMarkers}, f.Merge.ID[:]...)
	old, err := tx.Get(key)
	if err != nil && !errors.Is(err, keyed.ErrNotFound) {
		return err
	}
	met := make([]byte, (p.d.Partitions+7)/8)
	copy(met, old)
	met[f.From.Partition/8] |= 1 << (f.From.Partition % 8)
	for q := range p.d.Partitions {
		if met[q/8]&(1<<(q%8)) == 0 {
			return tx.Set(key, met)
		}
	}
	if err := tx.Delete(key); err != nil {
		return err
	}
	return p.leave(tx, f, offset)
}

// leave takes a merged or deleted profile out of this partition.
func (p *Processor) leave(tx *keyed.Tx, f *fact.Fact, offset int64) error {
	who, known, err := p.existing(tx, f.Merge.Source)
	if err != nil || who.state != profileLiving {
		return err // it left already
	}
	to := f.Merge.Destination
	if who.state = profileMoved; to.IsZero() {
		who.state = profileDeleted
		p.done.deletions++
	} else {
		p.done.merges++
	}
	p.profiles.put(f.Merge.Source, who)
	if err := tx.Set(profileKey(f.Merge.Source), appendProfile(nil, who, to)); err != nil {
		return err
	}
	switch {
	case !known:
		return nil
	case who.state == profileDeleted:
		return p.strip(tx, who.dense)
	}
	return p.move(tx, f, who.dense, offset)
}

// existing finds a profile. One that is not known gets no number.
func (p *Processor) existing(tx *keyed.Tx, id fact.ProfileID) (who profile, known bool, err error) {
	if who, known = p.profiles.get(&id); known {
		return who, true, nil
	}
	if p.profiles.isNew(id) {
		return who, false, nil
	}
	v, err := tx.Get(profileKey(id))
	if errors.Is(err, keyed.ErrNotFound) {
		return who, false, nil
	}
	if err == nil {
		who, _, err = parseProfile(v)
	}
	return who, err == nil, err
}

// strip leaves of a profile's events nothing but that they were counted. It stays, for events of
// profiles that were merged into it may still be on their way, and must not count again.
func (p *Processor) strip(tx *keyed.Tx, dense uint32) error {
	all, err := p.eventsOf(tx, dense)
	if err != nil {
		return err
	}
	for i := range all {
		if e := all[i].row; e != nil {
			e.len = 0
		}
		if all[i].open {
			continue
		}
		p.key = all[i].append(p.key[:0])
		if err := tx.Put(p.key, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *Processor) windows() []*window {
	return append(p.written[:len(p.written):len(p.written)], p.open)
}

// ownEvent is an event of a profile that leaves.
type ownEvent struct {
	eventKey
	value []byte
	row   *eventRow // nil if the state has it
	open  bool      // the row is in no Tx yet
}

// eventsOf lists the events of a profile in the order of their keys, wherever they are: a replay has to find them in the same one, or
// parcels would be packed otherwise.
func (p *Processor) eventsOf(tx *keyed.Tx, dense uint32) (all []ownEvent, err error) {
	if dense < p.saved.profile { // otherwise it is new since the last commit
		bad := false
		err = tx.Scan(appendEvents(nil, dense), nil, func(key, value []byte) bool {
			k, ok := parseEventKey(key)
			all, bad = append(all, ownEvent{eventKey: k, value: bytes.Clone(value)}), !ok
			return ok
		})
		if err == nil && bad {
			err = errDamaged
		}
	}
	for _, w := range p.windows() {
		w.eventsOf(dense, func(e *eventRow) {
			all = append(all, ownEvent{e.eventKey, w.values[e.at : e.at+e.len : e.at+e.len], e, w == p.open})
		})
	}
	slices.SortFunc(all, func(a, b ownEvent) int { return cmp.Or(cmp.Compare(a.metric, b.metric), cmp.Compare(a.uid, b.uid)) })
	return all, err
}

// move takes all events of a profile out of their buckets and sends them to where it went.
func (p *Processor) move(tx *keyed.Tx, f *fact.Fact, dense uint32, offset int64) error {
	all, err := p.eventsOf(tx, dense)
	if err != nil {
		return err
	}
	out := p.parcel(tx, f.Tenant, f.At, *f.Merge, offset)
	tenant := []byte(f.Tenant)
	var v eventValue
	for i := range all {
		e := &all[i]
		if !v.parse(e.value) {
			return errDamaged
		}
		m, err := p.numbered(tx, tenant, e.metric)
		if err != nil {
			return err
		}
		if err := p.resolve(tx, &v); err != nil {
			return err
		}
		p.change(&e.eventKey, &v, m.tenant, -1)
		if err := out.add(m, &e.eventKey, &v); err != nil {
			return err
		}
		if e.row != nil {
			e.row.len = gone
		}
		if e.open {
			continue
		}
		p.key = e.append(p.key[:0])
		if err := tx.Delete(p.key); err != nil {
			return err
		}
	}
	return out.send(true)
}

// resolve completes the dimensions of an event that was counted before: what they were counted by, and their texts.
func (p *Processor) resolve(tx *keyed.Tx, v *eventValue) (err error) {
	for i := range v.dims {
		d := &v.dims[i]
		if d.value == 0 {
			d.ref = cold | ref(p.values.place(d.number, d.text))
			continue
		}
		d.ref = ref(d.value)
		if d.text, err = p.text(tx, d.value); err != nil {
			return err
		}
	}
	return nil
}

// pass sends on an event of a profile that is not here any more. No such event should come.
func (p *Processor) pass(tx *keyed.Tx, f *view, k *eventKey, v *eventValue, offset int64) error {
	p.done.stray++
	to, err := p.movedTo(tx, f.profile)
	if err != nil {
		return err
	}
	m, err := p.numbered(tx, f.tenant, k.metric)
	if err != nil {
		return err
	}
	out := p.parcel(tx, string(f.tenant), time.UnixMilli(f.at).UTC(), fact.Merge{Source: f.profile, Destination: to}, offset)
	if err := out.add(m, k, v); err != nil {
		return err
	}
	return out.send(true)
}

func (p *Processor) movedTo(tx *keyed.Tx, id fact.ProfileID) (fact.ProfileID, error) {
	v, err := tx.Get(profileKey(id))
	if err != nil {
		return fact.ProfileID{}, err
	}
	_, to, err := parseProfile(v)
	return to, err
}

// transfer takes events of a merged profile, or sends them on if their destination has been merged as well.
func (p *Processor) transfer(tx *keyed.Tx, f *fact.Fact, offset int64) error {
	who, err := p.profile(tx, f.Profile)
	if err != nil {
		return err
	}
	if who.state == profileMoved {
		to, err := p.movedTo(tx, f.Profile)
		if err != nil {
			return err
		}
		p.emit(tx, &fact.Fact{Kind: fact.KindTransfer, Tenant: f.Tenant, Profile: to, At: f.At, Transfer: f.Transfer}, offset, 1)
		return nil
	}
	return p.unpack(tx, f, who)
}

// emit sends a fact to its profile.
func (p *Processor) emit(tx *keyed.Tx, f *fact.Fact, offset int64, n int32) {
	a := tx.Assignment()
	f.From = fact.Origin{Stage: fact.StageAccount, Partition: a.Partition, Offset: offset, N: n, Generation: a.Generation}
	tx.Emit(p.d.Facts, stream.Message{Partition: f.Profile.Partition(p.d.Facts.Partitions()), Data: f.Append(nil)})
}

// transferVersion is the first byte of a transfer's data. Those that logs have of version 1 are read as well: its
// unique ids' hashes are longer.
const (
	transferVersion    = 2
	oldTransferVersion = 1
	oldUIDBytes        = 16
)

// maxParcel is from which length on a transfer's data is sent.
const maxParcel = 192 << 10

// parcel packs events into transfers. Events of one metric follow each other behind the metric's head.
type parcel struct {
	p      *Processor
	tx     *keyed.Tx
	fact   fact.Fact
	offset int64
	sent   int32
	data   []byte
	metric *metric
	group  []byte // events of metric
	events uint64
}

func (p *Processor) parcel(tx *keyed.Tx, tenant string, at time.Time, m fact.Merge, offset int64) *parcel {
	return &parcel{p: p, tx: tx, offset: offset, fact: fact.Fact{
		Kind: fact.KindTransfer, Tenant: tenant, Profile: m.Destination, At: at,
		Transfer: &fact.Transfer{Merge: m, Level: fact.StageAccount},
	}}
}

func (o *parcel) add(m *metric, k *eventKey, v *eventValue) error {
	if m != o.metric {
		o.close()
		o.metric = m
	}
	o.group = binary.BigEndian.AppendUint64(o.group, k.uid)
	o.group = binary.AppendVarint(o.group, v.at)
	o.group = binary.AppendVarint(o.group, v.value)
	o.group = binary.AppendUvarint(o.group, uint64(len(v.dims)))
	for _, d := range v.dims {
		o.group = appendBytes(appendBytes(o.group, o.p.names[d.number]), d.text)
	}
	if o.events++; len(o.data)+len(o.group) >= maxParcel {
		return o.send(false)
	}
	return nil
}

// close ends the events of a metric.
func (o *parcel) close() {
	if o.events == 0 {
		return
	}
	if len(o.data) == 0 {
		o.data = append(o.data, transferVersion)
	}
	m := o.metric
	o.data = binary.BigEndian.AppendUint64(o.data, uint64(m.id))
	o.data = binary.AppendVarint(o.data, m.created)
	o.data = appendBytes(appendBytes(o.data, m.service), m.name)
	o.data = binary.AppendUvarint(o.data, o.events)
	o.data = append(o.data, o.group...)
	o.group, o.events = o.group[:0], 0
}

// send emits what is packed, if there is something.
func (o *parcel) send(last bool) error {
	o.close()
	if len(o.data) == 0 {
		return nil
	}
	t := o.fact.Transfer
	t.N, t.Last, t.Data = o.sent, last, o.data
	o.sent++
	o.p.emit(o.tx, &o.fact, o.offset, o.sent)
	o.data = o.data[:0]
	return nil
}

// unpack counts the events of a transfer that the destination does not have itself.
func (p *Processor) unpack(tx *keyed.Tx, f *fact.Fact, who profile) error {
	r := parser{b: f.Transfer.Data}
	uid := uint64(uidBytes)
	switch r.byte() {
	case transferVersion:
	case oldTransferVersion:
		uid = oldUIDBytes
	default:
		return fmt.Errorf("a transfer that is not of version %d", transferVersion)
	}
	tenant := []byte(f.Tenant)
	for len(r.b) > 0 && !r.bad {
		id := fact.MetricID(r.uint64())
		created, service, name := r.varint(), r.bytes(), r.bytes()
		n := r.uvarint()
		if r.bad || n > uint64(len(r.b)) {
			return errors.New("a transfer that is cut off")
		}
		m, err := p.metric(tx, tenant, id, service, name, created)
		if err != nil {
			return err
		}
		for range n {
			if err := p.unpackEvent(tx, &r, uid, m, who); err != nil {
				return err
			}
		}
	}
	if r.bad {
		return errors.New("a transfer that is cut off")
	}
	return nil
}

func (p *Processor) unpackEvent(tx *keyed.Tx, r *parser, uid uint64, m *metric, who profile) error {
	k := eventKey{profile: who.dense, metric: m.number}
	if b := r.take(uid); b != nil {
		k.uid = binary.BigEndian.Uint64(b)
	}
	v := &p.value
	v.at, v.value, v.dims = r.varint(), r.varint(), v.dims[:0]
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		name, value := r.bytes(), r.bytes()
		if r.bad {
			break
		}
		if err := p.addDim(tx, v, name, value); err != nil {
			return err
		}
	}
	if r.bad {
		return errors.New("a transfer that is cut off")
	}
	fresh, err := p.tally(tx, &k, v, m.tenant, who)
	if err != nil {
		return err
	}
	if p.done.moved++; !fresh {
		p.done.conflicts++
	}
	return nil
}
