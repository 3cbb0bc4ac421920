package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/queue"
)

// Route implements queue.Router: the domain is its mail exchanger.
func (h *history) Route(_ context.Context, m *mail.Message) (mail.Route, error) {
	r := mail.Route{Site: m.Domain() + ";tls=may", Domain: m.Domain(), Pool: m.Pool, Hosts: []mail.Host{{Name: m.Domain()}}, Expires: time.Now().Add(time.Minute)}
	if strings.HasSuffix(m.Domain(), ".big.test") {
		r.Provider = "big"
	}
	return r, nil
}

// dial is the network: sources connect, unless their proxy is down.
func (h *history) dial(_ context.Context, r proxy.Request) (net.Conn, error) {
	h.mu.Lock()
	wait := time.Duration(h.rnd.IntN(300)) * time.Millisecond
	h.mu.Unlock()
	time.Sleep(wait)
	s, ok := h.w.g.pools.Source(r.Source)
	if !ok {
		return nil, errors.New("no such source")
	}
	if s.Proxy == "" {
		return nil, nil
	}
	p := h.w.proxies[s.Proxy]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return nil, proxy.ErrProxyDown
	}
	return nil, nil
}

func deferred(class, text string) mail.Outcome {
	return mail.Outcome{Kind: mail.Deferred, Class: class, Started: time.Now(), Reply: mail.Reply{Code: 421, Enhanced: "4.7.0", Text: text}}
}

// Open implements queue.Deliverer.
func (h *history) Open(ctx context.Context, r mail.Route, l queue.Lease) (queue.Session, error) {
	at := spot{r.Source, accountOf(r.Provider, r.Domain)}
	tries := 1
	if h.chance(10) {
		tries = 2 // the first connection comes to nothing
	}
	for ; ; tries-- {
		if _, err := l.(*lease).Dial(ctx, r, netip.AddrPort{}); err != nil {
			if errors.Is(err, mail.ErrNotTried) {
				return nil, err
			}
			return nil, &mail.OutcomeError{Outcome: deferred(mail.ClassConnect, err.Error())}
		}
		h.w.connect(at)
		h.mu.Lock()
		down := h.down[r.Domain]
		h.mu.Unlock()
		if !down && tries == 1 {
			break
		}
		time.Sleep(50 * time.Millisecond)
		h.w.disconnect(at)
		if down {
			return nil, &mail.OutcomeError{Outcome: deferred(mail.ClassConnect, "refused")}
		}
	}
	v := &visit{h: h, at: at, source: r.Source, site: r.Domain, most: r.Messages}
	h.mu.Lock()
	h.visits[v] = struct{}{}
	h.mu.Unlock()
	return v, nil
}

func (h *history) chance(n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.calm && h.rnd.IntN(n) == 0
}

// visit is one session.
type visit struct {
	h      *history
	at     spot
	source string
	site   string
	n      int
	most   int
	stale  bool
	lost   bool // guarded by history.mu
}

// cut ends the connection as the provider sees it.
func (v *visit) cut() {
	if !v.lost {
		v.lost = true
		v.h.w.disconnect(v.at)
	}
}

func (v *visit) isLost() bool {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	return v.lost
}

// Stale is what the queue asks after Deliver.
func (v *visit) Stale() bool { return v.stale }

// Usable implements queue.Session.
func (v *visit) Usable() bool { return !v.isLost() && (v.most == 0 || v.n < v.most) && v.n < 100 }

// Close implements queue.Session.
func (v *visit) Close() bool {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	delete(v.h.visits, v)
	clean := !v.lost
	v.cut()
	return clean
}

// Deliver implements queue.Session.
func (v *visit) Deliver(ctx context.Context, msgs []*mail.Message, pass mail.Pass) []mail.Outcome {
	h := v.h
	outcomes := make([]mail.Outcome, len(msgs))
	all := func(o mail.Outcome) []mail.Outcome {
		for i := range outcomes {
			outcomes[i] = o
		}
		return outcomes
	}
	v.n++
	h.mu.Lock()
	took := time.Duration(h.rnd.IntN(30)) * time.Millisecond
	h.mu.Unlock()
	time.Sleep(took) // it is composed
	if h.chance(30) {
		return all(deferred(mail.ClassPolicy, "not composed"))
	}
	if v.stale = v.isLost() || pass != nil && pass.Use(ctx) != nil; v.stale {
		v.n = 1000
		return all(deferred(mail.ClassConnect, "lost"))
	}
	if v.stale = v.isLost(); v.stale {
		v.n = 1000
		return all(deferred(mail.ClassConnect, "lost"))
	}
	h.mu.Lock()
	took = h.took
	h.mu.Unlock()
	for range msgs {
		h.w.mail(v.at, v.site, msgs[0].Tenant)
	}
	time.Sleep(took)
	switch {
	case v.isLost():
		return all(deferred(mail.ClassConnect, "lost"))
	case h.chance(20):
		return all(deferred(mail.ClassSMTP, []string{"blocked by list", "too fast", "try later"}[len(msgs[0].Recipient)%3]))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range msgs {
		h.delivered[m.ID]++
	}
	return all(mail.Outcome{Kind: mail.Delivered, Class: mail.ClassSMTP, Started: time.Now(), Reply: mail.Reply{Code: 250}})
}
