package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	fairRate    = 100 // messages a second and source
	fairConns   = 10
	fairCount   = 100 // messages of the second tenant
	fairRepeats = 3
	fairWait    = 2 * time.Minute
	largeTenant = "large"
	smallTenant = "small"
)

// fairness measures how long a tenant's hundred messages take, alone and
// behind the backlog of another tenant, under one limit of the provider.
func (b *bench) fairness(ctx context.Context) error {
	provider := sinkOptions(true)
	provider.Providers[0].OwnMX = false
	w, err := b.newWorld(ctx, worldOptions{name: "fairness", nodes: 1, proxies: 1, kind: kindGodwit, sources: 1, provider: provider,
		rules: fmt.Sprintf("[default]\nconnections = %d\nmessage_rate = \"%d/s\"\n", fairConns, fairRate), tenants: []string{largeTenant, smallTenant}})
	if err != nil {
		return err
	}
	if err := w.fairness(ctx); err != nil {
		return w.failed(err)
	}
	return w.finish()
}

func (w *world) fairness(ctx context.Context) error {
	e := w.nodes[0].engine.Load()
	if err := e.settle(ctx); err != nil {
		return err
	}
	empty, err := w.hundreds(ctx, "empty")
	if err != nil {
		return err
	}
	began := time.Now()
	for n := 0; n < w.b.o.backlog; n += batchRecipients {
		if err := e.injectFor(ctx, largeTenant, "large", n, min(batchRecipients, w.b.o.backlog-n)); err != nil {
			return err
		}
	}
	waiting, err := e.queued(ctx)
	if err != nil {
		return err
	}
	w.b.say("    %d messages of the other tenant injected in %.1f s, %d wait", w.b.o.backlog, time.Since(began).Seconds(), waiting)
	full, err := w.hundreds(ctx, "full")
	if err != nil {
		return err
	}
	w.b.set("egress.fairness.p99_empty", empty.Seconds())
	w.b.set("egress.fairness.p99_full", full.Seconds())
	w.b.set("egress.fairness.p99_ratio", full.Seconds()/empty.Seconds())
	return w.countAll(ctx, int64(w.b.o.backlog+2*fairRepeats*fairCount))
}

// hundreds is the median over some tries of the time in which 99 of a hundred messages are delivered.
func (w *world) hundreds(ctx context.Context, when string) (time.Duration, error) {
	e := w.nodes[0].engine.Load()
	var p99s []time.Duration
	for i := range fairRepeats {
		prefix := fmt.Sprintf("%s%d-", when, i)
		at := time.Now()
		if err := e.injectFor(ctx, smallTenant, prefix, 0, fairCount); err != nil {
			return 0, err
		}
		times, err := w.awaitThose(ctx, prefix, at)
		if err != nil {
			return 0, err
		}
		p99 := times[fairCount*99/100-1]
		w.b.say("    %s: 100 messages after p50 %.0f ms, p99 %.0f, the last %.0f", when, ms(times[fairCount/2-1]), ms(p99), ms(times[fairCount-1]))
		p99s = append(p99s, p99)
		if err := pause(ctx, time.Second); err != nil {
			return 0, err
		}
	}
	slices.Sort(p99s)
	return p99s[len(p99s)/2], nil
}

// awaitThose waits until the messages with that prefix are delivered and returns how long each took, in order.
func (w *world) awaitThose(ctx context.Context, prefix string, sent time.Time) ([]time.Duration, error) {
	for {
		taken, err := w.sink.deliveries(ctx)
		if err != nil {
			return nil, err
		}
		var times []time.Duration
		for i := range taken {
			if strings.HasPrefix(taken[i].Recipient, prefix) {
				times = append(times, taken[i].At.Time().Sub(sent))
			}
		}
		if len(times) >= fairCount {
			slices.Sort(times)
			if len(times) > fairCount {
				err = fmt.Errorf("%d messages arrived, %d were sent", len(times), fairCount)
			}
			return times, err
		}
		if time.Since(sent) > fairWait {
			return nil, fmt.Errorf("%d of %d messages arrived within %v", len(times), fairCount, fairWait)
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// countAll checks that the queue and the provider together have every message.
func (w *world) countAll(ctx context.Context, want int64) error {
	e := w.nodes[0].engine.Load()
	if err := errors.Join(e.suspendAll(ctx), e.waitCalm(ctx)); err != nil {
		return err
	}
	queued, err := e.queued(ctx)
	if err != nil {
		return err
	}
	st, err := w.sink.stats(ctx)
	if err != nil {
		return err
	}
	w.b.say("    %d messages at the provider, %d in the queue", st.Total.Accepted, queued)
	if got := st.Total.Accepted + queued; got != want {
		return fmt.Errorf("%d messages were injected, %d are at the provider or in the queue", want, got)
	}
	return nil
}

// injectFor sends a batch for a tenant: recipients prefix + number, from first on.
func (e *engine) injectFor(ctx context.Context, tenant, prefix string, first, n int) error {
	in := textBatch{Content: textContent{From: "load@source.test", Subject: "Fair", Text: demandText}}
	for i := first; i < first+n; i++ {
		in.Recipients = append(in.Recipients, textRecipient{fmt.Sprintf("%s%d@d%d.test", prefix, i, i%10)})
	}
	var out injected
	if err := call(ctx, http.MethodPost, e.http+"/v1/messages", keyOf(tenant), in, &out); err != nil {
		return err
	}
	if len(out.Messages) != n {
		return fmt.Errorf("%d of %d messages were taken", len(out.Messages), n)
	}
	return nil
}
