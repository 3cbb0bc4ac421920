package account

import (
	"encoding/binary"
	"errors"
	"fmt"
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
		p.count.deletions.Add(1)
	} else {
		p.count.merges.Add(1)
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
	if who, known = p.profiles.get(id); known {
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
	for _, w := range p.windows() {
		for i := range w.events {
			if w.events[i].profile == dense {
				w.events[i].len = 0
			}
		}
	}
	var keys [][]byte
	err := p.eventsOf(tx, dense, func(k eventKey, _ []byte) error {
		keys = append(keys, k.append(nil))
		return nil
	})
	for _, k := range keys {
		err = errors.Join(err, tx.Put(k, nil))
	}
	return err
}

func (p *Processor) windows() []*window {
	return append(p.written[:len(p.written):len(p.written)], p.open)
}

// eventsOf calls f for each event of a profile: first those of the state, in the order of their keys, then those that are on their way
// there. What it is given is valid only during the call.
func (p *Processor) eventsOf(tx *keyed.Tx, dense uint32, f func(k eventKey, value []byte) error) (err error) {
	scanned := tx.Store().Scan(appendEvents(nil, dense), nil, func(key, value []byte) bool {
		k, ok := parseEventKey(key)
		if !ok {
			err = errDamaged
			return false
		}
		err = f(k, value)
		return err == nil
	})
	if err = errors.Join(err, scanned); err != nil {
		return err
	}
	for _, w := range p.windows() {
		for i := range w.events {
			e := &w.events[i]
			if e.profile != dense || e.len == gone {
				continue
			}
			if err := f(e.eventKey, w.values[e.at:e.at+e.len]); err != nil {
				return err
			}
		}
	}
	return nil
}

// move takes all events of a profile out of their buckets and sends them to where it went.
func (p *Processor) move(tx *keyed.Tx, f *fact.Fact, dense uint32, offset int64) error {
	out := p.parcel(tx, f.Tenant, f.At, *f.Merge, offset)
	var v eventValue
	var keys [][]byte
	err := p.eventsOf(tx, dense, func(k eventKey, value []byte) error {
		if !v.parse(value) {
			return errDamaged
		}
		m, err := p.numbered(tx, f.Tenant, k.metric)
		if err != nil {
			return err
		}
		p.change(&k, &v, m.tenant, -1)
		keys = append(keys, k.append(nil))
		return out.add(m, &k, &v)
	})
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := tx.Delete(k); err != nil {
			return err
		}
	}
	for _, w := range p.windows() {
		for i := range w.events {
			if w.events[i].profile == dense {
				w.events[i].len = gone
			}
		}
	}
	return out.send(true)
}

// pass sends on an event of a profile that is not here any more. No such event should come.
func (p *Processor) pass(tx *keyed.Tx, f *fact.Fact, k *eventKey, v *eventValue, offset int64) error {
	to, err := p.movedTo(tx, f.Profile)
	if err != nil {
		return err
	}
	m, err := p.numbered(tx, f.Tenant, k.metric)
	if err != nil {
		return err
	}
	out := p.parcel(tx, f.Tenant, f.At, fact.Merge{Source: f.Profile, Destination: to}, offset)
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

// transferVersion is the first byte of a transfer's data.
const transferVersion = 1

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
	o.group = append(o.group, k.uid[:]...)
	o.group = binary.AppendVarint(o.group, v.at)
	o.group = binary.AppendVarint(o.group, v.value)
	o.group = binary.AppendUvarint(o.group, uint64(len(v.dims)))
	for _, d := range v.dims {
		o.group = appendBytes(appendBytes(o.group, o.p.names[d.number]), d.value)
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
	if v := r.take(1); r.bad || v[0] != transferVersion {
		return fmt.Errorf("a transfer that is not of version %d", transferVersion)
	}
	for len(r.b) > 0 && !r.bad {
		var id fact.MetricID
		if b := r.take(8); b != nil {
			id = fact.MetricID(binary.BigEndian.Uint64(b))
		}
		created, service, name := r.varint(), r.string(), r.string()
		n := r.uvarint()
		if r.bad || n > uint64(len(r.b)) {
			return errors.New("a transfer that is cut off")
		}
		m, err := p.metric(tx, f.Tenant, id, service, name, time.UnixMilli(created))
		if err != nil {
			return err
		}
		for range n {
			if err := p.unpackEvent(tx, &r, m, who); err != nil {
				return err
			}
		}
	}
	if r.bad {
		return errors.New("a transfer that is cut off")
	}
	return nil
}

func (p *Processor) unpackEvent(tx *keyed.Tx, r *parser, m *metric, who profile) error {
	k := eventKey{profile: who.dense, metric: m.number}
	copy(k.uid[:], r.take(16))
	v := &p.value
	v.at, v.value, v.dims = r.varint(), r.varint(), v.dims[:0]
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		name, value := r.bytes(), r.bytes()
		if r.bad {
			break
		}
		if err := p.addDim(tx, v, string(name), string(value)); err != nil {
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
	if p.count.moved.Add(1); !fresh {
		p.count.conflicts.Add(1)
	}
	return nil
}
