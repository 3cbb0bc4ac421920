package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/load"
	"github.com/godwit-mta/godwit/internal/seglog"
)

const (
	batchRecipients = 10_000 // of one request
	batchBody       = 50 << 10
)

// batch injects many recipients of one stored body, in batches one after the
// other, with delivery suspended.
func (b *bench) batch(ctx context.Context) (err error) {
	s, err := startSink(ctx, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	dir := filepath.Join(b.dir, "batch")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	e, err := b.startEngine(ctx, dir, s, engineOptions{})
	if err != nil {
		return err
	}
	if err := b.batches(ctx, e); err != nil {
		return errors.Join(err, fmt.Errorf("engine's log: %s", e.tail()), e.kill())
	}
	return e.stop()
}

func (b *bench) batches(ctx context.Context, e *engine) error {
	if err := e.suspendAll(ctx); err != nil {
		return err
	}
	if err := e.settle(ctx); err != nil {
		return err
	}
	before, err := e.footprint(ctx)
	if err != nil {
		return err
	}
	cpu, err := cpuOf(e.pid)
	if err != nil {
		return err
	}
	o := b.loadOptions(e.http, 1)
	o.Mode, o.HTTP.Content, o.HTTP.Key = load.ModeHTTP, load.ContentStored, apiKey
	o.Duration, o.Count, o.Recipients, o.Size = 0, int64(b.o.messages.batch), batchRecipients, batchBody
	r, err := runLoad(ctx, o)
	if err != nil {
		return err
	}
	if n, err := e.queued(ctx); err != nil || n != r.Acked || r.Acked != o.Count || !r.OK() {
		return errors.Join(err, fmt.Errorf("%d injected, %d acknowledged, %d in the queue; errors %v", o.Count, r.Acked, n, r.Errors))
	}
	now, err := cpuOf(e.pid)
	if err != nil {
		return err
	}
	if err := b.indexed(ctx, e); err != nil {
		return err
	}
	after, err := e.footprint(ctx)
	if err != nil {
		return err
	}
	b.say("    %d recipients in %.2f s, a batch acknowledged after p50 %.0f ms, max %.0f; engine %.1f us per recipient",
		r.Acked, r.Seconds, r.AckLatency.P50, r.AckLatency.Max, perMessage(now-cpu, r.Acked))
	grown := after.minus(before)
	b.say("    spool grew by: log %.1f B per recipient with the body, events %.1f, index and all other files %.1f; disk blocks of everything %.1f",
		grown.segments/float64(r.Acked), grown.events/float64(r.Acked), grown.files/float64(r.Acked), grown.blocks/float64(r.Acked))
	b.set("relay.http_batch", r.AcceptRate)
	b.set("relay.http_batch.spool_bytes_per_rcpt", (grown.segments+grown.events+grown.files-batchBody)/float64(r.Acked))
	return nil
}

// indexed waits until messages that wait have come from the log into the
// index, which happens in the background.
func (b *bench) indexed(ctx context.Context, e *engine) error {
	last, same := int64(-1), 0
	for same < 4 {
		now, err := allocated(e.spool(), func(string) bool { return true })
		if err != nil {
			return err
		}
		if same++; now != last {
			same = 0
		}
		last = now
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}

// footprint is what the spool takes. The two logs write into segment files
// that exist before and are recycled after, so what they use is how far their
// tails have moved: the bytes of their records and of the records' headers.
// All other files, the index above all, count with their disk blocks.
type footprint struct{ segments, events, files, blocks float64 }

func (e *engine) footprint(ctx context.Context) (f footprint, err error) {
	m, err := e.metrics(ctx)
	if err != nil {
		return f, err
	}
	used := func(name string) float64 {
		label := `{log="` + name + `"}`
		return m["godwit_seglog_bytes_total"+label] + seglog.HeaderSize*m["godwit_seglog_records_total"+label]
	}
	f.segments, f.events = used("spool"), used("events")
	others, err := allocated(e.spool(), func(rel string) bool {
		return !strings.HasPrefix(rel, "segments/") && !strings.HasPrefix(rel, "events/")
	})
	if err != nil {
		return f, err
	}
	all, err := allocated(e.spool(), func(string) bool { return true })
	f.files, f.blocks = float64(others), float64(all)
	return f, err
}

func (f footprint) minus(o footprint) footprint {
	return footprint{f.segments - o.segments, f.events - o.events, f.files - o.files, f.blocks - o.blocks}
}
