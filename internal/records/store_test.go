package records

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

type tb interface {
	Helper()
	Fatal(args ...any)
}

func open(t tb, dir, node string, d Deps) *Store {
	t.Helper()
	s, err := Open(dir, node, d)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t tb, s *Store, key, value string, ttl time.Duration) Record {
	t.Helper()
	r, err := s.Put(key, []byte(value), ttl)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// shows is the store's content as text: k=v k=v.
func shows(s *Store, prefix string) string {
	var parts []string
	for _, r := range s.List(prefix) {
		parts = append(parts, r.Key+"="+string(r.Value))
	}
	return strings.Join(parts, " ")
}

// diary is a subscriber that writes down what it is told.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(r Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	line := "+" + r.Key + "=" + string(r.Value)
	if r.Deleted {
		line = "-" + r.Key
	}
	d.lines = append(d.lines, line)
}

func (d *diary) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := strings.Join(d.lines, " ")
	d.lines = nil
	return text
}

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestPutGetListDelete(t *testing.T) {
	s := open(t, t.TempDir(), "n1", Deps{Registerer: prometheus.NewRegistry()})
	defer s.Close()
	put(t, s, "order/b", "2", 0)
	put(t, s, "order/a", "1", 0)
	put(t, s, "suspend/x", "3", 0)
	put(t, s, "order/a", "4", 0)
	equal(t, "list", shows(s, "order/"), "order/a=4 order/b=2")
	if existed, err := s.Delete("order/a"); !existed || err != nil {
		t.Error(existed, err)
	}
	if existed, err := s.Delete("order/a"); existed || err != nil {
		t.Error(existed, err)
	}
	if _, ok := s.Get("order/a"); ok {
		t.Error("a deleted record is in force")
	}
	equal(t, "list", shows(s, ""), "order/b=2 suspend/x=3")
	for _, bad := range []func() error{
		func() error { _, err := s.Put("", nil, 0); return err },
		func() error { _, err := s.Put(strings.Repeat("k", MaxKey+1), nil, 0); return err },
		func() error { _, err := s.Put("k", make([]byte, MaxValue+1), 0); return err },
		func() error { _, err := s.Put("k", nil, -1); return err },
	} {
		if bad() == nil {
			t.Error("bad arguments were taken")
		}
	}
	s.Close()
	if _, err := s.Put("k", nil, 0); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := s.Merge([]Record{{Key: "k", Version: Version{Time: 1, Node: "n"}}}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestReopen(t *testing.T) {
	dir, reg := t.TempDir(), prometheus.NewRegistry()
	s := open(t, dir, "n1", Deps{Registerer: reg})
	put(t, s, "a", "1", 0)
	put(t, s, "b", "2", time.Hour)
	put(t, s, "c", "3", 0)
	if _, err := s.Delete("c"); err != nil {
		t.Fatal(err)
	}
	before, all := s.Digest(), s.Delta(Digest{})
	s.Close()
	s = open(t, dir, "n1", Deps{Registerer: reg})
	defer s.Close()
	equal(t, "list", shows(s, ""), "a=1 b=2")
	if s.Digest() != before {
		t.Error("the digest changed")
	}
	if d := cmp.Diff(all, s.Delta(Digest{}), sameRecord); d != "" {
		t.Error(d)
	}
}

// clock is a time that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// TestClockGoesBack: a write after a restart with a clock that is behind wins over the writes before it.
func TestClockGoesBack(t *testing.T) {
	dir, now := t.TempDir(), &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	d := Deps{Now: now.read}
	s := open(t, dir, "n1", d)
	old := put(t, s, "a", "old", 0)
	s.Close()
	now.add(-48 * time.Hour)
	s = open(t, dir, "n1", d)
	defer func() { s.Close() }()
	if r := put(t, s, "a", "new", 0); !r.supersedes(&old) {
		t.Error("the new write has an older version")
	}
	// Neither does it matter that the record which had the highest version was forgotten.
	if _, err := s.Delete("a"); err != nil {
		t.Fatal(err)
	}
	highest := known(s, "a")
	s.Close()
	now.add(KeepDeleted + 49*time.Hour)
	s = open(t, dir, "n1", d)
	if known(s, "a").Key != "" {
		t.Error("the tombstone was not forgotten")
	}
	s.Close()
	now.add(-KeepDeleted - 49*time.Hour)
	s = open(t, dir, "n1", d)
	if r := put(t, s, "a", "newer", 0); !r.supersedes(&highest) {
		t.Error("the new write has an older version than one that was forgotten")
	}
	far := Record{Key: "far", Version: Version{Time: uint64(now.read().Add(MaxAhead+time.Minute).UnixMilli()) << counterBits, Node: "n2"}}
	if news, err := s.Merge([]Record{far}); err != nil || len(news) != 0 {
		t.Errorf("took %v from a clock far ahead (%v)", news, err)
	}
}

func TestSubscribe(t *testing.T) {
	s := open(t, t.TempDir(), "n1", Deps{})
	defer s.Close()
	put(t, s, "o/b", "1", 0)
	put(t, s, "o/a", "1", 0)
	put(t, s, "p/z", "1", 0)
	var d, locals diary
	cancel := s.Subscribe("o/", func(r Record) {
		d.note(r)
		if r.Key == "o/chain" && !r.Deleted { // a subscriber may use the store
			put(t, s, "o/link", string(r.Value), 0)
		}
	})
	defer s.SubscribeLocal(locals.note)()
	equal(t, "what there is", d.take(), "+o/a=1 +o/b=1")
	put(t, s, "o/a", "2", 0)
	put(t, s, "p/z", "2", 0)
	put(t, s, "o/chain", "3", 0)
	if _, err := s.Delete("o/b"); err != nil {
		t.Fatal(err)
	}
	equal(t, "changes", d.take(), "+o/a=2 +o/chain=3 +o/link=3 -o/b")
	equal(t, "local writes", locals.take(), "+o/a=2 +p/z=2 +o/chain=3 +o/link=3 -o/b")
	_, err := s.Merge([]Record{
		{Key: "o/far", Value: []byte("9"), Version: Version{Time: 5, Node: "n2"}},
		{Key: "o/gone", Deleted: true, Version: Version{Time: uint64(time.Now().UnixMilli()) << counterBits, Node: "n2"}},
		{Key: "o/a", Value: []byte("older"), Version: Version{Time: 5, Node: "n2"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "remote changes", d.take(), "+o/far=9")
	equal(t, "remote changes are not local", locals.take(), "")
	cancel()
	put(t, s, "o/a", "3", 0)
	equal(t, "after cancel", d.take(), "")
}

// TestFirstCallsAreWhole: a change made during the first calls is told after them, even by another goroutine.
func TestFirstCallsAreWhole(t *testing.T) {
	s := open(t, t.TempDir(), "n1", Deps{})
	defer s.Close()
	put(t, s, "a", "1", 0)
	put(t, s, "c", "1", 0)
	var d diary
	defer s.Subscribe("", func(r Record) {
		if r.Key == "a" {
			written := make(chan struct{})
			go func() {
				defer close(written)
				put(t, s, "b", "2", 0)
			}()
			<-written
			put(t, s, "d", "3", 0)
		}
		d.note(r)
	})()
	equal(t, "calls", d.take(), "+a=1 +c=1 +b=2 +d=3")
}

// TestSubscribeInOrder: with many writers each subscriber is told every key's changes in order, ending with the last.
func TestSubscribeInOrder(t *testing.T) {
	s := open(t, t.TempDir(), "n1", Deps{FS: mustSim(t, t.TempDir())})
	defer s.Close()
	last := map[string]Version{}
	calls, inside := 0, false
	cancel := s.Subscribe("", func(r Record) {
		if inside {
			t.Error("two calls at a time")
		}
		inside = true
		defer func() { inside = false }()
		if before := last[r.Key]; r.Version.Compare(before) <= 0 {
			t.Error("told out of order")
		}
		last[r.Key], calls = r.Version, calls+1
	})
	var wg sync.WaitGroup
	const writers, writes = 4, 50
	for w := range writers {
		wg.Go(func() {
			for i := range writes {
				put(t, s, fmt.Sprint("k", (w+i)%3), "v", 0)
			}
		})
	}
	wg.Wait()
	s.Close() // joins nothing of ours, but all writers have ended, and so have their calls
	cancel()
	if calls != writers*writes {
		t.Errorf("%d calls for %d writes", calls, writers*writes)
	}
}

func TestExpiry(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, dir, "n1", Deps{})
		var d diary
		s.Subscribe("", d.note)
		put(t, s, "slow", "1", time.Hour)
		put(t, s, "quick", "1", time.Minute)
		put(t, s, "renewed", "1", time.Minute)
		put(t, s, "renewed", "2", 3*time.Minute)
		d.take()
		time.Sleep(time.Minute - time.Millisecond)
		synctest.Wait()
		equal(t, "before", d.take(), "")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		equal(t, "after", d.take(), "-quick")
		equal(t, "list", shows(s, ""), "renewed=2 slow=1")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		equal(t, "later", d.take(), "-renewed")
		digest := s.Digest()
		// An older record of an expired key stays hidden, as if it had been deleted.
		if news, _ := s.Merge([]Record{{Key: "quick", Value: []byte("0"), Version: Version{Time: 5, Node: "n0"}}}); len(news) != 0 {
			t.Error("an older record came back")
		}
		s.Close()
		s = open(t, dir, "n1", Deps{})
		s.Subscribe("", d.note)
		equal(t, "after a restart", d.take(), "+slow=1")
		if s.Digest() != digest {
			t.Error("the digest changed")
		}
		if _, err := s.Delete("slow"); err != nil {
			t.Fatal(err)
		}
		left := s.Delta(Digest{})
		if len(left) != 3 {
			t.Errorf("%d records are remembered, want 3", len(left))
		}
		time.Sleep(KeepDeleted + 2*collectEvery)
		synctest.Wait()
		if left := s.Delta(Digest{}); len(left) != 0 || s.Digest() != (Digest{}) {
			t.Errorf("still there after a week: %v", left)
		}
		if news, _ := s.Merge(left); len(news) != 0 {
			t.Error("what was forgotten is taken again from a node that is slower to forget")
		}
		s.Close()
	})
}

// TestMergeOfForgotten: records that every node may have forgotten are not news.
func TestMergeOfForgotten(t *testing.T) {
	now := time.Now()
	s := open(t, t.TempDir(), "n1", Deps{})
	defer s.Close()
	old := uint64(now.Add(-KeepDeleted-time.Hour).UnixMilli()) << counterBits
	tombstone := Record{Key: "k", Deleted: true, Version: Version{Time: old, Node: "n2"}}
	if news, _ := s.Merge([]Record{tombstone}); len(news) != 0 {
		t.Error("took a tombstone of nothing")
	}
	older := Record{Key: "k", Version: Version{Time: old - 1, Node: "n3"}}
	if news, _ := s.Merge([]Record{older}); len(news) != 1 {
		t.Error("refused a record that is in force")
	}
	if news, _ := s.Merge([]Record{tombstone}); len(news) != 1 {
		t.Error("refused the tombstone of a record that is in force")
	}
	equal(t, "list", shows(s, ""), "")
}

// TestDiskFails: a local write that the disk refuses is not in force; what other nodes
// ordered is, and is written when the disk works again.
func TestDiskFails(t *testing.T) {
	for _, c := range []struct {
		op    faultfs.Op
		whole bool // the failing write is one of the whole file
	}{{faultfs.OpWrite, false}, {faultfs.OpSync, false}, {faultfs.OpWrite, true}, {faultfs.OpSync, true}, {faultfs.OpSyncDir, true}, {faultfs.OpRename, true}} {
		t.Run(fmt.Sprint(c.op, c.whole), func(t *testing.T) {
			dir := t.TempDir()
			sim := mustSim(t, dir)
			s := open(t, dir, "n1", Deps{FS: sim})
			put(t, s, "a", "1", 0)
			setLimit := func(to int64) {
				s.wmu.Lock()
				defer s.wmu.Unlock()
				s.disk.limit = to
			}
			remove := sim.Inject(faultfs.Rule{Op: c.op, Err: syscall.ENOSPC})
			if c.whole {
				setLimit(0)
			}
			if _, err := s.Put("a", []byte("2"), 0); !errors.Is(err, syscall.ENOSPC) {
				t.Error(err)
			}
			setLimit(1 << 20) // the next one would be appended, did it not know of the failure
			equal(t, "list", shows(s, ""), "a=1")
			remove()
			put(t, s, "a", "3", 0)
			remove = sim.Inject(faultfs.Rule{Op: c.op, Err: syscall.ENOSPC})
			if c.whole {
				setLimit(0)
			}
			news, err := s.Merge([]Record{{Key: "b", Value: []byte("3"), Version: Version{Time: 5, Node: "n2"}}})
			if len(news) != 1 || !errors.Is(err, syscall.ENOSPC) {
				t.Error(news, err)
			}
			setLimit(1 << 20)
			equal(t, "list", shows(s, ""), "a=3 b=3")
			remove()
			put(t, s, "c", "4", 0)
			s.Close()
			s = open(t, dir, "n1", Deps{FS: sim})
			defer s.Close()
			equal(t, "after a restart", shows(s, ""), "a=3 b=3 c=4")
		})
	}
}

// TestRepair: the file is brought up to date without another write.
func TestRepair(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		sim := mustSim(t, dir)
		s := open(t, dir, "n1", Deps{FS: sim})
		remove := sim.Inject(faultfs.Rule{Op: faultfs.OpWrite, Err: syscall.EIO})
		if _, err := s.Merge([]Record{{Key: "b", Value: []byte("3"), Version: Version{Time: 5, Node: "n2"}}}); err == nil {
			t.Error("no error from a broken disk")
		}
		time.Sleep(repairEvery + time.Second)
		remove()
		time.Sleep(2 * repairEvery)
		synctest.Wait()
		s.wmu.Lock()
		broken := s.disk.broken
		s.wmu.Unlock()
		if broken {
			t.Error("the file was not repaired")
		}
		s.Close()
	})
}
