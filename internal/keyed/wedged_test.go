package keyed

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"
)

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestWedged has two consumers of one topic, of which one cannot get past a record of one partition.
func TestWedged(t *testing.T) {
	ill := newNode(t, 2)
	well := newNode(t, 2)
	well.log, well.in = ill.log, ill.in
	var logs lockedBuffer
	ill.logs = &logs
	ill.broken.Store(true)
	ill.start()
	well.start()
	ill.put(0, "a", "b")
	bad := ill.put(0, "bad", "c") - 1
	for range 50 {
		ill.put(1, "d", "e")
	}
	well.verify()
	ill.wait(1, 99)
	ill.wait(0, bad-1)
	ill.expectError("bad record")
	time.Sleep(20 * time.Millisecond) // some more tries
	s := ill.w.Status()
	if s[0].State == StateRunning || s[0].Committed != bad || s[1].State != StateRunning || s[1].Error != "" {
		t.Errorf("%+v", s)
	}
	if !strings.Contains(logs.String(), "record at offset 2: bad record") {
		t.Errorf("log: %s", logs.String())
	}
	if store, ok := ill.w.Store(0); !ok {
		t.Error("what is committed cannot be read")
	} else if v, err := store.Get([]byte("ca")); err != nil || v[7] != 1 {
		t.Errorf("%v %v", v, err)
	}
	ill.broken.Store(false)
	ill.verify()
}

func TestWait(t *testing.T) {
	n := newNode(t, 1)
	n.start()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if err := n.w.Wait(ctx, 0, 10); err == nil {
		t.Error("waited for what never came")
	}
	if err := n.w.Wait(t.Context(), 4, 0); err == nil {
		t.Error("waited for a partition that is none")
	}
	if len(n.w.parts[0].waiters) != 0 {
		t.Error("a waiter is left")
	}
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() { n.wait(0, int64(i)) })
	}
	for range 50 {
		n.put(0, "a")
	}
	all.Wait()
	if at := n.w.Sent(n.out, 0); at != 49 {
		t.Errorf("sent %d", at)
	}
	if at := n.w.Sent(n.in, 0); at != -1 {
		t.Errorf("sent %d", at)
	}
}

// TestOutputsLeaveFirst has a topic that takes nothing for a while: what it does not have must not be committed.
func TestOutputsLeaveFirst(t *testing.T) {
	n := newNode(t, 1)
	out := &ending{Topic: n.out}
	n.out = out
	n.start()
	n.wait(0, n.put(0, "a"))
	out.dead.Store(true)
	n.put(0, "b", "a")
	n.expectError("no power")
	if at := n.w.Committed(0); at != 1 {
		t.Errorf("committed %d before the outputs left", at)
	}
	store, _ := n.w.Store(0)
	if has, err := store.Has([]byte("cb")); has || err != nil {
		t.Errorf("visible before the outputs left: %v", err)
	}
	out.dead.Store(false)
	n.verify()
}
