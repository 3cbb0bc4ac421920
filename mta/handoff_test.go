package mta

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/cluster"
	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/queue"
)

// stock is a queue of n messages that are handed over ten at a time.
type stock struct {
	mu       sync.Mutex
	left     int
	flight   int
	draining bool
}

func (s *stock) Handoff(ctx context.Context, _ queue.Filter, take queue.Taker) (moved int, err error) {
	for {
		s.mu.Lock()
		n := min(10, s.left-s.flight)
		s.mu.Unlock()
		if n == 0 {
			return moved, nil
		}
		lines := []byte(fmt.Sprint("batch of ", n))
		for {
			if err = take(ctx, lines, n); err == nil {
				break
			}
			if errors.Is(err, queue.ErrNotTaken) || ctx.Err() != nil {
				return moved, err
			}
			time.Sleep(time.Second)
		}
		s.mu.Lock()
		s.left -= n
		s.mu.Unlock()
		moved += n
	}
}

func (s *stock) Queued() int64  { s.mu.Lock(); defer s.mu.Unlock(); return int64(s.left) }
func (s *stock) InFlight() int  { s.mu.Lock(); defer s.mu.Unlock(); return s.flight }
func (s *stock) Drain(on bool)  { s.draining = on }
func (s *stock) Draining() bool { return s.draining }

// land moves what is in flight: delivered, or back to what waits.
func (s *stock) land(delivered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if delivered {
		s.left -= s.flight
	}
	s.flight = 0
}

// peers are the other members and what they took.
type peers struct {
	mu      sync.Mutex
	members []cluster.Member
	took    map[string]int
	answer  func(address string, call int) error // after it took
	calls   []string
}

func node(name string) cluster.Member {
	return cluster.Member{Name: name, Role: "mta", Status: cluster.Alive, Admin: name + ":1"}
}

func newPeers(members ...cluster.Member) *peers {
	self := node("self")
	self.Self = true
	return &peers{members: append(members, self), took: map[string]int{}}
}

func (p *peers) list() []cluster.Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]cluster.Member(nil), p.members...)
}

func (p *peers) give(_ context.Context, address, token string, lines []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if token != "secret" {
		return queue.ErrNotTaken
	}
	p.calls = append(p.calls, strings.TrimSuffix(address, ":1"))
	if p.answer != nil {
		if err := p.answer(address, len(p.calls)); err != nil {
			return err
		}
	}
	var n int
	_, _ = fmt.Sscanf(string(lines), "batch of %d", &n)
	p.took[strings.TrimSuffix(address, ":1")] += n
	return nil
}

func handing(t *testing.T, dir string, s *stock, p *peers) *Handoff {
	t.Helper()
	return newHandoff(handoffDeps{fs: faultfs.OS{}, dir: dir, queue: s, members: p.list, token: "secret", give: p.give, log: slog.New(slog.DiscardHandler)})
}

func await(t *testing.T, h *Handoff, state string) HandoffStatus {
	t.Helper()
	for range 1000 {
		if s := h.Status(); s.State == state {
			return s
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("not %s: %+v", state, h.Status())
	return HandoffStatus{}
}

// TestHandoffSpreads: all goes to those that can take it, evenly; what is in flight is waited for.
func TestHandoffSpreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		draining, gone, proxy, silent := node("d"), node("e"), node("f"), node("g")
		draining.Draining, gone.Status, proxy.Role, silent.Admin = true, cluster.Dead, "proxy", ""
		s, p := &stock{left: 100, flight: 5}, newPeers(node("a"), node("b"), draining, gone, proxy, silent)
		h := handing(t, t.TempDir(), s, p)
		if got, err := h.Start(nil); err != nil || got.State != HandoffRunning || got.Total != 100 {
			t.Fatalf("%+v, %v", got, err)
		}
		time.Sleep(5 * time.Second)
		if got := h.Status(); got.State != HandoffRunning || got.Left != 5 || got.Delivering != 5 || got.Moved != 95 || got.Rate == 0 {
			t.Errorf("%+v", got)
		}
		s.land(false)
		got := await(t, h, HandoffDone)
		if got.Moved != 100 || got.Left != 0 || p.took["a"]+p.took["b"] != 100 || p.took["a"] < 45 || p.took["b"] < 45 {
			t.Errorf("%+v, %v", got, p.took)
		}
		if len(got.Targets) != 5 || got.Targets[0].Messages != int64(p.took["a"]) {
			t.Errorf("targets %+v", got.Targets)
		}
	})
}

// TestHandoffRefused: every reason is told before anything begins.
func TestHandoffRefused(t *testing.T) {
	draining, silent := node("d"), node("g")
	draining.Draining, silent.Admin = true, ""
	for _, c := range []struct {
		change func(*handoffDeps)
		peers  []cluster.Member
		to     []string
		want   string
	}{
		{change: func(d *handoffDeps) { d.alone = true }, want: "in no cluster"},
		{change: func(d *handoffDeps) { d.token = "" }, want: "has no key"},
		{want: "no other node"},
		{peers: []cluster.Member{draining, silent}, want: "d is draining itself; g tells no address of its admin API"},
		{peers: []cluster.Member{node("a")}, to: []string{"x"}, want: "no member x"},
		{peers: []cluster.Member{node("a")}, to: []string{"self"}, want: "self is this node"},
		{peers: []cluster.Member{node("a"), draining}, to: []string{"a", "d"}, want: "d is draining"},
	} {
		h := handing(t, t.TempDir(), &stock{left: 1}, newPeers(c.peers...))
		if c.change != nil {
			c.change(&h.d)
		}
		got, err := h.Start(c.to)
		var cannot *HandoffError
		if !errors.As(err, &cannot) || !strings.Contains(err.Error(), c.want) || got.State != HandoffNone {
			t.Errorf("%v: %+v, %v", c.want, got, err)
		}
	}
}

// TestHandoffInDoubt: a member that gave no answer is asked until it does, and nobody else meanwhile; one
// that refuses is passed over.
func TestHandoffInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := &stock{left: 30}, newPeers(node("a"), node("b"))
		var doubted string
		p.answer = func(address string, call int) error {
			switch {
			case call == 1:
				doubted = address
				return errors.New("connection reset")
			case call < 5 && address != doubted:
				t.Errorf("call %d went to %s, %s has not answered", call, address, doubted)
			case call < 4:
				return fmt.Errorf("%w: refused", queue.ErrNotTaken) // it may have taken them at call 1
			}
			return nil
		}
		h := handing(t, t.TempDir(), s, p)
		if _, err := h.Start(nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		if got := h.Status(); !strings.Contains(got.Error, "has not confirmed") {
			t.Errorf("%+v", got)
		}
		if got := await(t, h, HandoffDone); got.Moved != 30 || got.Error != "" {
			t.Errorf("%+v", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, p := &stock{left: 30}, newPeers(node("a"), node("b"))
		p.answer = func(address string, _ int) error {
			if address == "a:1" {
				return fmt.Errorf("%w: disk full", ErrNothingThere)
			}
			return nil
		}
		h := handing(t, t.TempDir(), s, p)
		if _, err := h.Start(nil); err != nil {
			t.Fatal(err)
		}
		if got := await(t, h, HandoffDone); p.took["b"] != 30 || got.Moved != 30 {
			t.Errorf("%+v %v", got, p.took)
		}
	})
}

// TestHandoffGoesOn: after a restart it drains again and begins with who may have the last messages; when
// stopped it stays so.
func TestHandoffGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s, p := &stock{left: 50, draining: true}, newPeers(node("a"), node("b"))
		p.answer = func(_ string, call int) error {
			if call >= 3 {
				return errors.New("no answer")
			}
			return nil
		}
		h := handing(t, dir, s, p)
		if _, err := h.Start(nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		h.close(t.Context()) // the process ends
		last := p.calls[len(p.calls)-1]
		if got := h.Status(); got.State != HandoffRunning || got.Moved != 20 {
			t.Fatalf("%+v", got)
		}

		s.draining = false
		p.answer, p.calls = nil, nil
		h = handing(t, dir, s, p)
		if got := h.Status(); got.Moved != 20 || got.Total != 50 {
			t.Errorf("before it goes on: %+v", got)
		}
		h.resume()
		got := await(t, h, HandoffDone)
		h.close(t.Context())
		if got.Moved != 50 || !s.draining {
			t.Errorf("%+v, draining %v", got, s.draining)
		}
		for _, name := range p.calls {
			if name != last {
				t.Errorf("calls %v, all should go to %s", p.calls, last)
			}
		}
		h = handing(t, dir, s, p)
		if h.resume(); h.Status().State != HandoffDone {
			t.Errorf("begun again: %+v", h.Status())
		}
	})
}

// TestHandoffStops: what was not moved stays, and a new one may begin.
func TestHandoffStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s, p := &stock{left: 50, flight: 50}, newPeers(node("a"))
		h := handing(t, dir, s, p)
		if _, err := h.Start([]string{"a"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if got, err := h.Start([]string{"a"}); err != nil || got.State != HandoffRunning {
			t.Errorf("widened: %+v, %v", got, err)
		}
		if got, err := h.Stop(t.Context()); err != nil || got.State != HandoffStopped || got.Left != 50 {
			t.Fatalf("%+v, %v", got, err)
		}
		if again := handing(t, dir, s, p); again.Status().State != HandoffStopped {
			t.Errorf("stored: %+v", again.Status())
		}
		s.land(false)
		if _, err := h.Start(nil); err != nil {
			t.Fatal(err)
		}
		if got := await(t, h, HandoffDone); got.Moved != 50 {
			t.Errorf("%+v", got)
		}
	})
}

// TestHandoffState: a file of another version, or damaged, is refused and does not stop the engine.
func TestHandoffState(t *testing.T) {
	for _, text := range []string{`{"version":2,"state":"running"}`, `{"version":`} {
		dir := t.TempDir()
		if err := faultfs.WriteFile(faultfs.OS{}, dir, handoffFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		h := handing(t, dir, &stock{}, newPeers())
		if err := h.load(); err == nil || h.Status().State != HandoffNone {
			t.Errorf("%s: %v, %+v", text, err, h.Status())
		}
	}
}
