package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// provider is what one process delivers to: the same world, but nothing counts after its death.
type provider struct {
	h   *history
	gen int
}

func (p *provider) dead() bool { return p.gen != p.h.gen }

// Route implements Router.
func (p *provider) Route(_ context.Context, m *mail.Message) (mail.Route, error) {
	return mail.Route{Site: m.Domain(), Domain: m.Domain(), Hosts: []mail.Host{{Name: "mx." + m.Domain()}}, Expires: time.Now().Add(time.Minute)}, nil
}

// Open implements Deliverer.
func (p *provider) Open(_ context.Context, r mail.Route, _ Lease) (Session, error) {
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	if p.h.down[r.Domain] {
		return nil, &mail.OutcomeError{Outcome: mail.Outcome{Kind: mail.Deferred, Class: mail.ClassConnect, Started: time.Now(), Reply: mail.Reply{Code: 421}}}
	}
	p.h.gate.mu.Lock()
	notTried := p.h.gate.chance(10)
	p.h.gate.mu.Unlock()
	if notTried {
		return nil, fmt.Errorf("no permit: %w", mail.ErrNotTried)
	}
	return &visit{p: p}, nil
}

// visit is one session.
type visit struct {
	p     *provider
	n     int
	stale bool
}

// Stale is what the queue asks after Deliver.
func (v *visit) Stale() bool { return v.stale }

// Usable implements Session.
func (v *visit) Usable() bool { return v.n < 5 }

// Close implements Session.
func (v *visit) Close() bool { return true }

// Deliver implements Session: it checks that these messages may be attempted now, and answers by their script.
func (v *visit) Deliver(ctx context.Context, msgs []*mail.Message, pass mail.Pass) []mail.Outcome {
	h := v.p.h
	v.n++
	for _, m := range msgs {
		v.check(ctx, m)
	}
	h.gate.mu.Lock()
	broken := h.gate.chance(15)
	h.gate.mu.Unlock()
	// The peer has closed the idle session, or the permit is not to be had.
	if v.stale = v.n > 1 && broken || pass != nil && pass.Use(ctx) != nil; v.stale {
		v.n = 100
		return make([]mail.Outcome, len(msgs)) // nobody is to look at them
	}
	h.mu.Lock()
	took := h.took
	h.mu.Unlock()
	time.Sleep(took)
	h.mu.Lock()
	defer h.mu.Unlock()
	outcomes := make([]mail.Outcome, len(msgs))
	for i, m := range msgs {
		outcomes[i] = v.answer(h.byID[m.ID], m)
	}
	return outcomes
}

func (v *visit) check(ctx context.Context, m *mail.Message) {
	h, now := v.p.h, time.Now()
	data, release, err := h.q.Body(ctx, m)
	h.mu.Lock()
	defer h.mu.Unlock()
	if v.p.dead() {
		return
	}
	w := h.byID[m.ID]
	if err != nil {
		h.t.Errorf("%v: body: %v", m.ID, err)
		return
	}
	defer release()
	switch {
	case w.body != "" && string(data) != w.body:
		h.t.Errorf("%v: its body is %.60q, want %.60q", m.ID, data, w.body)
	case now.Before(w.notBefore.Truncate(time.Millisecond)): // the resolution of due times
		h.t.Errorf("%v: attempted %v early", m.ID, w.notBefore.Sub(now))
	case !w.deadline.IsZero() && now.After(w.deadline):
		h.t.Errorf("%v: attempted %v after its deadline", m.ID, now.Sub(w.deadline))
	case h.suspended[w.domain] != "":
		h.t.Errorf("%v: attempted while %s is suspended", m.ID, w.domain)
	}
}

// answer decides by the number of attempts answered before that the process
// has on record, so an attempt that a death repeats has the same outcome.
func (v *visit) answer(w *wanted, m *mail.Message) mail.Outcome {
	out := mail.Outcome{Kind: mail.Delivered, Class: mail.ClassSMTP, Started: time.Now(), Reply: mail.Reply{Code: 250}}
	if !v.p.dead() {
		w.answered++
	}
	switch {
	case w.answered <= w.deferrals:
		out.Kind, out.Reply.Code = mail.Deferred, 451
	case w.bounces:
		out.Kind, out.Reply.Code = mail.Bounced, 550
	case !v.p.dead():
		w.delivered++
	}
	return out
}
