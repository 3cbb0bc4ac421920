package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
)

// groupBytes bounds what is gathered from concurrent appends for one commit.
const groupBytes = 4 << 20

// topic is a Topic of an Embedded log.
//
// How an append goes: the caller's goroutine encodes its messages and queues them. The first in
// the queue leads: it takes all that is queued, gives each its offsets, commits them as one record, shows them to the readers,
// wakes their callers and hands the lead to the next in the queue. What comes meanwhile gathers by itself.
//
// Lock order: topic.chores, topic.keptMu, topic.writing, topic.mu. topic.queueMu is held alone.
type topic struct {
	name       string
	partitions int32
	dir        string
	o          Options
	fs         faultfs.FS
	log        *slog.Logger
	records    *seglog.Log
	metrics    *topicMetrics

	queueMu sync.Mutex
	queue   []*pending
	led     bool // a caller leads
	closed  bool
	lead    leadState
	calls   sync.Pool      // of *pending
	writers sync.WaitGroup // appends under way
	writing sync.Mutex     // held from the begin of a commit until readers see it
	done    chan struct{}  // closed by close

	mu     sync.RWMutex
	end    int64 // the next offset: all before it is durable
	recent recent
	pieces []*piece  // by first offset
	waits  []*waiter // by partition; nil while no reader waits
	starts []int64   // by partition: what Start found; -1 unknown
	lasts  []int64   // by partition: the offset behind its last entry; 0: not looked for yet
	kept   *kept     // replaced, never changed

	keptMu sync.Mutex // one change of KEPT at a time
	chores sync.Mutex // one retention or rewriting at a time
}

// leadState is what only the caller that leads uses.
type leadState struct {
	next   int64 // the next offset to give
	last   int64 // Unix milliseconds of the last batch
	spare  []*pending
	parts  [][]byte
	header []byte
}

// pending is one append in the queue.
type pending struct {
	body    []byte
	entries int64
	base    int64
	err     error
	wake    chan bool // true: lead, false: done
}

// waiter is what readers at the end of a partition wait for.
type waiter struct {
	ready chan struct{}
	base  int64 // set before ready is closed: nothing of the partition lies between where they waited and it
}

func openTopic(dir, name string, partitions int32, o Options, d Deps) (_ *topic, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("stream: topic %s: %w", name, err)
		}
	}()
	if err := d.FS.MkdirAll(filepath.Join(dir, rewrittenDir), 0o750); err != nil {
		return nil, err
	}
	for _, made := range []string{filepath.Dir(dir), dir} {
		if err := d.FS.SyncDir(made); err != nil {
			return nil, err
		}
	}
	if err := openMeta(d.FS, dir, name, partitions); err != nil {
		return nil, err
	}
	t := &topic{
		name: name, partitions: partitions, dir: dir, o: o, fs: d.FS, log: d.Logger.With("topic", name),
		done: make(chan struct{}), recent: recent{limit: int(o.Recent)},
		waits: make([]*waiter, partitions), starts: make([]int64, partitions), lasts: make([]int64, partitions),
	}
	t.calls.New = func() any { return &pending{wake: make(chan bool, 1)} }
	t.forgetStarts()
	if t.kept, err = readKept(d.FS, dir, partitions); err != nil {
		return nil, err
	}
	sd := seglog.Deps{FS: d.FS, Logger: d.Logger, Registerer: d.Registerer, Name: "stream/" + name}
	if t.records, err = seglog.Open(t.path(segmentsName), o.segments(), sd); err != nil {
		return nil, err
	}
	if err = t.load(); err == nil {
		t.metrics, err = newTopicMetrics(t, d.Registerer)
	}
	if err != nil {
		return nil, errors.Join(err, t.records.Close())
	}
	t.lead.next = t.end
	return t, nil
}

// Name implements Topic.
func (t *topic) Name() string { return t.name }

// Partitions implements Topic.
func (t *topic) Partitions() int32 { return t.partitions }

// Append implements Topic.
func (t *topic) Append(ctx context.Context, msgs []Message) ([]int64, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	if len(msgs) == 0 {
		return nil, nil
	}
	for _, m := range msgs {
		if err := checkPartition(t, m.Partition); err != nil {
			return nil, err
		}
	}
	begin := time.Now()
	body, offsets := encodeRuns(msgs, t.partitions)
	if int64(len(body)) > int64(t.o.MaxAppend) {
		return nil, fmt.Errorf("stream: topic %s: append of %d bytes: %w", t.name, len(body), mail.ErrTooLarge)
	}
	c := t.calls.Get().(*pending)
	c.body, c.entries = body, int64(len(msgs))
	if err := t.commit(c); err != nil {
		return nil, fmt.Errorf("stream: topic %s: %w", t.name, err)
	}
	for i := range offsets {
		offsets[i] += c.base
	}
	c.body = nil
	t.calls.Put(c)
	t.metrics.appended(len(msgs), len(body), time.Since(begin))
	return offsets, nil
}

// ended returns the error of a context that has ended: ErrFenced for that of a partition that was taken away.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	if errors.Is(context.Cause(ctx), ErrFenced) {
		return ErrFenced
	}
	return ctx.Err()
}

// commit queues c and waits until it is durable, leading when it is first in the queue.
func (t *topic) commit(c *pending) error {
	t.queueMu.Lock()
	if t.closed {
		t.queueMu.Unlock()
		return ErrClosed
	}
	t.writers.Add(1)
	t.queue = append(t.queue, c)
	lead := !t.led
	t.led = true
	t.queueMu.Unlock()
	defer t.writers.Done()
	if !lead && !<-c.wake {
		return c.err
	}
	runtime.Gosched() // callers just woken may queue their next append first
	group := t.take()
	err := t.write(group)
	for _, other := range group[1:] {
		other.err = err
		other.wake <- false
	}
	t.handOver(group)
	return err
}

// take removes from the queue what is committed together; its first is the caller's own.
func (t *topic) take() []*pending {
	t.queueMu.Lock()
	defer t.queueMu.Unlock()
	n, size := 0, 0
	for n < len(t.queue) && (n == 0 || size+len(t.queue[n].body) <= groupBytes) {
		size += len(t.queue[n].body)
		n++
	}
	group := t.queue[:n:n]
	t.queue = append(t.lead.spare[:0], t.queue[n:]...)
	return group
}

// handOver makes the first in the queue lead.
func (t *topic) handOver(group []*pending) {
	clear(group)
	t.lead.spare = group[:0]
	t.queueMu.Lock()
	defer t.queueMu.Unlock()
	t.led = len(t.queue) > 0
	if t.led {
		t.queue[0].wake <- true
	}
}

// write makes a group durable and shows it to the readers.
func (t *topic) write(group []*pending) error {
	b := &batch{header: header{base: t.lead.next, at: t.stamp()}, bodies: make([][]byte, len(group))}
	for i, c := range group {
		c.base = b.base + b.entries
		b.entries += c.entries
		b.bodies[i] = c.body
		b.bytes += len(c.body)
	}
	t.lead.header = b.appendTo(t.lead.header[:0])
	t.lead.parts = append(append(t.lead.parts[:0], t.lead.header), b.bodies...)
	t.writing.Lock()
	defer t.writing.Unlock()
	pos, err := t.records.Append(context.Background(), typeBatch, t.lead.parts...)
	clear(t.lead.parts)
	if errors.Is(err, seglog.ErrClosed) {
		return ErrClosed
	}
	if err != nil {
		return err // with no room it never was written, otherwise the log takes nothing more
	}
	t.lead.next = b.end()
	t.publish(b, pos)
	return nil
}

// roll seals the active segment. Readers see all that is in it when it returns.
func (t *topic) roll() error {
	t.writing.Lock()
	defer t.writing.Unlock()
	return t.records.Roll()
}

// stamp is the present time to the millisecond, never before that of an earlier batch.
func (t *topic) stamp() time.Time {
	t.lead.last = max(t.lead.last, time.Now().UnixMilli())
	return time.UnixMilli(t.lead.last)
}

// publish shows a durable batch to the readers.
func (t *topic) publish(b *batch, pos seglog.Pos) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.pieces)
	if n == 0 || t.pieces[n-1].seg != pos.Seg {
		t.pieces = append(t.pieces, &piece{seg: pos.Seg, first: b.base, began: b.at, ends: make([]int64, t.partitions)})
		n++
	}
	p := t.pieces[n-1]
	p.newest = b.at
	p.mark(b.base, pos.Off)
	t.end = b.end()
	t.recent.push(b)
	first := b.base
	for _, body := range b.bodies {
		for len(body) > 0 {
			r, rest, err := nextRun(body)
			if err != nil {
				break // encodeRuns made it
			}
			first += r.entries
			p.ends[r.partition], t.lasts[r.partition] = first, first
			if w := t.waits[r.partition]; w != nil {
				w.base = b.base
				close(w.ready)
				t.waits[r.partition] = nil
			}
			body = rest
		}
	}
}

// Start implements Topic.
func (t *topic) Start(ctx context.Context, partition int32) (int64, error) {
	if err := checkPartition(t, partition); err != nil {
		return 0, err
	}
	t.mu.RLock()
	known, end, begin := t.starts[partition], t.end, t.kept.dropped
	t.mu.RUnlock()
	if known >= begin {
		return known, nil
	}
	r := &reader{t: t, partition: partition, next: begin}
	found, err := r.first(ctx, end)
	if err != nil {
		return 0, err
	}
	if found >= end {
		return t.End(ctx, partition)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.starts[partition] = found
	return found, nil
}

// forgetStarts makes Start look again.
func (t *topic) forgetStarts() {
	for p := range t.starts {
		t.starts[p] = -1
	}
}

// End implements Topic.
func (t *topic) End(ctx context.Context, partition int32) (int64, error) {
	if err := checkPartition(t, partition); err != nil {
		return 0, err
	}
	t.mu.RLock()
	last, pieces, gone := t.lasts[partition], slices.Clone(t.pieces), t.kept.gone[partition]
	t.mu.RUnlock()
	if last > 0 {
		return last, nil
	}
	for i := len(pieces) - 1; i >= 0 && last <= 0; i-- {
		ends, err := t.learnEnds(pieces[i])
		if errors.Is(err, seglog.ErrFreed) {
			return t.End(ctx, partition) // dropped or rewritten meanwhile
		}
		if err != nil {
			return 0, fmt.Errorf("stream: topic %s: %w", t.name, err)
		}
		last = ends[partition]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lasts[partition] = max(t.lasts[partition], last, gone)
	return t.lasts[partition], nil
}

// learnEnds returns the offsets behind the last entry of each partition in a piece, and remembers them.
func (t *topic) learnEnds(p *piece) ([]int64, error) {
	ends := make([]int64, t.partitions)
	t.mu.RLock()
	known := p.ends != nil
	copy(ends, p.ends)
	t.mu.RUnlock()
	if known {
		return ends, nil
	}
	_, err := t.scan(p, 0, func(s stored) (bool, error) { return true, s.ends(ends) })
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p.ends = slices.Clone(ends)
	return ends, nil
}

// close finishes the appends under way.
func (t *topic) close() error {
	t.queueMu.Lock()
	already := t.closed
	t.closed = true
	t.queueMu.Unlock()
	if already {
		return nil
	}
	t.writers.Wait()
	close(t.done)
	t.chores.Lock() // what runs sees done and ends
	defer t.chores.Unlock()
	t.metrics.set.Unregister()
	return t.records.Close()
}
