package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// week is the time over which the scheduled messages are spread, from a day ahead on.
const week = 7 * 24 * time.Hour

// wireRecipient and wireBatch are the injection API's forms, as far as used here.
type (
	wireRecipient struct {
		Address string    `json:"address"`
		SendAt  time.Time `json:"send_at"`
	}
	wireContent struct {
		From    string `json:"from"`
		Subject string `json:"subject"`
		Text    string `json:"text"`
	}
	wireBatch struct {
		Content    wireContent     `json:"content"`
		Recipients []wireRecipient `json:"recipients"`
	}
)

func (b *bench) scheduled(ctx context.Context) error {
	return b.million(ctx, "", func(e *engine, s *sinkProcess, anon float64) error {
		b.set(b.scheduledName("anon"), anon)
		return b.restart(ctx, e, s)
	})
}

func (b *bench) scheduledCgroup(ctx context.Context) error {
	group, remove, err := memoryGroup(512 << 20)
	if err != nil {
		b.say("    skipped: %v", err)
		return nil
	}
	err = b.million(ctx, group, func(e *engine, _ *sinkProcess, anon float64) error {
		b.say("    cgroup: %s", groupState(group))
		b.set(b.scheduledName("anon_cgroup512"), anon)
		return e.stop()
	})
	return errors.Join(err, remove())
}

// scheduledName keeps the figures of a short run apart from those of the real one.
func (b *bench) scheduledName(figure string) string {
	if b.o.messages.scheduled != 1_000_000 {
		return fmt.Sprintf("relay.scheduled_%dk.%s", b.o.messages.scheduled/1000, figure)
	}
	return "relay.scheduled_1m." + figure
}

// million schedules the messages on a fresh engine and hands over to then,
// which ends the engine.
func (b *bench) million(ctx context.Context, group string, then func(e *engine, s *sinkProcess, anon float64) error) (err error) {
	s, err := startSink(ctx, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	dir := filepath.Join(b.dir, "scheduled")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	e, err := b.startEngine(ctx, dir, s, engineOptions{cgroup: group})
	if err != nil {
		return err
	}
	anon, err := b.schedule(ctx, e)
	if err != nil {
		return errors.Join(err, fmt.Errorf("engine's log: %s", e.tail()), e.kill())
	}
	return then(e, s, anon)
}

// schedule injects and returns the anonymous memory in MiB once the engine has calmed down.
func (b *bench) schedule(ctx context.Context, e *engine) (float64, error) {
	if err := e.settle(ctx); err != nil {
		return 0, err
	}
	before, err := cpuOf(e.pid)
	if err != nil {
		return 0, err
	}
	watch := watchAnon(ctx, e.pid)
	began := time.Now()
	random := rand.New(rand.NewPCG(1, uint64(b.round)))
	for n := 0; n < b.o.messages.scheduled; n += batchRecipients {
		in := scheduledBatch(n, min(batchRecipients, b.o.messages.scheduled-n), began, random)
		if err := call(ctx, http.MethodPost, e.http+"/v1/messages", apiKey, in, nil); err != nil {
			return 0, fmt.Errorf("after %d messages: %w", n, err)
		}
	}
	took := time.Since(began)
	if err := b.heap(ctx, "scheduled-injected", e); err != nil {
		return 0, err
	}
	after, err := cpuOf(e.pid)
	if err != nil {
		return 0, err
	}
	if n, err := e.queued(ctx); err != nil || n != int64(b.o.messages.scheduled) {
		return 0, errors.Join(err, fmt.Errorf("%d scheduled, %d in the queue", b.o.messages.scheduled, n))
	}
	if err := b.indexed(ctx, e); err != nil {
		return 0, err
	}
	peak := watch()
	m, err := e.metrics(ctx)
	if err != nil {
		return 0, err
	}
	anon, err := memoryOf(e.pid, "RssAnon")
	if err != nil {
		return 0, err
	}
	file, err := memoryOf(e.pid, "RssFile")
	if err != nil {
		return 0, err
	}
	size, err := allocated(e.spool(), func(string) bool { return true })
	if err != nil {
		return 0, err
	}
	rate := float64(b.o.messages.scheduled) / took.Seconds()
	b.say("    %d messages in %.1f s: %.0f/s, engine %.1f us per message; RssAnon %.0f MiB, at most %.0f while injecting; RssFile %.0f MiB; Go heap %.0f MiB in use, %.0f idle, next collection at %.0f; messages in memory %.0f; spool %.0f MiB",
		b.o.messages.scheduled, took.Seconds(), rate, perMessage(after-before, int64(b.o.messages.scheduled)), mib(anon), mib(peak), mib(file),
		mib(int64(m["go_memstats_heap_inuse_bytes"])), mib(int64(m["go_memstats_heap_idle_bytes"]-m["go_memstats_heap_released_bytes"])),
		mib(int64(m["go_memstats_next_gc_bytes"])), m["godwit_queue_messages_in_memory"], mib(size))
	b.set(b.scheduledName("insert"), rate)
	return mib(anon), b.heap(ctx, "scheduled-calm", e) // it collects garbage first, so it comes last
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// scheduledBatch is a request for messages from number n on, with a small body of its own.
func scheduledBatch(n, copies int, now time.Time, random *rand.Rand) *wireBatch {
	in := &wireBatch{Content: wireContent{From: "load@source.test", Subject: fmt.Sprintf("Scheduled %d", n),
		Text: strings.Repeat("A small message that waits for its time.\n", 20)}}
	in.Recipients = make([]wireRecipient, copies)
	for i := range in.Recipients {
		in.Recipients[i] = wireRecipient{
			Address: fmt.Sprintf("u%d@d%d.test", n+i, (n+i)%10),
			SendAt:  now.Add(24*time.Hour + time.Duration(random.Int64N(int64(week)))).UTC().Truncate(time.Millisecond),
		}
	}
	return in
}

// watchAnon samples RssAnon until the returned function is called, which returns the largest.
func watchAnon(ctx context.Context, pid int) func() int64 {
	ctx, cancel := context.WithCancel(ctx)
	var most atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pause(ctx, 50*time.Millisecond) == nil {
			if n, err := memoryOf(pid, "RssAnon"); err == nil {
				most.Store(max(most.Load(), n))
			}
		}
	}()
	return func() int64 { cancel(); <-done; return most.Load() }
}

// restart measures from starting the process, with nothing of the spool in the
// page cache, to the first delivery of a message that fell due meanwhile.
func (b *bench) restart(ctx context.Context, e *engine, s *sinkProcess) error {
	due := time.Now().Add(2 * time.Second)
	in := &wireBatch{Content: wireContent{From: "load@source.test", Subject: "Due", Text: "Now.\n"},
		Recipients: []wireRecipient{{Address: "due@d0.test", SendAt: due.UTC()}}}
	if err := call(ctx, http.MethodPost, e.http+"/v1/messages", apiKey, in, nil); err != nil {
		return errors.Join(err, e.kill())
	}
	stopping := time.Now()
	if err := e.stop(); err != nil {
		return err
	}
	stopped := time.Since(stopping)
	if err := pause(ctx, time.Until(due)); err != nil {
		return err
	}
	if st, err := s.stats(ctx); err != nil || st.Total.Accepted != 0 {
		return errors.Join(err, fmt.Errorf("the message was delivered before the restart"))
	}
	if err := dropCaches(); err != nil {
		b.say("    restart skipped: %v", err)
		return nil
	}
	again, err := b.startEngine(ctx, e.dir, s, engineOptions{})
	if err != nil {
		return err
	}
	ready := time.Since(again.began)
	st, err := s.waitFor(ctx, 1, 2*time.Minute)
	if err != nil {
		return errors.Join(err, fmt.Errorf("engine's log: %s", again.tail()), again.kill())
	}
	took := st.Total.FirstAccept.Sub(again.began)
	b.say("    stopped in %.2f s; page cache dropped; listening after %.2f s, due message delivered after %.2f s", stopped.Seconds(), ready.Seconds(), took.Seconds())
	b.set(b.scheduledName("restart"), took.Seconds())
	return again.stop()
}

// dropCaches empties the page cache.
func dropCaches() error {
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0)
}
