package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/godwit-mta/godwit/internal/units"
)

// aloneRate is how many messages per second are injected one at a time: few
// enough that each is delivered before the next comes.
const aloneRate = 30

// latency measures single messages from the 250 to the source to the sink's
// 250. Both processes read the same clock.
func (b *bench) latency(ctx context.Context) (err error) {
	s, err := startSink(ctx, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	dir := filepath.Join(b.dir, "latency")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	e, err := b.startEngine(ctx, dir, s, engineOptions{})
	if err != nil {
		return err
	}
	if err := b.alone(ctx, e, s); err != nil {
		return errors.Join(err, e.kill())
	}
	return e.stop()
}

func (b *bench) alone(ctx context.Context, e *engine, s *sinkProcess) error {
	if err := e.settle(ctx); err != nil {
		return err
	}
	o := b.loadOptions(e.smtp, 1)
	o.Duration, o.Count, o.Rate = 0, int64(b.o.alone), aloneRate
	o.Sink, o.Wait = s.HTTP, units.Duration(patience)
	r, err := runLoad(ctx, o)
	if err != nil {
		return err
	}
	if !r.OK() || r.Delivery == nil || r.Delivery.FromAck.Count != r.Acked {
		return fmt.Errorf("not all of %d messages arrived once: %+v", r.Acked, r.Delivery)
	}
	if err := e.waitEmpty(ctx, patience); err != nil {
		return err
	}
	d := r.Delivery
	b.say("    accepted to delivered p50 %.2f ms, p90 %.2f, p99 %.2f, max %.1f; from MAIL p50 %.2f, p99 %.2f; ack p50 %.2f, p99 %.2f",
		d.FromAck.P50, d.FromAck.P90, d.FromAck.P99, d.FromAck.Max, d.FromMail.P50, d.FromMail.P99, r.AckLatency.P50, r.AckLatency.P99)
	b.set("relay.latency.p99", d.FromAck.P99)
	return nil
}
