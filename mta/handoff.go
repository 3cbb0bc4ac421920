package mta

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/cluster"
	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/queue"
)

// Giver sends messages, in the form of exports, to the admin API at an address and returns when
// they are durable there. The error wraps queue.ErrNotTaken when this call certainly stored nothing,
// and ErrNothingThere when no earlier one did either.
type Giver func(ctx context.Context, address, token string, lines []byte) error

// ErrNothingThere is wrapped by a Giver's error when the member has none of the messages.
var ErrNothingThere = fmt.Errorf("%w: the member has none of them", queue.ErrNotTaken)

// HandoffError tells why a handoff cannot begin.
type HandoffError struct{ Why string }

// Error implements error.
func (e *HandoffError) Error() string { return e.Why }

// Timing of a handoff.
const (
	handoffPause  = 500 * time.Millisecond // before what is in flight is looked at again
	handoffShun   = 5 * time.Second        // a member that refused is left alone for so long
	handoffWithin = 2 * time.Minute        // for one call
	handoffRecent = 10 * time.Second       // what Rate is an average of
)

// handoffQueue is what a Handoff needs of the queue.
type handoffQueue interface {
	Handoff(ctx context.Context, f queue.Filter, take queue.Taker) (int, error)
	Queued() int64
	InFlight() int
	Drain(on bool)
	Draining() bool
}

// handoffDeps are what a Handoff works with.
type handoffDeps struct {
	fs      faultfs.FS
	dir     string // for its state
	queue   handoffQueue
	members func() []cluster.Member // this node included
	alone   bool                    // there is no cluster
	token   string                  // by which members know each other
	give    Giver
	log     *slog.Logger
}

// Handoff gives the messages of this node's queue to other members, until
// nothing is left. It runs in the background, and goes on after a restart.
//
// A member that was sent messages and gave no answer may have them: until it
// answers, those go to nobody else.
type Handoff struct {
	d handoffDeps

	mu       sync.Mutex
	state    handoffState
	problem  string // what keeps it from going on
	shunned  map[string]shun
	doubt    cluster.Member // was sent what it did not answer; no name: none
	loyal    string         // after a restart: who may have messages that are still here
	progress []progress
	stop     context.CancelFunc // nil: not running
	done     chan struct{}
}

type shun struct {
	until time.Time
	why   string
}

type progress struct {
	at time.Time
	n  int
}

func newHandoff(d handoffDeps) *Handoff {
	h := &Handoff{d: d, shunned: map[string]shun{}, state: handoffState{State: HandoffNone}}
	if err := h.load(); err != nil {
		d.log.Error("state of the handoff cannot be read; it does not go on", "error", err)
	}
	return h
}

// resume goes on with what a restart interrupted.
func (h *Handoff) resume() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state.State != HandoffRunning {
		return
	}
	if h.state.Drain {
		h.d.queue.Drain(true)
	}
	h.loyal = h.state.Last
	h.d.log.Info("handoff of the queue goes on", "left", h.d.queue.Queued())
	h.begin()
}

// Start begins a handoff to the members named, none for all, or widens one that runs. A
// *HandoffError tells why there is none.
func (h *Handoff) Start(to []string) (HandoffStatus, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.check(to); err != nil {
		return h.status(), err
	}
	if h.state.State == HandoffRunning {
		if len(to) == 0 {
			h.state.To = nil
		} else if len(h.state.To) > 0 {
			h.state.To = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(h.state.To), to...))))
		}
		return h.status(), h.save()
	}
	if h.stop != nil {
		return h.status(), &HandoffError{"the last call of the handoff that was stopped is still under way; try again"}
	}
	h.state = handoffState{State: HandoffRunning, To: to, Drain: h.d.queue.Draining(), Started: time.Now().UTC(),
		Total: h.d.queue.Queued(), Moved: map[string]int64{}, Last: h.state.Last}
	if err := h.save(); err != nil {
		h.state.State = HandoffNone
		return h.status(), err
	}
	h.problem, h.progress = "", nil
	h.d.log.Info("handoff of the queue begins", "messages", h.state.Total, "to", strings.Join(to, ", "))
	h.begin()
	return h.status(), nil
}

// check finds what makes a handoff pointless. h.mu is held.
func (h *Handoff) check(to []string) error {
	members := h.d.members()
	switch {
	case h.d.alone:
		return &HandoffError{"this node is in no cluster, so there is nobody to take messages: see the section [cluster]"}
	case h.d.token == "":
		return &HandoffError{"the cluster has no key, so no member would take messages from this node: set cluster.key_file (godwit cluster new-key makes a key)"}
	}
	for _, name := range to {
		i := slices.IndexFunc(members, func(m cluster.Member) bool { return m.Name == name })
		if i < 0 {
			return &HandoffError{fmt.Sprintf("there is no member %s", name)}
		}
		if why := refusal(&members[i]); why != "" {
			return &HandoffError{name + " " + why}
		}
	}
	if len(to) > 0 {
		return nil
	}
	var whys []string
	for i := range members {
		m := &members[i]
		if why := refusal(m); why == "" {
			return nil
		} else if m.Role == roleMTA && !m.Self {
			whys = append(whys, m.Name+" "+why)
		}
	}
	if len(whys) == 0 {
		return &HandoffError{"no other node of the cluster is there to take messages"}
	}
	return &HandoffError{"no other node of the cluster can take messages: " + strings.Join(whys, "; ")}
}

// roleMTA is the role of nodes with a queue.
const roleMTA = "mta"

// refusal is why a member is not given messages; "" if it is.
func refusal(m *cluster.Member) string {
	switch {
	case m.Self:
		return "is this node itself"
	case m.Role != roleMTA && m.Role != "":
		return "has no queue: its role is " + m.Role
	case !m.Present():
		return "does not answer (" + string(m.Status) + ")"
	case m.Draining:
		return "is draining itself"
	case m.Admin == "":
		return "tells no address of its admin API: set admin.advertise there"
	}
	return ""
}

// begin runs it. h.mu is held.
func (h *Handoff) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	h.stop, h.done = cancel, done
	if h.doubt.Name != "" { // of one that was stopped: what it was sent is among the others again
		h.loyal, h.doubt = h.doubt.Name, cluster.Member{}
	}
	go func() {
		defer close(done)
		h.run(ctx)
	}()
}

// run moves messages until none is left.
func (h *Handoff) run(ctx context.Context) {
	for !h.over(ctx) {
		n, err := h.d.queue.Handoff(ctx, queue.Filter{All: true}, h.take)
		h.pass(err)
		if err == nil && n > 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(handoffPause):
		}
	}
}

// over reports whether there is nothing to do any more, and notes it.
func (h *Handoff) over(ctx context.Context) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := h.d.queue.Queued()
	if ctx.Err() == nil && h.state.State == HandoffRunning && left > 0 {
		return false
	}
	if ctx.Err() == nil && h.state.State == HandoffRunning {
		h.state.State, h.state.Ended, h.state.Last = HandoffDone, time.Now().UTC(), ""
		h.problem = ""
		h.d.log.Info("handoff of the queue is done", "moved", h.state.moved())
	}
	if err := h.save(); err != nil {
		h.d.log.Error("state of the handoff is not stored", "error", err)
	}
	h.stop = nil
	return true
}

// pass notes how a walk through the whole queue went.
func (h *Handoff) pass(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.problem = ""
	if err == nil {
		h.loyal = "" // what it may have had was asked for
		return
	}
	if !errors.Is(err, context.Canceled) {
		h.problem = err.Error()
	}
}

// take is the queue's Taker.
func (h *Handoff) take(ctx context.Context, lines []byte, n int) error {
	for ctx.Err() == nil {
		to, again, err := h.choose(time.Now())
		if err != nil {
			return fmt.Errorf("%w: %w", queue.ErrNotTaken, err)
		}
		// A call under way is not broken off: nobody would know what became of it.
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), handoffWithin)
		err = h.d.give(call, to.Admin, h.d.token, lines)
		cancel()
		if err = h.answered(&to, n, again, err); err == nil || !errors.Is(err, queue.ErrNotTaken) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", queue.ErrNotTaken, ctx.Err())
}

// choose finds the member for the next call: the one that may have the messages, or else of
// those that can, the one that got least. again: it was sent them before.
func (h *Handoff) choose(now time.Time) (to cluster.Member, again bool, err error) {
	members := h.d.members()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.doubt.Name != "" {
		for _, m := range members {
			if m.Name == h.doubt.Name && m.Admin != "" {
				h.doubt.Admin = m.Admin // it may be back elsewhere
			}
		}
		return h.doubt, true, nil
	}
	var can, shunned []cluster.Member
	for _, m := range members {
		switch {
		case refusal(&m) != "" || len(h.state.To) > 0 && !slices.Contains(h.state.To, m.Name):
		case now.Before(h.shunned[m.Name].until):
			shunned = append(shunned, m)
		default:
			can = append(can, m)
		}
	}
	if i := slices.IndexFunc(can, func(m cluster.Member) bool { return m.Name == h.loyal }); i >= 0 {
		can = can[i : i+1]
	}
	switch {
	case len(can) == 0 && len(shunned) > 0:
		return to, false, fmt.Errorf("%s refuses: %s", shunned[0].Name, h.shunned[shunned[0].Name].why)
	case len(can) == 0:
		return to, false, errors.New("no member is there that takes messages")
	}
	to = slices.MinFunc(can, func(a, b cluster.Member) int { return cmp.Compare(h.state.Moved[a.Name], h.state.Moved[b.Name]) })
	h.state.Last = to.Name
	return to, false, h.save() // before anything is sent: after a crash it is known who may have what is still here
}

// answered takes a member's answer and returns what the queue is to hear.
func (h *Handoff) answered(to *cluster.Member, n int, again bool, err error) error {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.doubt, h.problem = cluster.Member{}, ""
		h.state.Moved[to.Name] += int64(n)
		h.progress = append(h.recent(now), progress{now, n})
		return nil
	}
	if errors.Is(err, ErrNothingThere) || errors.Is(err, queue.ErrNotTaken) && !again {
		h.doubt = cluster.Member{}
		h.shunned[to.Name] = shun{now.Add(handoffShun), err.Error()}
		return err
	}
	h.doubt = *to
	h.problem = fmt.Sprintf("%s was sent %d messages and has not confirmed them: %v", to.Name, n, err)
	return errors.New(h.problem) // not ErrNotTaken, even where this call stored nothing: an earlier one may have
}

// recent are the calls that count for the rate. h.mu is held.
func (h *Handoff) recent(now time.Time) []progress {
	return slices.DeleteFunc(h.progress, func(p progress) bool { return now.Sub(p.at) > handoffRecent })
}

// Stop ends a handoff; what was not moved stays. It waits for a call that is under way, but not beyond ctx.
func (h *Handoff) Stop(ctx context.Context) (HandoffStatus, error) {
	h.mu.Lock()
	if h.state.State == HandoffRunning {
		h.state.State, h.state.Ended = HandoffStopped, time.Now().UTC()
		h.problem = ""
	}
	err := h.save()
	h.mu.Unlock()
	h.close(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status(), err
}

// close ends the runner, to go on after the next start.
func (h *Handoff) close(ctx context.Context) {
	h.mu.Lock()
	stop, done := h.stop, h.done
	h.mu.Unlock()
	if stop == nil {
		return
	}
	stop()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
