package customer

import (
	"fmt"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// marker counts the partitions of the first log that send nothing more for a profile. After the last one the
// profile leaves: all of it is removed, a tombstone stays, and what it had goes to its destination, if there is one.
func (p *processor) marker(f *fact.Fact, w who) error {
	m := f.Merge
	if f.From.Partition < 0 || f.From.Partition >= p.d.Partitions {
		p.damaged("marker", fmt.Errorf("it is from partition %d of %d", f.From.Partition, p.d.Partitions))
		return nil
	}
	h, _, err := p.head(w)
	if err != nil || h.standing == merged || h.standing == deleted {
		return err
	}
	key := append(append([]byte{prefixMerge}, w[:8]...), m.ID[:]...)
	old, err := p.st.get(key)
	if err != nil {
		return err
	}
	bits := make([]byte, 1+(p.d.Partitions+7)/8)
	bits[0] = rowVersion
	copy(bits, old)
	bits[1+f.From.Partition/8] |= 1 << (f.From.Partition % 8)
	for q := range p.d.Partitions {
		if bits[1+q/8]&(1<<(q%8)) == 0 {
			return p.st.tx.Set(key, bits)
		}
	}
	if err := p.st.tx.Delete(key); err != nil {
		return err
	}
	return p.leave(f, w, h)
}

// leave removes a profile and sends it to where it goes.
func (p *processor) leave(f *fact.Fact, w who, h head) error {
	out := chunks{p: p, f: f}
	if h.standing == living {
		d, raw, err := p.document(w)
		if err != nil {
			return err
		}
		out.document(raw, h.last)
		if err := p.write(w, d, nil); err != nil {
			return err
		}
		if err := p.leaveRows(w, &out); err != nil {
			return err
		}
	}
	p.m.left.Inc()
	next := head{standing: merged, to: f.Merge.Destination, last: never}
	if f.Merge.Destination.IsZero() {
		next = head{standing: deleted, last: never}
	}
	p.setHead(w, next)
	return out.end()
}

// leaveRows removes the events of a profile and the counts of its days.
func (p *processor) leaveRows(w who, out *chunks) error {
	err := p.scan(append([]byte{prefixEvent}, w[:]...), func(k, v []byte) error {
		out.row(chunkEvent, k[rowHead:], v)
		return p.st.remove(k)
	})
	if err != nil {
		return err
	}
	return p.scan(append([]byte{prefixBucket}, w[:]...), func(k, v []byte) error {
		out.row(chunkBucket, k[rowHead:], v)
		return p.st.remove(k)
	})
}

// transfer takes in a part of a merged profile, or sends it on if its destination was merged itself.
func (p *processor) transfer(f *fact.Fact, w who) error {
	h, _, err := p.head(w)
	if err != nil {
		return err
	}
	switch h.standing {
	case deleted:
		return nil
	case merged:
		t := *f.Transfer
		p.send(f, h.to, &t)
		return nil
	}
	p.m.arrived.Inc()
	return p.arrive(f, w, h)
}

// send emits a transfer, with this record as its origin.
func (p *processor) send(f *fact.Fact, to fact.ProfileID, t *fact.Transfer) {
	p.n++
	a := p.st.tx.Assignment()
	out := fact.Fact{Kind: fact.KindTransfer, Tenant: f.Tenant, Profile: to, At: f.At, Transfer: t,
		From: fact.Origin{Stage: fact.StageCustomer, Partition: a.Partition, Offset: p.offset, N: p.n, Generation: a.Generation}}
	p.st.tx.Emit(p.d.Facts, stream.Message{Partition: to.Partition(p.d.Facts.Partitions()), Data: out.Append(nil)})
}
