package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/godwit-mta/godwit/internal/load"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/units"
)

// patience is how long a run may stand still before it is given up.
const patience = 20 * time.Second

// flow is a run of mail through the engine.
type flow struct {
	name        string
	connections int
	dkim        bool
	smtpSource  bool // Postfix's source instead of ours
	suspended   bool // nothing is delivered
}

// flowResult is what a flow came to.
type flowResult struct {
	messages  int64
	rate      float64       // delivered (suspended: accepted) per second, from the first MAIL
	cpu       time.Duration // of the engine, until its queue was empty
	sourceCPU time.Duration
	ack       load.Latency // not from smtp-source
	counts    metrics      // what the engine's counters rose by
}

func (r *flowResult) cpuPer() float64 { return perMessage(r.cpu, r.messages) }

func perMessage(d time.Duration, n int64) float64 {
	return float64(d.Nanoseconds()) / 1e3 / float64(max(n, 1))
}

// loadOptions inject for the time that was asked for.
func (b *bench) loadOptions(target string, connections int) load.Options {
	o := load.DefaultOptions()
	o.Target, o.Connections, o.NoSums = target, connections, true
	o.Duration = units.Duration(b.o.load)
	return o
}

// flow runs mail through a fresh engine and checks that all of it arrived.
func (b *bench) flow(ctx context.Context, f flow) (r *flowResult, err error) {
	s, err := startSink(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	dir := filepath.Join(b.dir, f.name)
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o := engineOptions{}
	if f.dkim {
		o.dkim = b.key
	}
	e, err := b.startEngine(ctx, dir, s, o)
	if err != nil {
		return nil, err
	}
	r, err = b.push(ctx, f, e, s)
	if err != nil {
		return nil, errors.Join(err, fmt.Errorf("engine's log: %s", e.tail()), e.kill())
	}
	return r, e.stop()
}

// push does the run on a started engine.
func (b *bench) push(ctx context.Context, f flow, e *engine, s *sinkProcess) (*flowResult, error) {
	if f.suspended {
		if err := e.suspendAll(ctx); err != nil {
			return nil, err
		}
	}
	if err := e.settle(ctx); err != nil {
		return nil, err
	}
	before, err := e.observe(ctx)
	if err != nil {
		return nil, err
	}
	profiled := b.profile(ctx, f.name, e)
	r, first, err := b.inject(ctx, f, e.smtp)
	if err != nil {
		return nil, err
	}
	if !f.suspended {
		if _, err = s.waitFor(ctx, r.messages, patience); err == nil {
			err = e.waitEmpty(ctx, patience)
		}
		if err != nil {
			return nil, err
		}
	}
	after, err := e.observe(ctx)
	if err == nil {
		err = b.heap(ctx, f.name, e)
	}
	if err != nil {
		return nil, err
	}
	r.cpu, r.counts = after.cpu-before.cpu, after.metrics.minus(before.metrics)
	st, err := s.stats(ctx)
	if err != nil {
		return nil, err
	}
	if f.suspended {
		err = r.checkSuspended(ctx, e, st)
	} else {
		r.rate = float64(st.Total.Accepted) / st.Total.LastAccept.Sub(first).Seconds()
		err = r.checkDelivered(st)
	}
	foreign, steal := disturbance(before.host, after.host, r.cpu+r.sourceCPU+time.Duration(st.CPU*1e9))
	b.say("    %d messages, %.0f/s; engine %.1f us, source %.1f us, sink %.1f us per message; others %.0f %%, steal %.0f %%",
		r.messages, r.rate, r.cpuPer(), perMessage(r.sourceCPU, r.messages), st.CPU*1e6/float64(max(r.messages, 1)), foreign, steal)
	return r, errors.Join(err, profiled())
}

// observation is a moment of an engine's life.
type observation struct {
	cpu     time.Duration
	host    host
	metrics metrics
}

func (e *engine) observe(ctx context.Context) (o observation, err error) {
	if o.metrics, err = e.metrics(ctx); err != nil {
		return o, err
	}
	if o.host, err = readHost(); err != nil {
		return o, err
	}
	o.cpu, err = cpuOf(e.pid)
	return o, err
}

// inject runs the source and returns when its first MAIL was.
func (b *bench) inject(ctx context.Context, f flow, target string) (*flowResult, time.Time, error) {
	if f.smtpSource {
		n := int64(b.rate[f.kind()] * b.o.load.Seconds())
		first := time.Now()
		cpu, err := runSMTPSource(ctx, target, f.connections, max(n, 1000))
		return &flowResult{messages: max(n, 1000), sourceCPU: cpu}, first, err
	}
	rep, err := runLoad(ctx, b.loadOptions(target, f.connections))
	if err != nil {
		return nil, time.Time{}, err
	}
	if !rep.OK() || rep.ConnectErrors > 0 {
		return nil, time.Time{}, fmt.Errorf("the source had %d refused, %d of unknown fate, errors %v", rep.Refused, rep.Unknown, rep.Errors)
	}
	r := &flowResult{messages: rep.Acked, rate: rep.AcceptRate, ack: rep.AckLatency,
		sourceCPU: time.Duration(rep.CPU * float64(time.Second))}
	return r, rep.Started, nil
}

// kind says which runs are alike, for the size of those that count messages.
func (f flow) kind() string {
	if f.dkim {
		return "dkim"
	}
	return "plain"
}

// checkDelivered holds the three accounts against each other.
func (r *flowResult) checkDelivered(st sink.Stats) error {
	t := st.Total
	switch {
	case t.Accepted != r.messages:
		return fmt.Errorf("the source has %d acknowledged, the sink %d", r.messages, t.Accepted)
	case t.Deferred+t.Bounced+t.Dropped != 0:
		return fmt.Errorf("the sink deferred %d, bounced %d, dropped %d", t.Deferred, t.Bounced, t.Dropped)
	case int64(r.counts.injected()) != r.messages || int64(r.counts.delivered()) != r.messages:
		return fmt.Errorf("the engine counts %.0f injected and %.0f delivered of %d", r.counts.injected(), r.counts.delivered(), r.messages)
	}
	return nil
}

// checkSuspended is for a run without delivery.
func (r *flowResult) checkSuspended(ctx context.Context, e *engine, st sink.Stats) error {
	n, err := e.queued(ctx)
	switch {
	case err != nil:
		return err
	case st.Total.Accepted != 0:
		return fmt.Errorf("the sink has %d messages though delivery is suspended", st.Total.Accepted)
	case n != r.messages:
		return fmt.Errorf("the source has %d acknowledged, the queue holds %d", r.messages, n)
	}
	return nil
}
