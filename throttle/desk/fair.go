package desk

import (
	"container/heap"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Asker is on whose behalf something is waited for.
type Asker struct {
	Priority mail.Priority // of the most urgent message
	Flow     string        // tenant and stream: who shares a limit inside a node
	Flows    int           // number of flows that Flow stands for: its weight. 0 is 1
}

func (a Asker) weight() int { return max(a.Flows, 1) }

func (a Asker) level() int { return min(int(a.Priority), levels-1) }

// levels is the number of priorities.
const levels = int(mail.Urgent) + 1

// waiter is one place in a fair queue.
type waiter struct {
	who        Asker
	since      time.Time
	seq        uint64
	owner      *pursuit
	list       *waiters // where it stands; nil: nowhere
	flow       *flow    // nil: at the head of its priority
	prev, next *waiter
}

// waiters is a list in order of arrival.
type waiters struct{ first, last *waiter }

func (l *waiters) add(w *waiter) {
	w.list, w.prev, w.next = l, l.last, nil
	if l.last != nil {
		l.last.next = w
	} else {
		l.first = w
	}
	l.last = w
}

func (l *waiters) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.last = w.prev
	}
	w.list, w.prev, w.next = nil, nil, nil
}

// fairQueue serves the higher priority first and inside a priority the flows by
// start-time fair queueing: each permit moves a flow's start by 1/weight, and
// the flow with the smallest start is next. All is O(log flows).
type fairQueue struct {
	levels [levels]level
	n      int
	weight int // of the flows that wait
	seq    uint64
}

type level struct {
	front waiters          // had a permit that lapsed
	flows map[string]*flow // those that wait, and those whose start is still ahead of clock
	ready flowHeap         // those that wait
	clock float64          // start of the flow served last
	heads int              // length of front
	sweep int              // number of flows from which on it is worth to look for forgettable ones
}

type flow struct {
	name   string
	weight int
	start  float64
	waiters
	index int // in the heap; -1: nobody waits
}

// push adds a waiter behind the others of its flow, or at the head of its priority.
func (q *fairQueue) push(w *waiter, head bool) {
	q.n++
	q.seq++
	w.seq = q.seq
	l := &q.levels[w.who.level()]
	if head {
		w.flow = nil
		l.front.add(w)
		l.heads++
		q.weight++
		return
	}
	f := l.flow(w.who.Flow)
	w.flow = f
	f.add(w)
	if f.index >= 0 {
		q.weight += w.who.weight() - f.weight
		f.weight = w.who.weight()
		return
	}
	f.weight = w.who.weight()
	q.weight += f.weight
	f.start = max(f.start, l.clock)
	heap.Push(&l.ready, f)
}

// flow finds or makes a flow.
func (l *level) flow(name string) *flow {
	if f := l.flows[name]; f != nil {
		return f
	}
	if l.flows == nil {
		l.flows = make(map[string]*flow)
	}
	f := &flow{name: name, index: -1}
	l.flows[name] = f
	return f
}

// pop takes the waiter whose turn it is; nil when there is none.
func (q *fairQueue) pop() *waiter {
	for i := levels - 1; i >= 0; i-- {
		l := &q.levels[i]
		if w := l.front.first; w != nil {
			q.remove(w)
			return w
		}
		if len(l.ready) == 0 {
			continue
		}
		f := l.ready[0]
		w := f.first
		l.clock = f.start
		f.start += 1 / float64(f.weight)
		q.take(l, w)
		return w
	}
	return nil
}

// remove takes out a waiter that gives up.
func (q *fairQueue) remove(w *waiter) {
	if w.list == nil {
		return
	}
	l := &q.levels[w.who.level()]
	if w.flow != nil {
		q.take(l, w)
		return
	}
	l.front.remove(w)
	l.heads--
	q.n--
	q.weight--
}

// take takes a waiter out of its flow, whose start may have moved.
func (q *fairQueue) take(l *level, w *waiter) {
	f := w.flow
	f.remove(w)
	w.flow = nil
	q.n--
	if f.first != nil {
		heap.Fix(&l.ready, f.index)
		return
	}
	heap.Remove(&l.ready, f.index)
	q.weight -= f.weight
	l.forget(f)
}

// forget drops flows that nobody waits in. One that is ahead of the clock must
// be remembered, or it would be served before those that waited all the time;
// with nobody waiting there is nothing to be fair about.
func (l *level) forget(f *flow) {
	switch {
	case len(l.ready) == 0:
		l.flows, l.clock = nil, 0
	case f.start <= l.clock:
		delete(l.flows, f.name)
	case len(l.flows) > l.sweep:
		for name, f := range l.flows {
			if f.index < 0 && f.start <= l.clock {
				delete(l.flows, name)
			}
		}
		l.sweep = 2*len(l.flows) + 64
	}
}

// top is the highest priority that waits.
func (q *fairQueue) top() mail.Priority {
	for i := levels - 1; i > 0; i-- {
		if l := &q.levels[i]; l.heads > 0 || len(l.ready) > 0 {
			return mail.Priority(i)
		}
	}
	return 0
}

// each calls f for all waiters. f may remove the waiter it is called for.
func (q *fairQueue) each(f func(*waiter)) {
	var all []*waiter
	for i := range q.levels {
		l := &q.levels[i]
		for w := l.front.first; w != nil; w = w.next {
			all = append(all, w)
		}
		for _, fl := range l.ready {
			for w := fl.first; w != nil; w = w.next {
				all = append(all, w)
			}
		}
	}
	for _, w := range all {
		f(w)
	}
}

// flowHeap is ordered by start, then by who came first.
type flowHeap []*flow

func (h flowHeap) Len() int { return len(h) }

func (h flowHeap) Less(i, j int) bool {
	if h[i].start != h[j].start {
		return h[i].start < h[j].start
	}
	return h[i].first.seq < h[j].first.seq
}

func (h flowHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *flowHeap) Push(x any) {
	f := x.(*flow)
	f.index = len(*h)
	*h = append(*h, f)
}

// Pop implements heap.Interface.
func (h *flowHeap) Pop() any {
	old := *h
	f := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	f.index = -1
	return f
}
