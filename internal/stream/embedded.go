package stream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// trimEvery is how often what is too old or too much is looked for.
const trimEvery = time.Minute

// ErrInUse says that another process has the log's folder open.
var ErrInUse = errors.New("stream: the folder is in use by another process")

// Embedded is a Log in a folder, for one process. Each topic is one segment log with all of its partitions, so
// that a batch for many partitions is one write and one sync. The offsets of a topic are counted
// over all of its partitions. The file format is in docs/formats/stream.md.
type Embedded struct {
	dir  string
	o    Options
	d    Deps
	lock *os.File
	stop chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex
	topics map[string]*topic
	closed bool
}

var _ Log = (*Embedded)(nil)

// Open opens the log in dir, making it if it is not there. Topics are opened when they are asked for.
func Open(dir string, o Options, d Deps) (*Embedded, error) {
	o, d = o.withDefaults(), d.withDefaults()
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("stream: %w", err)
	}
	if err := d.FS.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("stream: %w", err)
	}
	if err := d.FS.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("stream: %w", err)
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	e := &Embedded{dir: dir, o: o, d: d, lock: lock, stop: make(chan struct{}), topics: map[string]*topic{}}
	e.wg.Add(1)
	go e.maintain()
	return e, nil
}

func lockFolder(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("stream: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrInUse, dir), lock.Close())
	}
	return lock, nil
}

// Topic implements Log.
func (e *Embedded) Topic(_ context.Context, name string, partitions int32) (Topic, error) {
	if err := checkTopic(name, partitions); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, ErrClosed
	}
	t := e.topics[name]
	if t == nil {
		var err error
		if t, err = openTopic(filepath.Join(e.dir, name), name, partitions, e.o, e.d); err != nil {
			return nil, err
		}
		e.topics[name] = t
	}
	if t.partitions != partitions {
		return nil, fmt.Errorf("stream: topic %s has %d partitions, not %d", name, t.partitions, partitions)
	}
	return t, nil
}

// Run implements Log.
func (e *Embedded) Run(ctx context.Context, _ string, t Topic, serve func(context.Context, Assignment) error) error {
	return runAll(ctx, t, serve)
}

// Hold implements Log.
func (e *Embedded) Hold(_ context.Context, group string, t Topic, partition int32, offset int64) error {
	mine, err := e.own(t.Name())
	if err != nil {
		return err
	}
	return mine.hold(group, partition, offset)
}

// Release implements Log.
func (e *Embedded) Release(_ context.Context, group string, t Topic) error {
	mine, err := e.own(t.Name())
	if err != nil {
		return err
	}
	return mine.release(group)
}

// own returns an open topic.
func (e *Embedded) own(name string) (*topic, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, ErrClosed
	}
	if t := e.topics[name]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("stream: topic %s is not open", name)
}

// Rewrite asks keep about every record of a topic that is durable at the call, and rewrites the segments in which it
// changes or empties one. Offsets stay as they are; an emptied record is not read any more. A crash leaves each segment
// as it was or rewritten. Readers go on meanwhile.
func (e *Embedded) Rewrite(ctx context.Context, topic string, keep Keep) error {
	t, err := e.own(topic)
	if err != nil {
		return err
	}
	if err := t.rewrite(ctx, keep); err != nil {
		return fmt.Errorf("stream: topic %s: rewrite: %w", topic, err)
	}
	return nil
}

// Each calls f for every record of a topic that is durable at the call, of all partitions, in the order of the offsets, until f
// fails. It reads everything once, whatever the number of partitions. What is damaged is stepped over. Data is valid
// during the call.
func (e *Embedded) Each(ctx context.Context, topic string, f func(partition int32, offset int64, data []byte) error) error {
	t, err := e.own(topic)
	if err != nil {
		return err
	}
	if err := t.each(ctx, f); err != nil {
		return fmt.Errorf("stream: topic %s: %w", topic, err)
	}
	return nil
}

// Held tells from which offset on each group holds each partition of a topic. A group that never called Hold is not in it.
func (e *Embedded) Held(topic string) (map[string]map[int32]int64, error) {
	t, err := e.own(topic)
	if err != nil {
		return nil, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.kept.clone().holds, nil
}

// Trim drops now what is too old or too much at the given time, as the log does by itself once a minute.
func (e *Embedded) Trim(now time.Time) error {
	e.mu.Lock()
	topics := make([]*topic, 0, len(e.topics))
	for _, t := range e.topics {
		topics = append(topics, t)
	}
	e.mu.Unlock()
	var errs []error
	for _, t := range topics {
		if err := t.trim(now); err != nil {
			errs = append(errs, fmt.Errorf("stream: topic %s: retention: %w", t.name, err))
		}
	}
	return errors.Join(errs...)
}

// maintain keeps to the limits.
func (e *Embedded) maintain() {
	defer e.wg.Done()
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		select {
		case <-e.stop:
			return
		case now := <-tick.C:
			if err := e.Trim(now); err != nil {
				e.d.Logger.Error("dropping old records failed", "error", err)
			}
		}
	}
}

// Close ends all reading and appending. What was acknowledged is durable already.
func (e *Embedded) Close() error {
	e.mu.Lock()
	already := e.closed
	e.closed = true
	e.mu.Unlock()
	if already {
		return nil
	}
	close(e.stop)
	e.wg.Wait()
	var errs []error
	for _, t := range e.topics {
		errs = append(errs, t.close())
	}
	return errors.Join(append(errs, e.lock.Close())...)
}
