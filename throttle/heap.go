package throttle

import (
	"container/heap"
	"math"
	"time"
)

// never is a due time that does not come.
const never = time.Duration(math.MaxInt64)

// dueHeap orders keys by the time of their next turn.
type dueHeap []*key

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *dueHeap) Push(x any) {
	k := x.(*key)
	k.index = len(*h)
	*h = append(*h, k)
}
func (h *dueHeap) Pop() any {
	old := *h
	k := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	k.index = -1
	return k
}

// schedule sets the time of the key's next turn.
func (a *Authority) schedule(k *key, due time.Duration) {
	k.due = due
	switch {
	case due == never && k.index >= 0:
		heap.Remove(&a.turns, k.index)
	case due == never:
	case k.index >= 0:
		heap.Fix(&a.turns, k.index)
	default:
		heap.Push(&a.turns, k)
	}
}

// wake makes it the key's turn at the next Tick.
func (a *Authority) wake(k *key, now time.Duration) {
	if k.index < 0 || k.due > now {
		a.schedule(k, now)
	}
}

// deadline says when to look at a lease. It is not taken back when the lease
// moves on: then the two times differ, and it means nothing.
type deadline struct {
	at    time.Duration
	lease *lease
}

type deadlineHeap []deadline

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h deadlineHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *deadlineHeap) Push(x any)        { *h = append(*h, x.(deadline)) }
func (h *deadlineHeap) Pop() any {
	old := *h
	d := old[len(old)-1]
	old[len(old)-1] = deadline{}
	*h = old[:len(old)-1]
	return d
}
