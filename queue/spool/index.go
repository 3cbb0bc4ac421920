package spool

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
)

const indexFormat = 1

// Loc is where a message's row lies in the segment log.
type Loc struct {
	Seg uint64 // segment number
	Off uint32 // of the record in the segment
	Row uint32 // of the row's frame in the record's data
	Len uint32 // of that frame
}

// Pos is the record's position.
func (l Loc) Pos() seglog.Pos { return seglog.Pos{Seg: l.Seg, Off: int64(l.Off)} }

// Key is a row's place in the index: by queue, then by due time, so that the
// next due message of a queue is one seek away.
type Key struct {
	Queue uint32
	Due   int64 // Unix milliseconds
	ID    mail.ID
}

// Compare orders keys as the index does.
func (k Key) Compare(other Key) int {
	return cmp.Or(cmp.Compare(k.Queue, other.Queue), cmp.Compare(k.Due, other.Due), bytes.Compare(k.ID[:], other.ID[:]))
}

// Entry is one row of the index.
type Entry struct {
	Key
	Loc
	Shared    uint32 // number of the shared body it refers to; 0: none
	Attempts  int
	LastReply string // cut short; the event log has it whole
}

// QueueRecord names a scheduled queue and counts its index rows.
type QueueRecord struct {
	ID       uint32
	Priority mail.Priority
	Tenant   string
	Stream   string
	Domain   string
	Rows     int64
	Pool     string // absent in files of older versions: ""
}

// Checkpoint says what the index stands for: every live row of a record
// before Records, after the changes of every event before Events.
type Checkpoint struct {
	Records seglog.Pos
	Events  seglog.Pos
	// Injected is where to start looking for events and changes about records at or after Records.
	Injected seglog.Pos
}

// buckets of the index file.
const (
	bucketMeta       = "meta"        // format, checkpoint
	bucketQueues     = "queues"      // queue id → QueueRecord
	bucketDue        = "due"         // Key → Loc, attempts, last reply
	bucketShared     = "shared"      // body id → shared body
	bucketReceipts   = "receipts"    // tenant NUL key → receipt
	bucketSegments   = "segments"    // segment → index rows that lie in it
	bucketSharedRows = "shared-rows" // shared body number → index rows that refer to it
	bucketActions    = "actions"     // id → operator's action, opaque
)

// Index is the persistent list of messages that are not gone at once, on bbolt.
// It is written lazily, in groups; the segment log is the truth.
type Index struct {
	db     *bbolt.DB
	path   string
	broken atomic.Bool // a transaction came to grief on a damaged page
}

// openIndex opens or creates the index at path. The checks that keep a
// damaged file from faulting inside bbolt run first.
func openIndex(path string, readOnly bool) (x *Index, err error) {
	if err := checkIndexFile(path); err != nil {
		return nil, err
	}
	err = guardFault(path, func() error {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout: time.Second, FreelistType: bbolt.FreelistMapType, ReadOnly: readOnly,
			InitialMmapSize: 64 << 20,
		})
		if err != nil {
			return fmt.Errorf("open index %s: %w", path, err)
		}
		x = &Index{db: db, path: path}
		if readOnly {
			return nil
		}
		if err := x.prepare(); err != nil {
			_ = x.Close()
			return err
		}
		return nil
	})
	return x, err
}

func (x *Index) prepare() error {
	return x.update(func(tx *bbolt.Tx) error {
		for _, name := range []string{bucketMeta, bucketQueues, bucketDue, bucketShared, bucketReceipts, bucketSegments, bucketSharedRows, bucketActions} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return fmt.Errorf("prepare index: %w", err)
			}
		}
		meta := tx.Bucket([]byte(bucketMeta))
		if got := meta.Get([]byte("format")); got == nil {
			return meta.Put([]byte("format"), []byte{indexFormat})
		} else if got[0] != indexFormat {
			return fmt.Errorf("index has format %d, this program reads %d", got[0], indexFormat)
		}
		return nil
	})
}

// view and update run a transaction. bbolt takes the file for sound: on a
// damaged page it panics, or reads beyond the end of its map. Both become an *IndexError here.
func (x *Index) view(f func(*bbolt.Tx) error) error {
	return x.guard(func() error { return x.db.View(f) })
}

func (x *Index) update(f func(*bbolt.Tx) error) error {
	return x.guard(func() error { return x.db.Update(f) })
}

func (x *Index) guard(f func() error) error {
	err := guardFault(x.path, f)
	switch {
	case errors.Is(err, ErrIndexDamaged):
		x.broken.Store(true)
	case errors.Is(err, errDamaged):
		err = &IndexError{x.path, err.Error()}
	}
	return err
}

// damaged is the error for content that cannot be read.
func (x *Index) damaged(what string, key []byte) error {
	return &IndexError{x.path, fmt.Sprintf("%s %x cannot be read", what, key)}
}

// Close closes the file. After an *IndexError it does not: the transaction
// that failed may hold its locks for ever, and the process is about to end.
func (x *Index) Close() error {
	if x.broken.Load() {
		return nil
	}
	return x.db.Close()
}

// Size is the file's size in bytes.
func (x *Index) Size() int64 {
	info, err := os.Stat(x.path)
	if err != nil {
		return 0
	}
	return info.Size()
}

const keySize = 28

func (k Key) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, k.Queue)
	b = binary.BigEndian.AppendUint64(b, uint64(k.Due))
	return append(b, k.ID[:]...)
}

func parseKey(b []byte) (k Key, ok bool) {
	if len(b) != keySize {
		return k, false
	}
	k.Queue = binary.BigEndian.Uint32(b)
	k.Due = int64(binary.BigEndian.Uint64(b[4:]))
	copy(k.ID[:], b[12:])
	return k, true
}

const maxIndexedReply = 120

func (e *Entry) appendValue(b []byte) []byte {
	b = binary.AppendUvarint(b, e.Seg)
	b = binary.AppendUvarint(b, uint64(e.Off))
	b = binary.AppendUvarint(b, uint64(e.Row))
	b = binary.AppendUvarint(b, uint64(e.Len))
	b = binary.AppendUvarint(b, uint64(e.Shared))
	b = binary.AppendUvarint(b, uint64(e.Attempts))
	reply := e.LastReply
	if len(reply) > maxIndexedReply {
		reply = reply[:maxIndexedReply]
	}
	return append(b, reply...)
}

func parseEntry(k, v []byte) (Entry, bool) {
	key, ok := parseKey(k)
	d := decoder{b: v}
	e := Entry{Key: key}
	e.Seg = d.uint()
	e.Off = uint32(d.uint())
	e.Row = uint32(d.uint())
	e.Len = uint32(d.uint())
	e.Shared = uint32(d.uint())
	e.Attempts = int(d.uint())
	e.LastReply = string(d.b)
	return e, ok && d.err == nil
}

// Due returns up to limit entries of a queue after the key `after` (exclusive;
// nil for the first) that are due by now, in due order, and when the next
// one after those is due (math.MaxInt64: none).
func (x *Index) Due(queue uint32, after *Key, now int64, limit int) (list []Entry, next int64, err error) {
	next = math.MaxInt64
	err = x.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(bucketDue)).Cursor()
		prefix := binary.BigEndian.AppendUint32(nil, queue)
		from := prefix
		if after != nil {
			from = after.append(nil)
		}
		for k, v := c.Seek(from); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
			e, ok := parseEntry(k, v)
			if !ok {
				return x.damaged("row", k)
			}
			if after != nil && e.Key == *after {
				continue
			}
			if e.Due > now || len(list) >= limit {
				next = e.Due
				return nil
			}
			list = append(list, e)
		}
		return nil
	})
	return list, next, err
}

// FirstDue returns the due time of a queue's first row, math.MaxInt64 if it has none.
func (x *Index) FirstDue(queue uint32) (int64, error) {
	_, next, err := x.Due(queue, nil, math.MinInt64, 0)
	return next, err
}

// Scan calls f for every row of a queue (0: all queues) until it returns false.
func (x *Index) Scan(queue uint32, f func(Entry) bool) error {
	return x.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(bucketDue)).Cursor()
		var prefix []byte
		if queue != 0 {
			prefix = binary.BigEndian.AppendUint32(nil, queue)
		}
		for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
			e, ok := parseEntry(k, v)
			if !ok {
				return x.damaged("row", k)
			}
			if !f(e) {
				return nil
			}
		}
		return nil
	})
}

// Queues returns every queue record.
func (x *Index) Queues() (list []QueueRecord, err error) {
	err = x.view(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketQueues)).ForEach(func(k, v []byte) error {
			r, err := parseQueue(k, v)
			list = append(list, r)
			return err
		})
	})
	return list, err
}

func parseQueue(k, v []byte) (QueueRecord, error) {
	d := decoder{b: v}
	r := QueueRecord{ID: binary.BigEndian.Uint32(k), Priority: mail.Priority(d.uint()),
		Tenant: d.string(), Stream: d.string(), Domain: d.string(), Rows: int64(d.uint())}
	if d.err == nil && len(d.b) > 0 {
		r.Pool = d.string()
	}
	if d.err != nil {
		return r, fmt.Errorf("index: %w: queue %x", errDamaged, k)
	}
	return r, nil
}

func (r *QueueRecord) value() []byte {
	e := encoder{}
	e.uint(uint64(r.Priority))
	e.string(r.Tenant)
	e.string(r.Stream)
	e.string(r.Domain)
	e.uint(uint64(max(r.Rows, 0)))
	e.string(r.Pool)
	return e.b
}

// checkpoint reads the stored one; zero for a new index.
func (x *Index) checkpoint() (c Checkpoint, err error) {
	err = x.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket([]byte(bucketMeta)).Get([]byte("checkpoint"))
		if v == nil {
			return nil
		}
		d := decoder{b: v}
		for _, p := range []*seglog.Pos{&c.Records, &c.Events, &c.Injected} {
			p.Seg = d.uint()
			p.Off = int64(d.uint())
		}
		return d.err
	})
	return c, err
}

func (c Checkpoint) value() []byte {
	e := encoder{}
	for _, p := range []seglog.Pos{c.Records, c.Events, c.Injected} {
		e.uint(p.Seg)
		e.uint(uint64(p.Off))
	}
	return e.b
}

func receiptKey(tenant, key string) []byte { return []byte(tenant + "\x00" + key) }

func (x *Index) receipt(tenant, key string) (r *mail.Receipt, err error) {
	err = x.view(func(tx *bbolt.Tx) error {
		if v := tx.Bucket([]byte(bucketReceipts)).Get(receiptKey(tenant, key)); v != nil {
			r, err = decodeReceipt(bytes.Clone(v))
		}
		return err
	})
	return r, err
}

// dropReceipts removes those older than the limit and says how many.
func (x *Index) dropReceipts(before time.Time) (n int, err error) {
	err = x.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketReceipts))
		var old [][]byte
		err := b.ForEach(func(k, v []byte) error {
			if r, err := decodeReceipt(v); err != nil || r.At.Before(before) {
				old = append(old, bytes.Clone(k))
			}
			return nil
		})
		for _, k := range old {
			err = errors.Join(err, b.Delete(k))
		}
		n = len(old)
		return err
	})
	return n, err
}

func (x *Index) sharedBodies() (list []*sharedBody, err error) {
	err = x.view(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketShared)).ForEach(func(k, v []byte) error {
			c, err := parseShared(k, v)
			if err != nil {
				return err
			}
			list = append(list, c)
			return nil
		})
	})
	return list, err
}

// Actions returns the stored operator actions.
func (x *Index) Actions() (map[string][]byte, error) {
	actions := map[string][]byte{}
	err := x.view(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketActions)).ForEach(func(k, v []byte) error {
			actions[string(k)] = bytes.Clone(v)
			return nil
		})
	})
	return actions, err
}

// indexExists reports whether there is a file to open.
func indexExists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
