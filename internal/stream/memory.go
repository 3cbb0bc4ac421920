package stream

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"
)

// Memory is a Log that forgets everything with its process, for tests. It keeps all records.
type Memory struct {
	mu     sync.Mutex
	topics map[string]*memoryTopic
	held   map[string]int64
	closed chan struct{}
}

// NewMemory returns an empty log.
func NewMemory() *Memory {
	return &Memory{topics: map[string]*memoryTopic{}, held: map[string]int64{}, closed: make(chan struct{})}
}

// Topic implements Log.
func (m *Memory) Topic(_ context.Context, name string, partitions int32) (Topic, error) {
	if err := checkTopic(name, partitions); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.topics[name]
	if t == nil {
		t = &memoryTopic{name: name, parts: make([][]Record, partitions), more: make(chan struct{}), closed: m.closed}
		m.topics[name] = t
	}
	if t.Partitions() != partitions {
		return nil, fmt.Errorf("stream: topic %s has %d partitions, not %d", name, t.Partitions(), partitions)
	}
	return t, nil
}

// Run implements Log.
func (m *Memory) Run(ctx context.Context, _ string, t Topic, serve func(context.Context, Assignment) error) error {
	return runAll(ctx, t, serve)
}

// runAll serves all partitions at once, as one process that is alone does.
func runAll(ctx context.Context, t Topic, serve func(context.Context, Assignment) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for p := range t.Partitions() {
		all.Go(func() {
			if err := serve(ctx, Assignment{Partition: p, Generation: 1}); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// Hold implements Log.
func (m *Memory) Hold(_ context.Context, group string, t Topic, partition int32, offset int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[fmt.Sprintf("%s/%s/%d", group, t.Name(), partition)] = offset
	return nil
}

// Release implements Log.
func (m *Memory) Release(_ context.Context, group string, t Topic) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range t.Partitions() {
		delete(m.held, fmt.Sprintf("%s/%s/%d", group, t.Name(), p))
	}
	return nil
}

// Close implements Log.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.closed:
	default:
		close(m.closed)
	}
	return nil
}

type memoryTopic struct {
	name   string
	closed chan struct{}

	mu    sync.Mutex
	parts [][]Record // an offset is an index
	more  chan struct{}
}

func (t *memoryTopic) Name() string      { return t.name }
func (t *memoryTopic) Partitions() int32 { return int32(len(t.parts)) }

func (t *memoryTopic) Append(ctx context.Context, msgs []Message) ([]int64, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	for _, m := range msgs {
		if err := checkPartition(t, m.Partition); err != nil {
			return nil, err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.closed:
		return nil, ErrClosed
	default:
	}
	offsets := make([]int64, len(msgs))
	for i, m := range msgs {
		p := &t.parts[m.Partition]
		offsets[i] = int64(len(*p))
		*p = append(*p, Record{Offset: offsets[i], Appended: time.Now().Truncate(time.Millisecond), Data: bytes.Clone(m.Data)})
	}
	close(t.more)
	t.more = make(chan struct{})
	return offsets, nil
}

func (t *memoryTopic) Start(_ context.Context, partition int32) (int64, error) {
	return 0, checkPartition(t, partition)
}

func (t *memoryTopic) End(_ context.Context, partition int32) (int64, error) {
	if err := checkPartition(t, partition); err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return int64(len(t.parts[partition])), nil
}

func (t *memoryTopic) Read(_ context.Context, partition int32, from int64) (Reader, error) {
	if err := checkPartition(t, partition); err != nil {
		return nil, err
	}
	if from < 0 {
		return nil, fmt.Errorf("stream: topic %s: offset %d is negative", t.name, from)
	}
	return &memoryReader{t: t, partition: partition, next: from}, nil
}

type memoryReader struct {
	t         *memoryTopic
	partition int32
	next      int64
}

func (r *memoryReader) Next(ctx context.Context, max int) ([]Record, error) {
	if max < 1 {
		max = 1
	}
	for {
		select {
		case <-r.t.closed:
			return nil, ErrClosed
		default:
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r.t.mu.Lock()
		all, more := r.t.parts[r.partition], r.t.more
		r.t.mu.Unlock()
		if int(r.next) < len(all) {
			got := all[r.next:min(len(all), int(r.next)+max)]
			r.next += int64(len(got))
			return got, nil
		}
		select {
		case <-more:
		case <-r.t.closed:
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *memoryReader) Close() error { return nil }
