package spool

import (
	"container/list"
	"fmt"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
)

// sharedBody is a body that outlives its record's rows or lies outside the
// log: content stored for later batches, or a large file. Its rows count it.
type sharedBody struct {
	num    uint32 // short name inside the index
	ref    mail.BodyRef
	tenant string
	until  time.Time // kept at least until then; zero: as long as rows refer to it
	large  bool
	pos    seglog.Pos // of its record; for inline bytes also where they are
	off    uint32     // of the bytes in the record's data
	rows   int64      // live messages that refer to it
	stored bool       // the index has this entry
}

// dead waits a while past the end: a request that found the content just in
// time may still be on its way to Put.
func (c *sharedBody) dead(now time.Time) bool {
	const grace = 10 * time.Minute
	return c.rows <= 0 && (c.until.IsZero() || now.After(c.until.Add(grace)))
}

func (c *sharedBody) value() []byte {
	e := encoder{}
	e.uint(uint64(c.num))
	e.string(c.tenant)
	e.time(c.until)
	e.uint(uint64(c.ref.Kind))
	e.uint(uint64(c.ref.Size))
	e.bool(c.ref.EightBit)
	e.bool(c.ref.Content)
	e.bool(c.large)
	e.uint(c.pos.Seg)
	e.uint(uint64(c.pos.Off))
	e.uint(uint64(c.off))
	return e.b
}

func parseShared(k, v []byte) (*sharedBody, error) {
	d := decoder{b: v}
	c := &sharedBody{num: uint32(d.uint()), tenant: d.string(), until: d.time(), stored: true}
	copy(c.ref.ID[:], k)
	c.ref.Kind = mail.BodyKind(d.uint())
	c.ref.Size = int64(d.uint())
	c.ref.EightBit = d.bool()
	c.ref.Content = d.bool()
	c.large = d.bool()
	c.pos = seglog.Pos{Seg: d.uint(), Off: int64(d.uint())}
	c.off = uint32(d.uint())
	if d.err != nil || len(k) != 16 {
		return nil, fmt.Errorf("index: %w: shared body %x", errDamaged, k)
	}
	return c, nil
}

// byteCache keeps the most recently used shared bodies under a byte budget.
type byteCache struct {
	mu    sync.Mutex
	limit int64
	used  int64
	order *list.List
	byID  map[mail.ID]*list.Element
}

type cachedBody struct {
	id   mail.ID
	data []byte
}

func newByteCache(limit int64) *byteCache {
	return &byteCache{limit: limit, order: list.New(), byID: map[mail.ID]*list.Element{}}
}

func (c *byteCache) get(id mail.ID) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.byID[id]
	if el == nil {
		return nil
	}
	c.order.MoveToFront(el)
	return el.Value.(*cachedBody).data
}

func (c *byteCache) put(id mail.ID, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID[id] != nil || int64(len(data)) > c.limit {
		return
	}
	c.byID[id] = c.order.PushFront(&cachedBody{id, data})
	c.used += int64(len(data))
	for c.used > c.limit {
		last := c.order.Back()
		old := c.order.Remove(last).(*cachedBody)
		delete(c.byID, old.id)
		c.used -= int64(len(old.data))
	}
}
