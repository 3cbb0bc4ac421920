package spool

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/godwit-mta/godwit/internal/mail"
)

// indexUpdate is one transaction on the index. Counts (rows per queue, per
// segment, per shared body) are derived inside it from what the index really
// holds, so applying an update twice, or a removal of what is not there,
// cannot make them wrong.
type indexUpdate struct {
	queues     []QueueRecord // names of queues that rows in put may be the first of
	put        []Entry
	remove     []Key
	relocate   []Entry // change the place of rows that are still there
	shared     []*sharedBody
	dropShared []mail.ID
	receipts   []*mail.Receipt
	actions    map[string][]byte // nil value: remove
	checkpoint Checkpoint
}

// deltas are what an update changed, by its own reading of the index.
type deltas struct {
	segments map[uint64]int64
	queues   map[uint32]int64
	shared   map[uint64]int64
}

func (d *deltas) count(e *Entry, by int64) {
	d.segments[e.Seg] += by
	d.queues[e.Queue] += by
	if e.Shared != 0 {
		d.shared[uint64(e.Shared)] += by
	}
}

// apply commits u, in key order since bbolt is fast only with ordered keys,
// and returns what it changed.
func (x *Index) apply(u *indexUpdate) (deltas, error) {
	var d deltas
	err := x.update(func(tx *bbolt.Tx) error {
		d = deltas{map[uint64]int64{}, map[uint32]int64{}, map[uint64]int64{}}
		if err := applyDue(tx.Bucket([]byte(bucketDue)), u, &d); err != nil {
			return err
		}
		if err := applyQueues(tx.Bucket([]byte(bucketQueues)), u, &d); err != nil {
			return err
		}
		if err := addCounts(tx.Bucket([]byte(bucketSegments)), d.segments); err != nil {
			return err
		}
		if err := addCounts(tx.Bucket([]byte(bucketSharedRows)), d.shared); err != nil {
			return err
		}
		if err := applyShared(tx, u); err != nil {
			return err
		}
		for id, v := range u.actions {
			if err := putOrDrop(tx.Bucket([]byte(bucketActions)), []byte(id), v, v == nil); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(bucketMeta)).Put([]byte("checkpoint"), u.checkpoint.value())
	})
	if err != nil {
		return d, fmt.Errorf("queue index: %w", err)
	}
	return d, nil
}

func putOrDrop(b *bbolt.Bucket, key, value []byte, drop bool) error {
	if drop {
		return b.Delete(key)
	}
	return b.Put(key, value)
}

func applyDue(due *bbolt.Bucket, u *indexUpdate, d *deltas) error {
	for i := range u.relocate {
		if err := relocateRow(due, &u.relocate[i], d); err != nil {
			return err
		}
	}
	remove := make([][]byte, len(u.remove))
	for i, k := range u.remove {
		remove[i] = k.append(make([]byte, 0, keySize))
	}
	slices.SortFunc(remove, bytes.Compare)
	for _, k := range remove {
		old, ok := parseEntry(k, due.Get(k))
		if !ok {
			continue
		}
		d.count(&old, -1)
		if err := due.Delete(k); err != nil {
			return err
		}
	}
	put := slices.Clone(u.put)
	slices.SortFunc(put, func(a, b Entry) int { return a.Key.Compare(b.Key) })
	for i := range put {
		k := put[i].Key.append(make([]byte, 0, keySize))
		if old, ok := parseEntry(k, due.Get(k)); ok {
			d.count(&old, -1)
		}
		d.count(&put[i], 1)
		if err := due.Put(k, put[i].appendValue(make([]byte, 0, 24))); err != nil {
			return err
		}
	}
	return nil
}

func relocateRow(due *bbolt.Bucket, e *Entry, d *deltas) error {
	k := e.Key.append(make([]byte, 0, keySize))
	old, ok := parseEntry(k, due.Get(k))
	if !ok {
		return nil
	}
	d.count(&old, -1)
	old.Loc = e.Loc
	d.count(&old, 1)
	return due.Put(k, old.appendValue(nil))
}

// applyQueues writes the records of queues whose number of rows changed; an
// empty queue has none.
func applyQueues(queues *bbolt.Bucket, u *indexUpdate, d *deltas) error {
	names := map[uint32]QueueRecord{}
	for _, q := range u.queues {
		names[q.ID] = q
	}
	for id, delta := range d.queues {
		key := binary.BigEndian.AppendUint32(nil, id)
		q, known := names[id]
		if v := queues.Get(key); v != nil {
			old, err := parseQueue(key, v)
			if err != nil {
				return err
			}
			q, known = old, true
		} else {
			q.Rows = 0
		}
		if !known {
			return fmt.Errorf("%w: rows of queue %d, which has no name", errDamaged, id)
		}
		q.Rows += delta
		if err := putOrDrop(queues, key, q.value(), q.Rows <= 0); err != nil {
			return err
		}
	}
	return nil
}

func addCounts(b *bbolt.Bucket, by map[uint64]int64) error {
	for id, delta := range by {
		key := binary.BigEndian.AppendUint64(nil, id)
		old, _ := binary.Uvarint(b.Get(key))
		n := int64(old) + delta
		if err := putOrDrop(b, key, binary.AppendUvarint(nil, uint64(max(n, 0))), n <= 0); err != nil {
			return err
		}
	}
	return nil
}

func applyShared(tx *bbolt.Tx, u *indexUpdate) error {
	shared := tx.Bucket([]byte(bucketShared))
	for _, c := range u.shared {
		if err := shared.Put(c.ref.ID[:], c.value()); err != nil {
			return err
		}
	}
	for _, id := range u.dropShared {
		if err := shared.Delete(id[:]); err != nil {
			return err
		}
	}
	receipts := tx.Bucket([]byte(bucketReceipts))
	for _, r := range u.receipts {
		if err := receipts.Put(receiptKey(r.Tenant, r.Key), encodeReceipt(r)); err != nil {
			return err
		}
	}
	return nil
}

// counts reads a bucket of counters.
func (x *Index) counts(bucket string) (map[uint64]int64, error) {
	rows := map[uint64]int64{}
	err := x.view(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucket)).ForEach(func(k, v []byte) error {
			n, _ := binary.Uvarint(v)
			rows[binary.BigEndian.Uint64(k)] = int64(n)
			return nil
		})
	})
	return rows, err
}

// entry returns the row under a key.
func (x *Index) entry(k Key) (e Entry, ok bool, err error) {
	err = x.view(func(tx *bbolt.Tx) error {
		key := k.append(nil)
		e, ok = parseEntry(key, tx.Bucket([]byte(bucketDue)).Get(key))
		return nil
	})
	return e, ok, err
}
