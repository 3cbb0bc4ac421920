package keyed

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/stream"
)

// todo is a database with so many compactions to do, each of which takes a second.
type todo struct {
	t      *testing.T
	turn   *turn
	urgent atomic.Int32 // 1 if Pebble would run two

	mu      sync.Mutex
	left    int
	running int
	closed  bool
	started []time.Time
}

func (d *todo) GetAllowedWithoutPermission() int { return 1 + int(d.urgent.Load()) }

func (d *todo) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		d.t.Error("asked after it was closed")
	}
	return d.left > 0, pebble.WaitingCompaction{Score: float64(d.left)}
}

func (d *todo) Schedule(h pebble.CompactionGrantHandle) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		d.t.Error("told to run after it was closed")
	}
	if d.left == 0 {
		return false
	}
	d.begin(h)
	return true
}

// begin starts one; mu is held.
func (d *todo) begin(h pebble.CompactionGrantHandle) {
	d.left--
	d.running++
	d.started = append(d.started, time.Now())
	go func() {
		time.Sleep(time.Second)
		d.mu.Lock()
		d.running--
		d.mu.Unlock()
		h.Done()
	}()
}

func (d *todo) try() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ok, h := d.turn.TrySchedule(); ok {
		d.begin(h)
	}
}

func TestCompactionsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCompactions(1, func() bool { return false })
		defer c.close()
		var dbs []*todo
		for i := range 4 {
			d := &todo{t: t, turn: c.turn(), left: 3 + i}
			d.turn.Register(2, d)
			dbs = append(dbs, d)
		}
		for _, d := range dbs {
			d.try()
		}
		for range 17 { // 3+4+5+6 less those done by then
			synctest.Wait()
			c.mu.Lock()
			if c.running != 1 {
				t.Errorf("%d compactions run", c.running)
			}
			c.mu.Unlock()
			time.Sleep(time.Second)
		}
		dbs[0].urgent.Store(1) // does not wait for the last one
		dbs[0].mu.Lock()
		dbs[0].left = 2
		dbs[0].mu.Unlock()
		dbs[0].try()
		dbs[0].try()
		synctest.Wait()
		dbs[0].mu.Lock()
		if dbs[0].running != 2 {
			t.Errorf("one that is far behind runs %d", dbs[0].running)
		}
		dbs[0].mu.Unlock()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		for i, d := range dbs {
			d.mu.Lock()
			if d.left != 0 || d.running != 0 {
				t.Errorf("%d has %d left", i, d.left)
			}
			d.left = 1
			d.mu.Unlock()
			d.turn.Unregister()
			d.mu.Lock()
			d.closed = true
			d.mu.Unlock()
			d.turn.Unregister()
		}
		time.Sleep(time.Second)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.running != 0 || len(c.turns) != 0 {
			t.Errorf("%d run, %d registered", c.running, len(c.turns))
		}
	})
}

// TestStoresShareCompactions writes to several stores at once: all get their turn.
func TestStoresShareCompactions(t *testing.T) {
	m := NewMemory(16 << 20)
	defer m.Close()
	fs := vfs.NewMem()
	var all sync.WaitGroup
	for i := range 3 {
		s, err := OpenStore(fmt.Sprintf("/%d", i), StoreOptions{Memory: m, FS: fs, MemTable: 256 << 10})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		all.Go(func() {
			tx := s.Begin(stream.Assignment{})
			defer func() { _ = tx.drop() }()
			for j := range 600 {
				for k := range 50 {
					if err := tx.Put(fmt.Appendf(nil, "%d/%d", k, j%70), make([]byte, 500)); err != nil {
						t.Error(err)
					}
				}
				if err := tx.Commit(int64(j)); err != nil {
					t.Error(err)
				}
			}
			for deadline := time.Now().Add(10 * time.Second); s.Usage().ReadAmp > 24 || s.Usage().Compacts == 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Errorf("store %d is never compacted: %+v", i, s.Usage())
					return
				}
			}
		})
	}
	all.Wait()
}

func TestCompactionsWaitForStagesThatAreBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var behind atomic.Bool
		behind.Store(true)
		c := newCompactions(1, behind.Load)
		defer c.close()
		d := &todo{t: t, turn: c.turn(), left: 3}
		d.turn.Register(2, d)
		left := func(want int, when string) {
			t.Helper()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.left != want {
				t.Errorf("%s: %d are left, not %d", when, d.left, want)
			}
		}
		d.try()
		left(3, "while a stage is behind")
		d.urgent.Store(1)
		left(0, "for a store that is far behind")
		d.urgent.Store(0)
		d.mu.Lock()
		d.left = 2
		d.mu.Unlock()
		left(2, "while a stage is behind")
		behind.Store(false)
		left(0, "later")
		d.turn.Unregister()
		d.mu.Lock()
		d.closed = true
		d.mu.Unlock()
	})
}
