package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Run implements Log, as a member of the consumer group of the group's and the topic's names. The generation is the
// group's at the time of the assignment; the brokers begin anew at 1 only when they have forgotten a group that was
// without members for offsets.retention.minutes.
func (k *Kafka) Run(ctx context.Context, group string, t Topic, serve func(context.Context, Assignment) error) error {
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return ErrClosed
	}
	k.runs.Add(1)
	k.mu.Unlock()
	defer k.runs.Done()
	full := k.o.Prefix + t.Name()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m := &member{
		k: k, topic: full, ctx: ctx, cancel: cancel, serve: serve, serving: map[int32]*serving{},
		lease: &lease{limit: k.o.Session.D(), seen: time.Now()},
	}
	client, err := kgo.NewClient(k.options(
		kgo.ConsumerGroup(k.o.Prefix+group+"."+t.Name()), kgo.ConsumeTopics(full), kgo.DisableAutoCommit(),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(k.o.Session.D()), kgo.HeartbeatInterval(k.o.Session.D()/8), kgo.RebalanceTimeout(k.o.Rebalance.D()),
		kgo.OnPartitionsAssigned(m.assigned), kgo.OnPartitionsRevoked(m.revoked), kgo.OnPartitionsLost(m.revoked),
		kgo.WithHooks(m),
	)...)
	if err != nil {
		return fmt.Errorf("stream: topic %s: %w", t.Name(), err)
	}
	client.PauseFetchTopics(full) // readers fetch, the group only assigns
	select {
	case <-ctx.Done():
	case <-k.done:
		cancel(ErrClosed)
	}
	m.stop()
	client.Close() // leaves the group
	return context.Cause(ctx)
}

// member is this process in a group.
type member struct {
	k      *Kafka
	topic  string
	ctx    context.Context
	cancel context.CancelCauseFunc
	serve  func(context.Context, Assignment) error
	lease  *lease

	mu      sync.Mutex
	stopped bool
	serving map[int32]*serving
}

// serving is one partition at work.
type serving struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// assigned begins to serve partitions.
func (m *member) assigned(_ context.Context, client *kgo.Client, parts map[string][]int32) {
	_, generation := client.GroupMetadata()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range parts[m.topic] {
		if m.stopped || m.serving[p] != nil {
			continue
		}
		ctx, cancel := context.WithCancelCause(context.WithValue(m.ctx, leaseKey{}, m.lease))
		s := &serving{cancel: cancel, done: make(chan struct{})}
		m.serving[p] = s
		go func() {
			defer close(s.done)
			err := m.serve(ctx, Assignment{Partition: p, Generation: int64(generation)})
			if err != nil && ctx.Err() == nil {
				m.cancel(err)
			}
		}()
	}
}

// revoked gives partitions up: it returns when none of them is served any more.
func (m *member) revoked(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
	m.mu.Lock()
	var ending []*serving
	for _, p := range parts[m.topic] {
		if s := m.serving[p]; s != nil {
			s.cancel(ErrFenced)
			ending = append(ending, s)
			delete(m.serving, p)
		}
	}
	m.mu.Unlock()
	for _, s := range ending {
		<-s.done
	}
}

// stop waits for all, whose contexts have ended, and serves no more.
func (m *member) stop() {
	m.mu.Lock()
	m.stopped = true
	all := m.serving
	m.serving = map[int32]*serving{}
	m.mu.Unlock()
	for _, s := range all {
		<-s.done
		s.cancel(nil)
	}
}

// OnGroupManageError implements kgo.HookGroupManageError. The client tries again by itself.
func (m *member) OnGroupManageError(err error) {
	if !errors.Is(err, context.Canceled) && !errors.Is(err, kerr.RebalanceInProgress) {
		m.k.d.Logger.Error("the group session ended; joining again", "topic", m.topic, "error", err)
	}
}

// OnBrokerWrite implements kgo.HookBrokerWrite.
func (m *member) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	if key == kmsg.JoinGroup.Int16() && err == nil {
		m.lease.join()
	}
}

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (m *member) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e2e kgo.BrokerE2E) {
	switch key {
	case kmsg.JoinGroup.Int16(), kmsg.SyncGroup.Int16(), kmsg.Heartbeat.Int16():
		if e2e.Err() == nil {
			m.lease.answered(time.Now().Add(-e2e.DurationE2E()))
		}
	}
}

// leaseKey finds the lease in the context of serve.
type leaseKey struct{}

// lease tells for how long brokers cannot have given our partitions to others: a session's time after the last
// request they have answered. So a process that was stopped for long knows it before its first output, not only
// when the brokers tell it.
type lease struct {
	limit time.Duration

	mu      sync.Mutex
	seen    time.Time
	joining bool // while brokers wait for the group to gather no session expires
}

func (l *lease) join() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.joining = true
}

func (l *lease) answered(sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.joining = false
	if sent.After(l.seen) {
		l.seen = sent
	}
}

func (l *lease) expired() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.joining && time.Since(l.seen) > l.limit
}

// Held returns nil while no other process can have the partition that a context of Log.Run's serve is of, else
// ErrFenced or the context's error. A process that does not hear of the brokers any more knows it so by itself.
func Held(ctx context.Context) error { return held(ctx) }

// held returns the error of a context that ended, and ErrFenced when it is that of a partition that others may have by now.
func held(ctx context.Context) error {
	if err := ended(ctx); err != nil {
		return err
	}
	if l, ok := ctx.Value(leaseKey{}).(*lease); ok && l.expired() {
		return ErrFenced
	}
	return nil
}
