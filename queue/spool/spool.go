// Package spool keeps accepted messages on a volume so that they survive a
// power cut from the moment Put returns.
//
// The truth is an append-only segment log: one record per batch, with the
// body and a checksummed row per recipient, made durable by one group commit
// for all connections. What is not gone at once gets a row in the index, a
// bbolt file, lazily and in groups; a message delivered at its first try never
// touches it. State changes and events are one record in the event log.
//
// Recovery is: read the index, apply the changes logged after its
// checkpoint, and read the records after it. DESIGN.md in this folder says why
// this order is right and what happens at each possible crash.
//
// A volume carries its own id and format version. Nothing in it names the
// node: whoever starts with the volume carries on.
package spool

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
	"github.com/godwit-mta/godwit/internal/units"
)

// Options are the configurable parts.
type Options struct {
	SegmentSize units.Size `toml:"segment_size" doc:"Size of one body segment file; segments are written ahead and recycled."`
	Spares      int        `toml:"spare_segments" doc:"Segments kept written ahead, so that a sync does not wait for the file system to allocate."`
	MinFree     units.Size `toml:"min_free" doc:"Free space on the volume below which new messages are refused with 452 or 503."`
	BodyMemory  units.Size `toml:"body_memory" doc:"Memory for bodies read back from disk at the same time; a delivery waits when it is used up."`
	CacheMemory units.Size `toml:"cache_memory" doc:"Memory for the most recently used shared bodies."`
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	return Options{SegmentSize: 64 << 20, Spares: 2, MinFree: 512 << 20, BodyMemory: 128 << 20, CacheMemory: 64 << 20}
}

// Validate names the first key that cannot be used.
func (o Options) Validate() error {
	switch {
	case o.SegmentSize < 1<<20 || o.SegmentSize > 2<<30:
		return fmt.Errorf("segment_size: %s is not between 1MiB and 2GiB", o.SegmentSize)
	case o.Spares < 0 || o.Spares > 64:
		return fmt.Errorf("spare_segments: %d is not between 0 and 64", o.Spares)
	case o.BodyMemory < 1<<20:
		return fmt.Errorf("body_memory: %s is less than 1MiB", o.BodyMemory)
	}
	return nil
}

// Deps are what a spool works with.
type Deps struct {
	FS         faultfs.FS // nil: the operating system's
	Events     event.LogOptions
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// InjectedEvent makes the injected event of a message whose own was lost in a
	// crash, before it was logged.
	InjectedEvent func(*mail.Message) event.Event
}

// Spool is one volume in use.
type Spool struct {
	dir    string
	o      Options
	fs     faultfs.FS
	log    *seglog.Log
	events *event.Log
	index  *Index
	lock   *os.File
	slog   *slog.Logger
	codec  rowCodec
	volume Volume

	injectedEvent func(*mail.Message) event.Event

	floors  floors
	headers headerCache
	bodies  *byteCache
	memory  *semaphore.Weighted
	full    atomic.Bool // free space is below the reserve

	mu         sync.Mutex
	segments   map[uint64]*segmentRows
	shared     map[mail.ID]*sharedBody
	receipts   map[string]*mail.Receipt // not yet in the index
	nextShared uint32
	checkpoint Checkpoint

	pending *pendingFlush // touched by the one caller of Flush and Retry only
}

// segmentRows counts the live rows and shared bodies whose bytes lie in a segment.
type segmentRows struct{ fresh, indexed int64 }

func (s *Spool) path(name string) string { return filepath.Join(s.dir, name) }

// Volume tells which volume this is.
func (s *Spool) Volume() Volume { return s.volume }

// EventLog is the log that Complete writes to.
func (s *Spool) EventLog() *event.Log { return s.events }

// Index gives read access to the persistent rows.
func (s *Spool) Index() *Index { return s.index }

// LogStats are the segment log's counters.
func (s *Spool) LogStats() seglog.Stats { return s.log.Stats() }

// SegmentBytes is how much of the volume live segments use.
func (s *Spool) SegmentBytes() (n int64) {
	for _, info := range s.log.Segments() {
		n += info.Bytes
	}
	return n
}

// CheckFree measures the free space and remembers whether messages may be taken.
// It returns the free bytes.
func (s *Spool) CheckFree() (int64, error) {
	free, _, err := s.fs.Free(s.dir)
	if err != nil {
		return 0, fmt.Errorf("spool: %w", err)
	}
	s.full.Store(int64(free) < int64(s.o.MinFree))
	return int64(free), nil
}

// Full reports whether free space is below the reserve.
func (s *Spool) Full() bool { return s.full.Load() }

// Put makes a batch durable and then calls register with the place of each
// message, in order. No checkpoint passes the batch until told has been called,
// which must be when its injected events are logged (at once if it has no messages). Errors are mail.ErrDiskFull, mail.ErrTooLarge or the log's failure;
// after an error nothing of the batch will be delivered by this process. The
// body's bytes belong to the spool from the call on.
func (s *Spool) Put(ctx context.Context, b *mail.Batch, register func(places []Loc, told func())) error {
	if s.full.Load() {
		return mail.ErrDiskFull
	}
	if b.Body != nil && b.Body.Path != "" {
		if err := s.adoptLarge(b.Body); err != nil {
			return err
		}
	}
	enc := s.codec.encodeBatch(b)
	ticket := s.floors.enter(s.tails)
	pos, err := s.log.Append(ctx, recordBatch, enc.parts...)
	if err != nil {
		s.floors.leave(ticket)
		s.orphan(b, err)
		return fmt.Errorf("spool: %w", err)
	}
	locs := make([]Loc, len(enc.rows))
	for i, r := range enc.rows {
		locs[i] = Loc{Seg: pos.Seg, Off: uint32(pos.Off), Row: r.off, Len: r.len}
	}
	s.account(b, pos, uint32(len(enc.parts[0])))
	register(locs, func() { s.floors.leave(ticket) })
	return nil
}

// orphan removes the large file of a batch that was certainly not stored.
// After a failed write it may have been: then the next start decides.
func (s *Spool) orphan(b *mail.Batch, err error) {
	certain := errors.Is(err, mail.ErrDiskFull) || errors.Is(err, mail.ErrTooLarge)
	if b.Body != nil && b.Body.Path != "" && certain {
		_ = os.Remove(b.Body.Path)
	}
}

// account notes what a durable batch added. off is where an inline body starts.
func (s *Spool) account(b *mail.Batch, pos seglog.Pos, off uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segment(pos.Seg).fresh += int64(len(b.Messages))
	if b.Body != nil && (b.Body.Path != "" || !b.ContentUntil.IsZero()) {
		s.share(b, pos, off)
	}
	for _, m := range b.Messages {
		if c := s.sharedOf(m); c != nil {
			c.rows++
		}
	}
	if b.Receipt != nil {
		s.receipts[b.Receipt.Tenant+"\x00"+b.Receipt.Key] = b.Receipt
	}
}

func (s *Spool) share(b *mail.Batch, pos seglog.Pos, off uint32) {
	c := &sharedBody{tenant: b.ContentTenant, until: b.ContentUntil, large: b.Body.Path != "", pos: pos, off: off}
	c.ref = mail.BodyRef{ID: b.Body.ID, Kind: b.Body.Kind, Size: b.Body.Size, EightBit: b.Body.EightBit, Content: !b.ContentUntil.IsZero()}
	s.nextShared++
	c.num = s.nextShared
	s.shared[c.ref.ID] = c
	s.segment(pos.Seg).fresh++
	if !c.large {
		s.bodies.put(c.ref.ID, b.Body.Data)
	}
}

// sharedOf finds the shared body of a message; nil if its body lies beside it.
func (s *Spool) sharedOf(m *mail.Message) *sharedBody {
	if len(s.shared) == 0 {
		return nil
	}
	return s.shared[m.Body.ID]
}

func (s *Spool) segment(seq uint64) *segmentRows {
	c := s.segments[seq]
	if c == nil {
		c = &segmentRows{}
		s.segments[seq] = c
	}
	return c
}

// Load reads a message back from its row.
func (s *Spool) Load(loc Loc) (*mail.Message, error) {
	h, err := s.header(loc.Pos())
	if err != nil {
		return nil, err
	}
	buf := make([]byte, loc.Len)
	if _, err := s.log.ReadAt(buf, loc.Seg, seglog.DataOffset(loc.Pos())+int64(loc.Row)); err != nil {
		return nil, fmt.Errorf("spool: row at %v: %w", loc.Pos(), err)
	}
	content, _, err := unframe(buf)
	if err != nil {
		return nil, fmt.Errorf("spool: row at %v: %w", loc.Pos(), err)
	}
	return s.codec.decode(content, h.header)
}

// cachedHeader is a batch header and where its body starts.
type cachedHeader struct {
	*header
	bodyOff uint32
}

// headerCache remembers batch headers: rows of one batch are loaded together.
type headerCache struct {
	mu sync.Mutex
	m  map[seglog.Pos]cachedHeader
}

const maxCachedHeaders = 1024

func (s *Spool) header(pos seglog.Pos) (cachedHeader, error) {
	s.headers.mu.Lock()
	h, ok := s.headers.m[pos]
	s.headers.mu.Unlock()
	if ok {
		return h, nil
	}
	h, err := s.readHeader(pos)
	if err != nil {
		return h, fmt.Errorf("spool: batch at %v: %w", pos, err)
	}
	s.headers.mu.Lock()
	if len(s.headers.m) >= maxCachedHeaders {
		clear(s.headers.m)
	}
	s.headers.m[pos] = h
	s.headers.mu.Unlock()
	return h, nil
}

func (s *Spool) readHeader(pos seglog.Pos) (cachedHeader, error) {
	var lead [headerAt + 4]byte
	at := seglog.DataOffset(pos)
	if _, err := s.log.ReadAt(lead[:], pos.Seg, at); err != nil {
		return cachedHeader{}, err
	}
	size := binary.LittleEndian.Uint32(lead[headerAt:])
	if lead[0] != batchVersion || size > 1<<20 {
		return cachedHeader{}, errDamaged
	}
	buf := make([]byte, size+frameOverhead)
	if _, err := s.log.ReadAt(buf, pos.Seg, at+headerAt); err != nil {
		return cachedHeader{}, err
	}
	content, _, err := unframe(buf)
	if err != nil {
		return cachedHeader{}, err
	}
	h, err := decodeHeader(content)
	return cachedHeader{h, headerAt + size + frameOverhead + 4}, err
}

// Body reads a message's body. It waits while the memory for bodies is used
// up; release gives it back. The bytes must not be changed.
func (s *Spool) Body(ctx context.Context, m *mail.Message, loc Loc) (data []byte, release func(), err error) {
	s.mu.Lock()
	var shared sharedBody
	c := s.sharedOf(m)
	if c != nil {
		shared = *c
	}
	s.mu.Unlock()
	if c != nil && !shared.large {
		if data := s.bodies.get(m.Body.ID); data != nil {
			return data, func() {}, nil
		}
	}
	weight := min(m.Body.Size, int64(s.o.BodyMemory))
	if err := s.memory.Acquire(ctx, weight); err != nil {
		return nil, nil, err
	}
	release = sync.OnceFunc(func() { s.memory.Release(weight) })
	switch {
	case c == nil:
		data, err = s.inlineBody(m.Body.Size, loc.Pos())
	case shared.large:
		data, err = os.ReadFile(s.largePath(m.Body.ID))
	default:
		data, err = s.bytesAt(shared.pos, shared.off, shared.ref.Size)
		if err == nil {
			s.bodies.put(m.Body.ID, data)
		}
	}
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("spool: body of %v: %w", m.ID, err)
	}
	return data, release, nil
}

func (s *Spool) inlineBody(size int64, pos seglog.Pos) ([]byte, error) {
	h, err := s.header(pos)
	if err != nil {
		return nil, err
	}
	if !h.bodyInline {
		return nil, fmt.Errorf("%w: its record holds no body", mail.ErrNotFound)
	}
	return s.bytesAt(pos, h.bodyOff, size)
}

func (s *Spool) bytesAt(pos seglog.Pos, off uint32, size int64) ([]byte, error) {
	buf := make([]byte, size+4)
	if _, err := s.log.ReadAt(buf, pos.Seg, seglog.DataOffset(pos)+int64(off)); err != nil {
		return nil, err
	}
	if crc32.Checksum(buf[:size], castagnoli) != binary.LittleEndian.Uint32(buf[size:]) {
		return nil, fmt.Errorf("%w: checksum of a body at %v", errDamaged, pos)
	}
	return buf[:size], nil
}

// Content finds stored content of a tenant; mail.ErrNotFound if there is none or it is another's.
func (s *Spool) Content(tenant string, id mail.ID, now time.Time) (mail.BodyRef, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.shared[id]
	if c == nil || !c.ref.Content || c.tenant != tenant || now.After(c.until) {
		return mail.BodyRef{}, mail.ErrNotFound
	}
	return c.ref, nil
}

// Receipt finds what an idempotent request was answered; nil if it is unknown or older than ReceiptLife.
func (s *Spool) Receipt(tenant, key string, now time.Time) (*mail.Receipt, error) {
	s.mu.Lock()
	r := s.receipts[tenant+"\x00"+key]
	s.mu.Unlock()
	var err error
	if r == nil {
		r, err = s.index.receipt(tenant, key)
	}
	if r != nil && now.Sub(r.At) > ReceiptLife {
		r = nil
	}
	return r, err
}

// ReceiptLife is how long an idempotency key is remembered.
const ReceiptLife = 24 * time.Hour
