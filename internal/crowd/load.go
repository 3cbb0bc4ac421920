package crowd

import (
	"cmp"
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
	Burst       Burst         // times in which the rate is higher
	Duration    time.Duration // 0: no limit
	Timeout     time.Duration // of a request
	Retry       bool          // a request without an answer, or with a 5xx, is sent again until it is taken, as a client would

	// Profiles sends no events but all profiles of the world, to each tenant, by bulk imports. First, Count and Rate are
	// about profiles then, and a Count of 0 is all.
	Profiles bool
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
	Burst     *Inside       `json:"burst,omitempty"` // what of it was in bursts; nil if there were to be none
	P50       time.Duration `json:"p50_ns"`
	P99       time.Duration `json:"p99_ns"`
	Acks      []Ack         `json:"-"`
	FirstFail string        `json:"first_failure,omitempty"`
}

// Inside is what was acknowledged during bursts, their onset and end included.
type Inside struct {
	Events uint64        `json:"events"`
	Took   time.Duration `json:"took_ns"`
}

// Rate is acknowledged events a second.
func (r *Report) Rate() float64 { return perSecond(r.Events, r.Took) }

// BurstRates are acknowledged events a second inside and outside of bursts.
func (r *Report) BurstRates() (inside, outside float64) {
	if r.Burst == nil {
		return 0, r.Rate()
	}
	return perSecond(r.Burst.Events, r.Burst.Took), perSecond(r.Events-r.Burst.Events, r.Took-r.Burst.Took)
}

func perSecond(n uint64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// Load sends a world.
type Load struct {
	w     *World
	o     LoadOptions
	pace  *schedule
	began time.Time
	next  atomic.Uint64
	sent  atomic.Uint64 // events acknowledged so far

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
	case o.Count == 0 && o.Duration == 0 && !o.Profiles:
		return nil, errors.New("crowd: neither a count nor a duration")
	}
	if err := o.Burst.validate(o.Rate); err != nil {
		return nil, err
	}
	o.Target = strings.TrimPrefix(o.Target, "http://")
	o.Connections, o.Batch = max(o.Connections, 1), max(o.Batch, 1)
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.Profiles {
		all := uint64(w.o.Profiles * len(o.Keys))
		if o.First >= all {
			return nil, fmt.Errorf("crowd: there are only %d profiles", all)
		}
		if o.Count == 0 || o.Count > all-o.First {
			o.Count = all - o.First
		}
	}
	l := &Load{w: w, o: o, pace: newSchedule(o.Rate, o.Burst)}
	l.next.Store(o.First)
	return l, nil
}

// Acked is how many events were acknowledged so far.
func (l *Load) Acked() uint64 { return l.sent.Load() }

// Run sends until the count, the duration or ctx is over, and reports.
func (l *Load) Run(ctx context.Context) Report {
	l.began = time.Now()
	if l.o.Burst.Factor > 0 {
		l.report.Burst = &Inside{}
	}
	if l.o.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.o.Duration)
		defer cancel()
	}
	var all sync.WaitGroup
	for range l.o.Connections {
		all.Go(func() { l.work(ctx) })
	}
	all.Wait()
	l.report.Took = time.Since(l.began)
	if l.report.Burst != nil {
		l.report.Burst.Took = l.pace.inBursts(l.report.Took)
	}
	slices.Sort(l.took)
	if n := len(l.took); n > 0 {
		l.report.P50, l.report.P99 = l.took[n/2], l.took[n*99/100]
	}
	slices.SortFunc(l.report.Acks, func(a, b Ack) int { return cmp.Compare(a.First, b.First) })
	return l.report
}

func (l *Load) work(ctx context.Context) {
	c := &conn{addr: l.o.Target}
	defer c.close()
	var r request
	for ctx.Err() == nil {
		first, n := l.claim()
		if n == 0 || l.o.Rate > 0 && !sleepUntil(ctx, l.began.Add(l.pace.due(first-l.o.First))) {
			return
		}
		if l.o.Profiles {
			l.profiles(&r, first, n)
		} else {
			l.events(&r, first, n)
		}
		l.send(ctx, c, &r)
	}
}

// claim takes the next numbers, none behind the last one. Those of profiles are all of one tenant.
func (l *Load) claim() (first, n uint64) {
	for {
		first = l.next.Load()
		n = uint64(l.o.Batch)
		if l.o.Count > 0 {
			n = min(n, l.o.First+l.o.Count-first)
		}
		if l.o.Profiles {
			n = min(n, uint64(l.w.o.Profiles)-first%uint64(l.w.o.Profiles))
		}
		if n == 0 || l.next.CompareAndSwap(first, first+n) {
			return first, n
		}
	}
}

// request is one to be sent. Its memory is used again.
type request struct {
	path  string
	body  []byte
	batch []Event
	ack   Ack
}

func (l *Load) events(r *request, first, n uint64) {
	r.batch = r.batch[:0]
	for i := range n {
		r.batch = append(r.batch, l.w.Event(first+i))
	}
	r.ack = Ack{First: first, N: n, Tenant: l.tenant(first)}
	if l.o.Batch == 1 {
		r.path, r.body = "/api/events", r.batch[0].AppendEvent(r.body[:0])
		return
	}
	r.path, r.body = "/api/event-bulk-create-jobs", AppendBulk(r.body[:0], r.batch)
}

func (l *Load) profiles(r *request, first, n uint64) {
	all := uint64(l.w.o.Profiles)
	r.ack = Ack{First: first, N: n, Tenant: int(first / all)}
	r.path, r.body = "/api/profile-bulk-import-jobs", l.w.AppendProfiles(r.body[:0], int(first%all), int(n))
}

func (l *Load) tenant(first uint64) int {
	d := dice(l.w.o.Seed ^ first*0xd6e8feb86659fd93)
	return d.pick(len(l.o.Keys), l.w.o.Skew)
}

// send sends one request, again if it may, and notes what came of it.
func (l *Load) send(ctx context.Context, c *conn, r *request) {
	for {
		at := time.Now()
		status, answer, err := c.post(ctx, r.path, l.o.Keys[r.ack.Tenant], r.body, l.o.Timeout)
		took := time.Since(at)
		if (err != nil || status >= 500) && l.o.Retry && ctx.Err() == nil {
			sleepUntil(ctx, time.Now().Add(20*time.Millisecond))
			continue
		}
		l.note(r.ack, status, answer, err, took)
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
		if r.Burst != nil && l.pace.bursting(a.At.Sub(l.began)) {
			r.Burst.Events += a.N
		}
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
