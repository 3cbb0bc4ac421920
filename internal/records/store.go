// Package records is a small replicated store: every node holds all records, the last
// write of a key wins, and what one node writes the others learn by Merge. It carries what
// operators and rules order for the whole cluster: suspensions, backoff orders, one-shot actions.
//
// How it works: a write gets a version (a hybrid logical clock and the node's name),
// is made durable in one file, and is in force then. A deletion is a record too,
// a tombstone, kept for some days so that a node that was away cannot bring the old record back. Merge takes
// records in any order, any number of times, and ends in the same state; a Digest
// tells two stores cheaply whether and where they differ, and Delta what to send.
// The carrying itself is not done here; see internal/cluster.
package records

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

// KeepDeleted is for how long a tombstone, or an expired record, is remembered. A node that
// was away for longer may bring back what was deleted meanwhile.
const KeepDeleted = 7 * 24 * time.Hour

// MaxAhead is how far another node's clock may be ahead. Records beyond are refused: with one of them in
// the store no write of a node whose clock is right could win over it.
const MaxAhead = 24 * time.Hour

var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("store is closed")
	// ErrBadTTL is returned by Put for a negative time to live.
	ErrBadTTL = errors.New("time to live is negative")
)

// Deps are what a Store works with.
type Deps struct {
	FS         faultfs.FS            // nil: the machine's
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
	Now        func() time.Time      // nil: time.Now
}

// Store holds the records. Its methods are safe for concurrent use.
type Store struct {
	node    string
	log     *slog.Logger
	now     func() time.Time
	metrics *metrics

	// wmu is held by whoever changes the store, from the choice of a version until the
	// record is in force, and so over the write to the disk. It is taken before mu.
	wmu    sync.Mutex
	disk   disk
	clock  uint64 // the highest Version.Time seen
	closed bool
	tried  time.Time       // the last attempt to repair the file
	warned map[string]bool // nodes whose clocks were complained about

	mu     sync.RWMutex // guards what follows
	byKey  map[string]*entry
	digest Digest
	subs   []*subscription
	expiry expiryHeap

	wake chan struct{} // the sweeper is to look again
	stop chan struct{}
	done chan struct{}
}

// entry is what the store knows of a key.
type entry struct {
	Record
	shown bool // subscribers take it to be in force
	at    int  // place in the heap of those that will expire; -1: none
}

// Open reads the records in the folder dir, which it makes if needed. node is the unique name of
// this node in versions; it may change between starts.
//
// Damage in the middle of the file costs the records there: they are reported in the log, the file is kept as
// records.damaged, and the other nodes have them still. A file of which nothing can be read is an error.
func Open(dir, node string, d Deps) (*Store, error) {
	if node == "" || len(node) > MaxNode {
		return nil, fmt.Errorf("records: node name has %d bytes, want 1 to %d", len(node), MaxNode)
	}
	s := &Store{
		node: node, log: d.Logger, now: d.Now, warned: map[string]bool{}, byKey: map[string]*entry{},
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		disk: disk{fs: d.FS, dir: dir},
	}
	if s.disk.fs == nil {
		s.disk.fs = faultfs.OS{}
	}
	if s.log == nil {
		s.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("records: %w", err)
	}
	m, err := newMetrics(s, d.Registerer)
	if err != nil {
		return nil, errors.Join(err, s.disk.close())
	}
	s.metrics = m
	go s.sweeper()
	return s, nil
}

// load reads the file and writes it anew: what was read may have been in the page cache
// only, and nothing must be appended behind a torn tail.
func (s *Store) load() error {
	if err := s.disk.fs.MkdirAll(s.disk.dir, dirPerm); err != nil {
		return err
	}
	now := s.now()
	h, gaps, err := s.disk.load(func(r Record) {
		if e := s.byKey[r.Key]; e == nil || r.supersedes(&e.Record) {
			s.put(r, now)
		}
		s.clock = max(s.clock, r.Version.Time)
	})
	for _, g := range gaps {
		s.log.Error("records file is damaged: the records there are lost unless another node has them",
			"path", s.disk.dir+"/"+fileName, "from", g.from, "to", g.to, "kept", damagedName)
	}
	if err != nil {
		return err
	}
	s.clock = max(s.clock, h.clock)
	s.collect(now)
	return s.rewrite(nil)
}

// Close takes no more writes and closes the file. A second call does nothing.
func (s *Store) Close() error {
	s.wmu.Lock()
	already := s.closed
	s.closed = true
	s.wmu.Unlock()
	if already {
		return nil
	}
	close(s.stop)
	<-s.done
	s.metrics.set.Unregister()
	s.wmu.Lock()
	defer s.wmu.Unlock()
	return s.disk.close()
}

// Put writes value under key. With ttl > 0 the record ends by itself after that time.
// It is durable and in force on return; on an error it is not in force, though
// a crash soon after may bring it back. The error is of the disk, ErrClosed, or about the arguments.
func (s *Store) Put(key string, value []byte, ttl time.Duration) (Record, error) {
	if ttl < 0 {
		return Record{}, fmt.Errorf("records: %w", ErrBadTTL)
	}
	r := Record{Key: key, Value: append([]byte(nil), value...)}
	if ttl > 0 {
		r.Expires = time.UnixMilli(s.now().Add(ttl).UnixMilli())
	}
	return s.write(r)
}

// Delete ends the record of key, here and, when they learn it, on the other nodes. It
// reports whether there was one; errors are as of Put.
func (s *Store) Delete(key string) (existed bool, err error) {
	if _, ok := s.Get(key); !ok {
		return false, nil
	}
	_, err = s.write(Record{Key: key, Deleted: true})
	return err == nil, err
}

// write gives r its version, makes it durable, puts it in force and tells the subscribers.
func (s *Store) write(r Record) (Record, error) {
	r, err := s.commit(r)
	if err != nil {
		return Record{}, fmt.Errorf("records: %w", err)
	}
	s.pump()
	return r, nil
}

// commit is write without the subscribers.
func (s *Store) commit(r Record) (Record, error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.closed {
		return r, ErrClosed
	}
	now := s.now()
	s.clock = max(s.clock+1, uint64(now.UnixMilli())<<counterBits)
	r.Version = Version{Time: s.clock, Node: s.node}
	if err := r.check(); err != nil {
		return r, err
	}
	if err := s.persist([]Record{r}); err != nil {
		return r, err
	}
	s.apply([]Record{r}, now, true)
	return r, nil
}

// persist makes recs durable. wmu is held.
func (s *Store) persist(recs []Record) error {
	var err error
	if s.disk.broken || s.disk.size > s.disk.limit {
		err = s.rewrite(recs)
	} else {
		err = s.disk.append(recs)
	}
	if err != nil {
		s.metrics.failures.Inc()
		s.poke()
	}
	return err
}

// rewrite writes the file anew with all records, newer ones taken from extra. wmu is held.
func (s *Store) rewrite(extra []Record) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	instead := make(map[string]bool, len(extra))
	return s.disk.rewrite(s.clock, func(add func(*Record)) {
		for i := range extra {
			instead[extra[i].Key] = true
			add(&extra[i])
		}
		for key, e := range s.byKey {
			if !instead[key] {
				add(&e.Record)
			}
		}
	})
}

// put sets the record of a key and returns the entry before it. mu is held, or the store is not yet shared.
func (s *Store) put(r Record, now time.Time) (before *entry) {
	before = s.byKey[r.Key]
	if before != nil {
		s.digest.toggle(&before.Record)
		s.expiry.remove(before)
	}
	e := &entry{Record: r, shown: r.live(now), at: -1}
	s.byKey[r.Key] = e
	s.digest.toggle(&r)
	if e.shown && !r.Expires.IsZero() {
		s.expiry.add(e)
	}
	return before
}

// Get returns the record of key that is in force.
func (s *Store) Get(key string) (Record, bool) {
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.byKey[key]
	if e == nil || !e.live(now) {
		return Record{}, false
	}
	return e.Record, true
}

// List returns the records in force whose keys begin with prefix, by key.
func (s *Store) List(prefix string) []Record {
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.list(prefix, func(e *entry) bool { return e.live(now) })
}

// list is List for the entries that want. mu is held.
func (s *Store) list(prefix string, want func(*entry) bool) []Record {
	var recs []Record
	for key, e := range s.byKey {
		if strings.HasPrefix(key, prefix) && want(e) {
			recs = append(recs, e.Record)
		}
	}
	sort.Slice(recs, func(i, j int) bool { return recs[i].Key < recs[j].Key })
	return recs
}
