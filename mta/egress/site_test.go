package egress

import (
	"context"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/queue"
)

// site is the queue's side of one ready queue.
type site struct {
	w     *world
	d     queue.Demand
	took  time.Duration // a message
	idle  time.Duration
	first time.Time // message sent

	mu       sync.Mutex
	left     int
	sessions int
	asked    int
	done     int
}

func (w *world) site(pool, provider, name string, n int) *site {
	s := &site{w: w, left: n, took: 20 * time.Millisecond, idle: 5 * time.Second}
	s.d = queue.Demand{Key: pool + " " + name, Pool: pool, Site: name, Provider: provider, Priority: mail.Normal, Flow: "t", Flows: 1, Take: s.take}
	return s
}

// start makes messages ready and begins.
func (s *site) start() *site {
	s.seek()
	return s
}

func (s *site) add(n int) {
	s.mu.Lock()
	s.left += n
	s.mu.Unlock()
	s.seek()
}

func (s *site) seek() {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := min(max(s.left-s.sessions, 0), 64)
	if want == s.asked {
		return
	}
	s.asked, s.d.N = want, want
	for _, l := range s.w.g.Seek(s.d) {
		s.begin(l)
	}
}

func (s *site) take(l queue.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left <= s.sessions {
		s.asked = max(0, s.asked-1)
		go l.Close(true)
		return
	}
	s.begin(l)
}

func (s *site) begin(l queue.Lease) {
	s.asked = max(0, s.asked-1)
	s.sessions++
	go s.session(l.(*lease))
}

func (s *site) next() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		return false
	}
	s.left--
	return true
}

func (s *site) session(l *lease) {
	defer func() {
		l.Close(true)
		s.mu.Lock()
		s.sessions--
		s.mu.Unlock()
		s.seek()
	}()
	time.Sleep(10 * time.Millisecond)
	if !l.current().Opened() {
		return
	}
	at := spot{l.source, accountOf(s.d.Provider, s.d.Site)}
	s.w.connect(at)
	defer s.w.disconnect(at)
	for !revoked(l) {
		if !s.next() {
			if !s.await(l) {
				return
			}
			continue
		}
		if !s.send(l, at) {
			s.mu.Lock()
			s.left++
			s.mu.Unlock()
			return
		}
	}
}

func revoked(l *lease) bool {
	select {
	case <-l.Revoked():
		return true
	default:
		return false
	}
}

func (s *site) await(l *lease) bool {
	for until := time.Now().Add(s.idle); time.Now().Before(until) && !l.Contended() && !revoked(l); {
		time.Sleep(50 * time.Millisecond)
		s.mu.Lock()
		more := s.left > 0
		s.mu.Unlock()
		if more {
			return true
		}
	}
	return false
}

func (s *site) send(l *lease, at spot) bool {
	if l.Paced() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		pass, err := l.Slot(ctx, queue.Asker{Flow: "t", Flows: 1})
		if err != nil {
			return false
		}
		if err := pass.Use(ctx); err != nil {
			return false
		}
	}
	out := []mail.Outcome{s.w.mail(at, s.d.Site, "t")}
	s.mu.Lock()
	if s.first.IsZero() {
		s.first = time.Now()
	}
	s.done++
	s.mu.Unlock()
	time.Sleep(s.took)
	l.Judge([]*mail.Message{{Tenant: "t", Stream: "s"}}, out)
	return true
}

func (s *site) sentAll(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done >= n
}
