package crowd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// LoadOptions say how a world is sent.
type LoadOptions struct {
	Target      string   // host:port
	Keys        []string // API keys, one a tenant; the first have the most requests
	Connections int
	Batch       int           // events of a request; 1 uses the call for single events
	Count       uint64        // events; 0: no limit
	First       uint64        // number of the first event
	Rate        float64       // events a second; 0: as fast as they go
	Duration    time.Duration // 0: no limit
	Timeout     time.Duration // of a request
	Retry       bool          // a request without an answer, or with a 5xx, is sent again until it is taken, as a client would
}

// Ack is what became of a run of events that went in one request.
type Ack struct {
	First, N uint64
	Tenant   int
	Known    bool      // acknowledged; else its fate is not known
	At       time.Time // of the answer
}

// Report tells what came of a load.
type Report struct {
	Events    uint64        `json:"events"` // acknowledged
	Requests  uint64        `json:"requests"`
	Unknown   uint64        `json:"unknown"` // events without an answer
	Refused   uint64        `json:"refused"`
	Took      time.Duration `json:"took_ns"`
	P50       time.Duration `json:"p50_ns"`
	P99       time.Duration `json:"p99_ns"`
	Acks      []Ack         `json:"-"`
	FirstFail string        `json:"first_failure,omitempty"`
}

// Rate is acknowledged events a second.
func (r *Report) Rate() float64 { return float64(r.Events) / r.Took.Seconds() }

// Load sends a world.
type Load struct {
	w    *World
	o    LoadOptions
	next atomic.Uint64
	sent atomic.Uint64 // events acknowledged so far

	mu     sync.Mutex
	report Report
	took   []time.Duration
}

// NewLoad checks the options.
func NewLoad(w *World, o LoadOptions) (*Load, error) {
	switch {
	case o.Target == "":
		return nil, errors.New("crowd: no target")
	case len(o.Keys) == 0:
		return nil, errors.New("crowd: no API key")
	case o.Count == 0 && o.Duration == 0:
		return nil, errors.New("crowd: neither a count nor a duration")
	}
	o.Target = strings.TrimPrefix(o.Target, "http://")
	o.Connections, o.Batch = max(o.Connections, 1), max(o.Batch, 1)
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	l := &Load{w: w, o: o}
	l.next.Store(o.First)
	return l, nil
}

// Acked is how many events were acknowledged so far.
func (l *Load) Acked() uint64 { return l.sent.Load() }

// Run sends until the count, the duration or ctx is over, and reports.
func (l *Load) Run(ctx context.Context) Report {
	began := time.Now()
	if l.o.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.o.Duration)
		defer cancel()
	}
	var all sync.WaitGroup
	for range l.o.Connections {
		all.Go(func() { l.work(ctx, began) })
	}
	all.Wait()
	l.report.Took = time.Since(began)
	slices.Sort(l.took)
	if n := len(l.took); n > 0 {
		l.report.P50, l.report.P99 = l.took[n/2], l.took[n*99/100]
	}
	slices.SortFunc(l.report.Acks, func(a, b Ack) int { return int(int64(a.First) - int64(b.First)) })
	return l.report
}

func (l *Load) work(ctx context.Context, began time.Time) {
	c := &conn{addr: l.o.Target}
	defer c.close()
	var body []byte
	var events []Event
	for ctx.Err() == nil {
		first := l.next.Add(uint64(l.o.Batch)) - uint64(l.o.Batch)
		n := uint64(l.o.Batch)
		if l.o.Count > 0 {
			if first-l.o.First >= l.o.Count {
				return
			}
			n = min(n, l.o.Count-(first-l.o.First))
		}
		if l.o.Rate > 0 && !sleepUntil(ctx, began.Add(time.Duration(float64(first-l.o.First)/l.o.Rate*float64(time.Second)))) {
			return
		}
		events = events[:0]
		for i := range n {
			events = append(events, l.w.Event(first+i))
		}
		var path string
		if l.o.Batch == 1 {
			path, body = "/api/events", events[0].AppendEvent(body[:0])
		} else {
			path, body = "/api/event-bulk-create-jobs", AppendBulk(body[:0], events)
		}
		l.send(ctx, c, path, body, Ack{First: first, N: n, Tenant: l.tenant(first)})
	}
}

func (l *Load) tenant(first uint64) int {
	d := dice(l.w.o.Seed ^ first*0xd6e8feb86659fd93)
	return d.pick(len(l.o.Keys), l.w.o.Skew)
}

// send sends one request, again if it may, and notes what came of it.
func (l *Load) send(ctx context.Context, c *conn, path string, body []byte, a Ack) {
	for {
		at := time.Now()
		status, answer, err := c.post(ctx, path, l.o.Keys[a.Tenant], body, l.o.Timeout)
		took := time.Since(at)
		if (err != nil || status >= 500) && l.o.Retry && ctx.Err() == nil {
			sleepUntil(ctx, time.Now().Add(20*time.Millisecond))
			continue
		}
		l.note(a, status, answer, err, took)
		return
	}
}

func (l *Load) note(a Ack, status int, answer []byte, err error, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.report
	r.Requests++
	switch {
	case err != nil:
		r.Unknown += a.N
		l.failed(err.Error())
		r.Acks = append(r.Acks, a)
	case status/100 == 2:
		a.Known, a.At = true, time.Now()
		r.Events += a.N
		l.sent.Add(a.N)
		l.took = append(l.took, took)
		r.Acks = append(r.Acks, a)
	default:
		r.Refused += a.N
		l.failed(fmt.Sprintf("status %d: %.500s", status, answer))
	}
}

func (l *Load) failed(why string) {
	if l.report.FirstFail == "" {
		l.report.FirstFail = why
	}
}

func sleepUntil(ctx context.Context, at time.Time) bool {
	d := time.Until(at)
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
