package queue

import (
	"container/heap"
	"math"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/queue/spool"
)

// name identifies a scheduled queue.
type name struct {
	priority               mail.Priority
	tenant, stream, domain string
	pool                   string // of sending sources, as the message asked for it
}

// where a message in memory is.
type place uint8

const (
	placeReady    place = iota // in its scheduled queue's fifo
	placeFlight                // with a session
	placeFinished              // its outcome is being made durable
	placeParked                // waits in memory until the index has it; then memory forgets it
	placeEnded                 // over; kept only until the next flush notices
)

// item is one message in memory.
type item struct {
	msg     *mail.Message
	loc     spool.Loc
	queue   *sched
	due     int64 // Unix milliseconds
	body    []byte
	charge  int64 // bytes of body counted against the budget
	place   place
	indexed bool      // the index has it, or a flush under way brings it there,
	row     spool.Key // under this key; due may have changed since
	listed  bool      // in Queue.unindexed or Queue.moved, for the next flush
}

// adopted is an item of a row that was read from the index.
func adopted(m *mail.Message, e *spool.Entry, s *sched, p place) *item {
	return &item{msg: m, loc: e.Loc, queue: s, due: e.Due, place: p, indexed: true, row: e.Key}
}

// changeKey is the key that a change of the item is logged with: where the
// index has it, or else where it will have it.
func (it *item) changeKey() spool.Key {
	if it.indexed {
		return it.row
	}
	return it.key()
}

func (it *item) key() spool.Key { return spool.Key{Queue: it.queue.id, Due: it.due, ID: it.msg.ID} }

func (it *item) entry(shared uint32) spool.Entry {
	return spool.Entry{Key: it.key(), Loc: it.loc, Shared: shared, Attempts: it.msg.Attempts, LastReply: it.msg.LastReply}
}

// never is the due time of nothing.
const never = int64(math.MaxInt64)

// sched is one scheduled queue: (priority, tenant, stream, domain). Rows that
// are due are in fifo, up to a bound; the others are in the index.
type sched struct {
	name
	id    uint32
	fifo  fifo
	items int // in memory, wherever they are

	next      int64      // no row on disk that is not in memory is due before
	cursor    *spool.Key // rows up to it have been read into memory
	refilling bool
	at        int // place in the timer heap, -1: not there

	route     *mail.Route
	routing   bool
	site      *site
	flow      *flow
	suspended bool
	waits     bool // for a limit of its flow's own, away from its site
}

func (s *sched) record() spool.QueueRecord {
	return spool.QueueRecord{ID: s.id, Priority: s.priority, Tenant: s.tenant, Stream: s.stream, Domain: s.domain, Pool: s.pool}
}

// due reports whether there is something to deliver now.
func (s *sched) due(now int64) bool { return s.fifo.len() > 0 || s.next <= now }

// fifo is a queue of items on a ring that shrinks when it runs empty.
type fifo struct {
	ring []*item
	head int
	n    int
}

func (f *fifo) len() int { return f.n }

func (f *fifo) push(it *item) {
	if f.n == len(f.ring) {
		f.grow()
	}
	f.ring[(f.head+f.n)%len(f.ring)] = it
	f.n++
}

func (f *fifo) grow() {
	ring := make([]*item, max(4, 2*len(f.ring)))
	for i := range f.n {
		ring[i] = f.at(i)
	}
	f.ring, f.head = ring, 0
}

func (f *fifo) at(i int) *item { return f.ring[(f.head+i)%len(f.ring)] }

func (f *fifo) pop() *item {
	it := f.ring[f.head]
	f.ring[f.head] = nil
	f.head = (f.head + 1) % len(f.ring)
	if f.n--; f.n == 0 && len(f.ring) > 64 {
		f.ring, f.head = nil, 0
	}
	return it
}

// unpop puts an item before all others.
func (f *fifo) unpop(it *item) {
	if f.n == len(f.ring) {
		f.grow()
	}
	f.head = (f.head + len(f.ring) - 1) % len(f.ring)
	f.ring[f.head] = it
	f.n++
}

// take empties the fifo.
func (f *fifo) take() []*item {
	items := make([]*item, 0, f.n)
	for f.n > 0 {
		items = append(items, f.pop())
	}
	return items
}

// timers is a heap of scheduled queues by the next due time of what they have on disk.
type timers []*sched

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].next < t[j].next }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i]; t[i].at, t[j].at = i, j }

// Push implements heap.Interface.
func (t *timers) Push(x any) {
	s := x.(*sched)
	s.at = len(*t)
	*t = append(*t, s)
}

// Pop implements heap.Interface.
func (t *timers) Pop() any {
	old := *t
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	s.at = -1
	return s
}

// set puts s at the place its next due time gives it.
func (t *timers) set(s *sched) {
	switch {
	case s.at < 0 && s.next != never:
		heap.Push(t, s)
	case s.at >= 0 && s.next == never:
		heap.Remove(t, s.at)
	case s.at >= 0:
		heap.Fix(t, s.at)
	}
}
