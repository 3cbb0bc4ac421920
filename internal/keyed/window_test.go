package keyed

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/units"
)

// inBubble runs a node on virtual time: everything is in memory.
func inBubble(t *testing.T, window time.Duration, f func(t *testing.T, n *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, 1)
		n.o.FS, n.window = vfs.NewMem(), window
		n.start()
		defer n.stop()
		synctest.Wait()
		f(t, n)
	})
}

func TestWindowEndsWithoutMoreInput(t *testing.T) {
	inBubble(t, 50*time.Millisecond, func(t *testing.T, n *node) {
		at := n.put(0, "a")
		time.Sleep(49 * time.Millisecond)
		synctest.Wait()
		if c, a := n.w.Committed(0), n.w.Applied(0); c != 0 || a != 1 {
			t.Errorf("within the window: committed %d, applied %d", c, a)
		}
		if s := n.w.Status()[0]; s.Lag != 1 || s.Behind != 49*time.Millisecond || s.Waiting != 0 {
			t.Errorf("within the window: %+v", s)
		}
		start := time.Now()
		n.wait(0, at)
		if took := time.Since(start); took != time.Millisecond {
			t.Errorf("committed %v later, want 1ms", took)
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		if s := n.w.Status()[0]; s.Lag != 0 || s.Behind != 0 {
			t.Errorf("after it: %+v", s)
		}
	})
}

func TestWindowIsNotPushedOutByInput(t *testing.T) {
	inBubble(t, 50*time.Millisecond, func(t *testing.T, n *node) {
		for range 20 {
			n.put(0, "a")
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			if lag := n.w.Applied(0) - n.w.Committed(0); lag > 5 {
				t.Fatalf("%d records wait for a commit", lag)
			}
		}
		if c := n.w.Committed(0); c < 15 {
			t.Errorf("committed only %d", c)
		}
	})
}

func TestWindowGrowsWithTheRate(t *testing.T) {
	inBubble(t, 50*time.Millisecond, func(t *testing.T, n *node) {
		many := slices.Repeat([]string{"a"}, 300)
		most := func(records []string) (most int64) {
			for range 100 {
				n.put(0, records...)
				time.Sleep(10 * time.Millisecond)
				synctest.Wait()
				most = max(most, n.w.Applied(0)-n.w.Committed(0))
			}
			return most / int64(len(records))
		}
		if fast := most(many); fast < 13 || fast > 15 {
			t.Errorf("30,000 a second: %d times 10 ms wait for a commit", fast)
		}
		most(many[:1]) // the window that is open is still a long one
		if slow := most(many[:1]); slow > 5 {
			t.Errorf("100 a second: %d times 10 ms wait for a commit", slow)
		}
	})
}

func TestNoWindow(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, n *node) {
		start := time.Now()
		n.wait(0, n.put(0, "a"))
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}

func TestLargeTxIsCommittedAtOnce(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, n *node) {
		start := time.Now()
		at := n.put(0, string(make([]byte, 400<<10)))
		n.wait(0, at)
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}

func TestSnapshotsByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, 1)
		n.o.FS, n.o.SnapshotEvery = vfs.NewMem(), units.Duration(time.Minute)
		n.start()
		defer n.stop()
		for i := range 5 {
			n.wait(0, n.put(0, "a"))
			time.Sleep(time.Minute)
			synctest.Wait()
			s := n.w.Status()[0].Snapshot
			if s.Offset != int64(i+1) || time.Since(s.Taken) > time.Second {
				t.Fatalf("minute %d: %+v", i+1, s)
			}
		}
		if have := n.w.parts[0].list(); len(have) != kept || have[0].Offset != 5 || have[1].Offset != 4 {
			t.Errorf("kept: %+v", have)
		}
		time.Sleep(time.Hour) // nothing new: no snapshot
		if s := n.w.Status()[0].Snapshot; s.Offset != 5 || time.Since(s.Taken) < time.Hour {
			t.Errorf("one without a change: %+v", s)
		}
	})
}

func TestErrorIsTriedAgainWithPauses(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, n *node) {
		n.broken.Store(true)
		n.put(0, "a", "b", "bad", "c")
		time.Sleep(time.Minute)
		s := n.w.Status()[0]
		if s.State != StateFailing || s.ErrorAt != 2 || s.Error == "" || s.Committed != 2 {
			t.Errorf("wedged: %+v", s)
		}
		if s.Behind < 59*time.Second || s.Waiting < 59*time.Second {
			t.Errorf("behind %v", s.Behind)
		}
		n.broken.Store(false)
		n.wait(0, 3)
		n.verify()
		if s := n.w.Status()[0]; s.State != StateRunning || s.Error != "" || s.ErrorAt != -1 {
			t.Errorf("healed: %+v", s)
		}
	})
}

func TestStopAndStart(t *testing.T) {
	inBubble(t, 10*time.Millisecond, func(t *testing.T, n *node) {
		n.wait(0, n.put(0, "a"))
		old, _ := n.w.Store(0)
		for range 3 {
			if err := n.w.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, open := n.w.Store(0); open || n.w.Started() {
				t.Fatal("not stopped")
			}
			if _, err := old.Get([]byte("ca")); err != ErrClosed {
				t.Errorf("a closed store says %v", err)
			}
			at := n.put(0, "b")
			time.Sleep(time.Second)
			if n.w.Committed(0) > at {
				t.Error("consumed while stopped")
			}
			n.w.Start()
			n.w.Start()
			n.wait(0, at)
			old, _ = n.w.Store(0)
		}
		n.verify()
	})
}
