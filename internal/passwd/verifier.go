package passwd

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
)

// ErrBusy is returned when too many logins wait to be verified already. Temporary.
var ErrBusy = errors.New("too many logins at once")

// VerifierOptions bound what verification costs. Zero fields mean the defaults.
type VerifierOptions struct {
	TTL        time.Duration // how long a right password is remembered; default 10 minutes
	Entries    int           // how many are; default 10,000
	Concurrent int           // hashes computed at once; default 2
	Waiting    int           // logins that may wait for that; default 100
}

// Verifier verifies passwords with bounded effort. It is safe for concurrent use.
type Verifier struct {
	opts    VerifierOptions
	secret  []byte
	verify  func(hash, password string) (bool, error)
	slots   *semaphore.Weighted
	waiting atomic.Int64
	flight  singleflight.Group
	decoy   func() string // a hash nobody knows the password of

	mu    sync.Mutex
	right map[[sha256.Size]byte]time.Time // who was right, until when that is believed
}

// NewVerifier returns a Verifier with an empty memory.
func NewVerifier(o VerifierOptions) *Verifier {
	if o.TTL <= 0 {
		o.TTL = 10 * time.Minute
	}
	if o.Entries <= 0 {
		o.Entries = 10000
	}
	if o.Concurrent <= 0 {
		o.Concurrent = 2
	}
	if o.Waiting <= 0 {
		o.Waiting = 100
	}
	v := &Verifier{opts: o, secret: make([]byte, 32), verify: Verify,
		slots: semaphore.NewWeighted(int64(o.Concurrent)), right: make(map[[sha256.Size]byte]time.Time)}
	_, _ = rand.Read(v.secret) // never fails
	v.decoy = sync.OnceValue(func() string {
		h, _ := Hash(rand.Text()) // fails for empty passwords only
		return h
	})
	return v
}

// Verify reports whether password is user's, whose hash is given. With an empty
// hash (no such user) it takes as long as for a wrong password and answers no. It
// returns ErrBusy, ErrFormat or ctx's error when it cannot tell.
func (v *Verifier) Verify(ctx context.Context, user, hash, password string) (bool, error) {
	known := hash != ""
	if len(password) > MaxLength {
		return false, nil
	}
	key := v.key(user, hash, password)
	if known && v.remembers(key) {
		return true, nil
	}
	if v.waiting.Add(1) > int64(v.opts.Waiting+v.opts.Concurrent) {
		v.waiting.Add(-1)
		return false, ErrBusy
	}
	defer v.waiting.Add(-1)
	// The same attempt made many times at once is one computation.
	done := v.flight.DoChan(string(key[:]), func() (any, error) {
		if !known {
			hash = v.decoy()
		}
		return v.compute(key, hash, password, known)
	})
	select {
	case r := <-done:
		ok, _ := r.Val.(bool)
		return ok, r.Err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// compute does the work when it is its turn. It outlives a caller that went
// away: others may wait for the same answer, and the number of callers is bounded.
func (v *Verifier) compute(key [sha256.Size]byte, hash, password string, known bool) (bool, error) {
	if err := v.slots.Acquire(context.Background(), 1); err != nil {
		return false, err
	}
	defer v.slots.Release(1)
	ok, err := v.verify(hash, password)
	ok = ok && known
	if ok {
		v.remember(key)
	}
	return ok, err
}

// key names one (user, hash, password) without giving any of them away: the
// memory of a process must not be a list of fast password hashes.
func (v *Verifier) key(parts ...string) (key [sha256.Size]byte) {
	mac := hmac.New(sha256.New, v.secret)
	for _, p := range parts {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(p)))
		mac.Write(n[:])
		mac.Write([]byte(p))
	}
	mac.Sum(key[:0])
	return key
}

func (v *Verifier) remembers(key [sha256.Size]byte) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	until, ok := v.right[key]
	if ok && !time.Now().Before(until) {
		delete(v.right, key)
		return false
	}
	return ok
}

func (v *Verifier) remember(key [sha256.Size]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.right) >= v.opts.Entries {
		v.evict()
	}
	v.right[key] = time.Now().Add(v.opts.TTL)
}

// evict makes room: everything out of date goes, or else any eighth of the entries.
func (v *Verifier) evict() {
	now := time.Now()
	for k, until := range v.right {
		if !now.Before(until) {
			delete(v.right, k)
		}
	}
	for k := range v.right {
		if len(v.right) < v.opts.Entries-v.opts.Entries/8 {
			return
		}
		delete(v.right, k)
	}
}
