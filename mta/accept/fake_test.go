package accept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// spool is an Enqueuer that keeps batches and counts files.
type spool struct {
	mu      sync.Mutex
	batches []*mail.Batch
	files   map[string]*file
	made    int
	putErr  error
	openErr error
	discard bool  // keep no bytes of files
	room    int64 // bytes that fit into a file; 0: any number
}

type file struct {
	s         *spool
	path      string
	data      []byte
	size      int64
	committed bool
}

func (s *spool) Put(ctx context.Context, b *mail.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.putErr != nil {
		return s.putErr
	}
	if b.Body != nil && (b.Body.Data == nil) == (b.Body.Path == "") {
		return errors.New("exactly one of Data and Path must be set")
	}
	if b.Body != nil && b.Body.Path != "" && (s.files[b.Body.Path] == nil || !s.files[b.Body.Path].committed) {
		return errors.New("file is not committed")
	}
	s.batches = append(s.batches, b)
	return nil
}

func (s *spool) Large(context.Context) (LargeFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.openErr != nil {
		return nil, s.openErr
	}
	s.made++
	f := &file{s: s, path: "large-" + strconv.Itoa(s.made)}
	if s.files == nil {
		s.files = map[string]*file{}
	}
	s.files[f.path] = f
	return f, nil
}

func (f *file) Write(b []byte) (int, error) {
	f.size += int64(len(b))
	if f.s.room > 0 && f.size > f.s.room {
		return 0, fmt.Errorf("write: %w", mail.ErrDiskFull)
	}
	if !f.s.discard {
		f.data = append(f.data, b...)
	}
	return len(b), nil
}

func (f *file) Path() string  { return f.path }
func (f *file) Commit() error { f.committed = true; return nil }
func (f *file) Abort() {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	delete(f.s.files, f.path)
}

// body is the stored bytes of batch i.
func (s *spool) body(i int) string {
	b := s.batches[i].Body
	if b.Path != "" {
		return string(s.files[b.Path].data)
	}
	return string(b.Data)
}

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func newDoor(t testing.TB, s *spool, change func(*Options, *Deps)) *Door {
	t.Helper()
	o := DefaultOptions()
	d := Deps{Queue: s, IDs: &mail.IDs{}, Hostname: "mx.example.net", Now: func() time.Time { return noon }}
	if change != nil {
		change(&o, &d)
	}
	door, err := New(o, d)
	if err != nil {
		t.Fatal(err)
	}
	return door
}

func injection() *Injection {
	return &Injection{
		Protocol: "esmtp", Tenant: "acme", Peer: netip.MustParseAddr("192.0.2.7"), PeerName: "client.example",
		ReversePath: "b@s.example", Recipients: []Recipient{{Address: "Ann@D.Example"}},
	}
}

// slow gives a stream out in pieces of at most n bytes.
type slow struct {
	r io.Reader
	n int
}

func (s slow) Read(b []byte) (int, error) { return s.r.Read(b[:min(len(b), s.n)]) }

// endless is left bytes of text made on the fly.
type endless struct {
	left int64
	at   int
}

var page = strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123456789\r\n", 1000)

func (e *endless) Read(b []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(int64(len(b)), e.left)], page[e.at:])
	e.at = (e.at + n) % len(page)
	e.left -= int64(n)
	return n, nil
}
