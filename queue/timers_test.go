package queue

import (
	"context"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// TestRefillLeavesTimers: a queue whose rows are being read has no due time, so
// it must not stay at the head of the heap, where it would hide the others.
func TestRefillLeavesTimers(t *testing.T) {
	o := DefaultOptions()
	o.Path = t.TempDir()
	o.Spool.SegmentSize, o.Spool.Spares = 1<<20, 0
	q, err := Open(context.Background(), o, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	q.mu.Lock()
	first := q.sched(&mail.Message{Recipient: "a@first.test"})
	second := q.sched(&mail.Message{Recipient: "a@second.test"})
	now := time.Now().UnixMilli()
	q.onDisk(first, now-1000)
	q.onDisk(second, now-500)
	if q.timers[0] != first {
		t.Error("the earlier queue is not at the head")
	}
	q.refill(first)
	if first.at >= 0 || q.timers[0] != second {
		t.Errorf("a queue that is being read is in the heap at %d", first.at)
	}
	// A row that becomes known meanwhile, and one that is later than what is
	// known already, keep the queue in the heap.
	q.onDisk(first, now+5000)
	q.onDisk(first, now+9000)
	if first.at < 0 || first.next != now+5000 {
		t.Errorf("in the heap at %d, next due in %d ms", first.at, first.next-now)
	}
	q.mu.Unlock()
	if err := q.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
}
