// Package receipts remembers the requests that came with an idempotency key: durably, and within bounds.
//
// A request is claimed, and the claim synced, before anything is done for it; its answer is
// added afterwards and not synced. Whoever repeats it gets the answer. If a crash took the answer, the claim is
// left: it has the seed that all ids of the request's effects are derived from and the time it came at, so that
// doing the work again has the same effects again, which count once. Format: docs/formats/receipts.md.
package receipts

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/quietdb"
	"github.com/godwit-mta/godwit/internal/units"
)

// MaxBody is how long an answer's body may be to be kept. A longer one is not: the repeat does the work again.
const MaxBody = 256 << 10

// Options bound what is kept.
type Options struct {
	Keep units.Duration `toml:"keep" doc:"How long an idempotency key is remembered. Behind it a repeat is a new request."`
	Max  int            `toml:"max" doc:"Most idempotency keys that are remembered, of all tenants; when there are more the oldest are forgotten before their time."`
}

// DefaultOptions returns the options used when nothing is configured.
func DefaultOptions() Options {
	return Options{Keep: units.Duration(24 * time.Hour), Max: 1_000_000}
}

// Validate returns an error that begins with the key it is about.
func (o Options) Validate() error {
	if o.Keep <= 0 {
		return errors.New("keep: must be positive")
	}
	if o.Max <= 0 {
		return errors.New("max: must be positive")
	}
	return nil
}

// Receipt is what is remembered of a request.
type Receipt struct {
	Digest [sha256.Size]byte // of the request
	At     time.Time         // claimed, to the millisecond
	Seed   string            // ids of what the request makes are derived from it
	Status int               // of the answer; 0: none is known
	Body   []byte            // of the answer
}

// Store keeps receipts in a directory of its own. It is safe for concurrent use.
type Store struct {
	opts  Options
	db    *pebble.DB
	mu    sync.Mutex // held over look-ups and writes that belong together, not over syncs
	n     int
	floor []byte // no older one has an age key before it; so that deleted ones are not passed again and again
}

// Open opens the receipts in dir, which is made if it is not there. fs is for tests; nil: the disk.
func Open(dir string, o Options, fs vfs.FS) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	db, err := pebble.Open(dir, &pebble.Options{FS: fs, MemTableSize: 4 << 20, Logger: quietdb.Logger("receipts")})
	if err != nil {
		return nil, fmt.Errorf("receipts: %w", err)
	}
	s := &Store{opts: o, db: db, floor: []byte{byAge}}
	if err := s.recount(); err != nil {
		return nil, errors.Join(fmt.Errorf("receipts: %w", err), db.Close())
	}
	return s, nil
}

// Close syncs what is known and ends.
func (s *Store) Close() error { return s.db.Close() }

// Len is how many keys are remembered.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// Claim returns what is remembered under a tenant's key. If that is nothing, it remembers the digest and the time,
// durably when it returns, and fresh is true. Two claims of one key at once must not be made.
func (s *Store) Claim(tenant, key string, digest [sha256.Size]byte, now time.Time) (r Receipt, fresh bool, err error) {
	b := s.db.NewBatch()
	r, fresh, err = s.claim(b, nameOf(tenant, key), digest, now)
	if err == nil && fresh {
		err = b.SyncWait()
	}
	if err = errors.Join(err, b.Close()); err != nil {
		return r, false, fmt.Errorf("receipts: %w", err)
	}
	return r, fresh, nil
}

func (s *Store) claim(b *pebble.Batch, n name, digest [sha256.Size]byte, now time.Time) (r Receipt, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.prune(now); err != nil {
		return r, false, err
	}
	if r, err = s.get(n); err != nil {
		return r, false, err
	}
	there := !r.At.IsZero()
	if there && now.Sub(r.At) < s.opts.Keep.D() {
		return r, false, nil
	}
	old := ageKey(r.At, n)
	r = Receipt{Digest: digest, At: time.UnixMilli(now.UnixMilli()).UTC(), Seed: strings.ToLower(rand.Text())}
	age := ageKey(r.At, n)
	if there {
		err = b.Delete(old, nil)
		s.n--
	}
	err = errors.Join(err, b.Set(age, nil, nil), b.Set(recordKey(n), r.encode(), nil))
	if err == nil {
		err = s.db.ApplyNoSyncWait(b, pebble.Sync)
	}
	s.n++
	if bytes.Compare(age, s.floor) < 0 { // the clock was set back
		s.floor = age
	}
	return r, true, err
}

// Answer adds the answer to a claim. It is not synced: without it the work is done again.
func (s *Store) Answer(tenant, key string, r Receipt) error {
	if len(r.Body) > MaxBody {
		return nil
	}
	n := nameOf(tenant, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if claim, err := s.get(n); err != nil || !claim.At.Equal(r.At) {
		return err // it was forgotten meanwhile
	}
	if err := s.db.Set(recordKey(n), r.encode(), pebble.NoSync); err != nil {
		return fmt.Errorf("receipts: %w", err)
	}
	return nil
}

// name stands for a tenant's key.
type name [sha256.Size]byte

func nameOf(tenant, key string) name {
	b := binary.AppendUvarint(nil, uint64(len(tenant)))
	return sha256.Sum256(append(append(b, tenant...), key...))
}

// The kinds of keys: by name, and by age.
const (
	byName = 'n'
	byAge  = 'a'
)

func recordKey(n name) []byte { return append([]byte{byName}, n[:]...) }

func ageKey(at time.Time, n name) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{byAge}, uint64(at.UnixMilli())), n[:]...)
}

func (s *Store) get(n name) (r Receipt, err error) {
	v, closer, err := s.db.Get(recordKey(n))
	if errors.Is(err, pebble.ErrNotFound) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("receipts: %w", err)
	}
	err = r.decode(v)
	return r, errors.Join(err, closer.Close())
}

// step is how many old ones a new claim forgets at most: more than one, so that their number falls.
const step = 8

// prune forgets the oldest that are too old or too many.
func (s *Store) prune(now time.Time) (err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: s.floor, UpperBound: []byte{byAge + 1}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	b := s.db.NewBatch()
	before, forgotten := now.Add(-s.opts.Keep.D()), 0
	for ok := it.First(); ok; ok = it.Next() {
		k := it.Key()
		at := time.UnixMilli(int64(binary.BigEndian.Uint64(k[1:9])))
		s.floor = append(s.floor[:0:0], k...)
		if at.After(before) && s.n-forgotten < s.opts.Max || forgotten == step {
			break
		}
		if err := errors.Join(b.Delete(append([]byte{byName}, k[9:]...), nil), b.Delete(k, nil)); err != nil {
			return errors.Join(err, b.Close())
		}
		forgotten++
	}
	if err := it.Error(); err != nil || forgotten == 0 {
		return errors.Join(err, b.Close())
	}
	s.n -= forgotten
	return errors.Join(b.Commit(pebble.NoSync), b.Close())
}

func (s *Store) recount() (err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{byAge}, UpperBound: []byte{byAge + 1}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		s.n++
	}
	return it.Error()
}

// version is the first byte of a record.
const version = 1

// ErrFormat is returned for a record that cannot be read.
var ErrFormat = errors.New("receipts: not a receipt")

func (r *Receipt) encode() []byte {
	b := make([]byte, 0, 64+len(r.Body))
	b = append(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(r.At.UnixMilli()))
	b = append(b, r.Digest[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Status))
	b = append(b, byte(len(r.Seed)))
	b = append(b, r.Seed...)
	return append(b, r.Body...)
}

func (r *Receipt) decode(b []byte) error {
	const head = 1 + 8 + sha256.Size + 2 + 1
	if len(b) < head || b[0] != version || len(b) < head+int(b[head-1]) {
		return ErrFormat
	}
	r.At = time.UnixMilli(int64(binary.BigEndian.Uint64(b[1:]))).UTC()
	copy(r.Digest[:], b[9:])
	r.Status = int(binary.BigEndian.Uint16(b[9+sha256.Size:]))
	seed := int(b[head-1])
	r.Seed = string(b[head : head+seed])
	r.Body = append([]byte(nil), b[head+seed:]...)
	return nil
}
