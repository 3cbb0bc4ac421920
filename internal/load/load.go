// Package load is the load source: it injects messages by SMTP or HTTP as fast
// as they go or at a set rate, and tells what came of it.
//
// Like the provider simulator (internal/sink) it is a witness beside the
// engine: each copy has a load id, and every acknowledgement is written down
// in a ledger.Book with the sum of the body that was sent. Given the address
// of the simulator's statistics, a run also waits until the mail has arrived
// there and holds the two accounts against each other.
//
// The order of a run: newTemplate (one message with places for its id) → one
// worker per connection, each drawing numbers from pace → SMTP transactions
// (smtp.go) or HTTP requests (http.go) → tally and book → the simulator's side
// (sink.go) → Report.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
)

// Deps are what a Load needs from outside.
type Deps struct {
	Log *slog.Logger // nil discards
	// Progress receives a progress bar if it is a terminal; nil for none.
	Progress io.Writer
}

// Load is one run. Make it with New and call Run once.
type Load struct {
	opts    Options
	log     *slog.Logger
	show    io.Writer
	run     string
	targets *targets
	base    *template
	book    *ledger.Book // nil when nobody wants the records
	stored  string       // content id, for ContentStored
	pace    *pace
	live    live
}

// live are the numbers that the progress bar shows while workers are at it.
type live struct{ acked, refused, unknown atomic.Int64 }

// New checks the options and opens the ledger file.
func New(o Options, d Deps) (*Load, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	t, err := newTargets(o)
	if err != nil {
		return nil, err
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	now := time.Now()
	l := &Load{opts: o, log: d.Log, show: d.Progress, run: o.Run, targets: t}
	if l.run == "" {
		l.run = runName(now)
	}
	l.base = newTemplate(o, l.run, now)
	if keep := o.Keep || o.Sink != ""; keep || o.Ledger != "" {
		l.book, err = ledger.NewBook(ledger.BookOptions{Path: o.Ledger, Forget: !keep})
	}
	return l, err
}

// runName makes a short name that no other run has.
func runName(now time.Time) string { return "r" + strconv.FormatInt(now.UnixNano(), 36) }

// Run injects until count or duration is reached or ctx ends, then waits for
// the simulator if it is to. An error means that the run could not be done at
// all; what went wrong with messages is in the report, which is never nil
// once injection has begun.
func (l *Load) Run(ctx context.Context) (*Report, error) {
	if l.book != nil {
		defer l.book.Close()
	}
	var witness *witness
	if l.opts.Sink != "" {
		w, err := newWitness(ctx, l.opts)
		if err != nil {
			return nil, err
		}
		defer w.close()
		witness = w
	}
	cpu := cpuTime()
	stopBar := l.progress()
	total, err := l.inject(ctx)
	report := l.report(total, cpuTime()-cpu)
	if witness != nil && err == nil {
		report.Delivery, err = witness.wait(ctx, l, total)
	}
	stopBar()
	if l.book != nil {
		if cerr := l.book.Close(); cerr != nil && err == nil {
			err = cerr
		}
	}
	return report, err
}

// Counts are the copies acknowledged, refused and of unknown fate so far. It may be called during Run.
func (l *Load) Counts() (acked, refused, unknown int64) {
	return l.live.acked.Load(), l.live.refused.Load(), l.live.unknown.Load()
}

// Acks are the acknowledgements in memory; nil unless Options.Keep or Options.Sink is set.
func (l *Load) Acks() []ledger.Ack {
	if l.book == nil {
		return nil
	}
	return l.book.Acks()
}

// sender is what a worker drives: one connection that injects one transaction
// or request after the other.
type sender interface {
	// send injects the copies from number n on. An error means that it could not connect within GiveUp.
	send(ctx context.Context, n int64, copies int) error
	close()
}

// inject runs the workers and returns their tallies added up.
func (l *Load) inject(ctx context.Context) (*tally, error) {
	l.pace = newPace(l.opts, time.Now())
	var shared *httpShared
	if l.opts.Mode == ModeHTTP {
		var err error
		if shared, err = l.newHTTP(ctx); err != nil {
			return newTally(), err
		}
		defer shared.close()
	}
	tallies := make([]*tally, l.opts.Connections)
	errs := make([]error, l.opts.Connections)
	var wg sync.WaitGroup
	for i := range tallies {
		t := newTally()
		tallies[i] = t
		var s sender
		if shared != nil {
			s = &httpSender{load: l, shared: shared, tally: t, template: l.base.clone()}
		} else {
			s = &smtpSender{load: l, tally: t, template: l.base.clone()}
		}
		wg.Go(func() {
			defer s.close()
			errs[i] = l.work(ctx, s)
		})
	}
	wg.Wait()
	total := newTally()
	for _, t := range tallies {
		total.merge(t)
	}
	if total.acked == 0 {
		return total, errors.Join(errs...)
	}
	return total, nil
}

func (l *Load) work(ctx context.Context, s sender) error {
	for {
		n, copies := l.pace.next(ctx)
		if copies == 0 {
			return nil
		}
		if err := s.send(ctx, n, copies); err != nil {
			if l.pace.over(ctx) {
				return nil
			}
			l.log.Warn("worker ends", "error", err)
			return err
		}
	}
}

// pace hands out numbers of copies, in time.
type pace struct {
	step     int64 // copies per transaction
	count    int64
	rate     float64
	start    time.Time
	deadline time.Time // zero: none
	turn     atomic.Int64
}

func newPace(o Options, now time.Time) *pace {
	p := &pace{step: int64(o.Recipients), count: o.Count, rate: o.Rate, start: now}
	if o.Duration > 0 {
		p.deadline = now.Add(o.Duration.D())
	}
	return p
}

// next waits for its turn and returns the first number and how many; zero copies means that the run is over.
func (p *pace) next(ctx context.Context) (n int64, copies int) {
	n = p.turn.Add(p.step) - p.step
	left := p.step
	if p.count > 0 {
		left = min(left, p.count-n)
	}
	if left <= 0 {
		return 0, 0
	}
	if p.rate > 0 {
		due := p.start.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
		if !p.deadline.IsZero() && due.After(p.deadline) {
			return 0, 0
		}
		sleep(ctx, time.Until(due))
	}
	if p.over(ctx) {
		return 0, 0
	}
	return n, int(left)
}

// over tells whether time is up.
func (p *pace) over(ctx context.Context) bool {
	return ctx.Err() != nil || !p.deadline.IsZero() && !time.Now().Before(p.deadline)
}

// sleep waits, or less when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// tally is what one worker counts.
type tally struct {
	acked, refused, unknown   int64 // copies
	transactions, connections int64
	connectErrors             int64
	first, last               ledger.Nanos // first MAIL or request, last acknowledgement
	latency                   histogram
	errors                    map[string]int64
}

func newTally() *tally { return &tally{errors: map[string]int64{}} }

func (t *tally) merge(o *tally) {
	t.acked += o.acked
	t.refused += o.refused
	t.unknown += o.unknown
	t.transactions += o.transactions
	t.connections += o.connections
	t.connectErrors += o.connectErrors
	if o.first != 0 && (t.first == 0 || o.first < t.first) {
		t.first = o.first
	}
	t.last = max(t.last, o.last)
	t.latency.merge(&o.latency)
	for k, n := range o.errors {
		t.errors[k] += n
	}
}

// begin notes the time at which a transaction begins.
func (t *tally) begin() ledger.Nanos {
	now := ledger.Now()
	if t.first == 0 {
		t.first = now
	}
	return now
}

// done counts an acknowledged transaction and returns the time.
func (t *tally) done(began ledger.Nanos) ledger.Nanos {
	now := ledger.Now()
	t.transactions++
	t.last = now
	t.latency.add(now.Sub(began))
	return now
}

// acknowledge counts and records one copy.
func (l *Load) acknowledge(t *tally, a *ledger.Ack) {
	t.acked++
	l.live.acked.Add(1)
	if l.book != nil {
		l.book.AddAck(a)
	}
}

// fail counts copies that the target refused.
func (l *Load) fail(t *tally, code string, copies int) {
	t.refused += int64(copies)
	t.errors[code]++
	l.live.refused.Add(int64(copies))
}

// lose counts copies of which it is not known whether the target has them.
func (l *Load) lose(t *tally, err error, copies int) {
	t.unknown += int64(copies)
	t.errors[fmt.Sprintf("unknown: %s", brief(err))]++
	l.live.unknown.Add(int64(copies))
}
