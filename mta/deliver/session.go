package deliver

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// finalGrace is how long an interruption still waits for the reply to a
// message that is written whole: every reply not waited for is an ambiguous outcome.
const finalGrace = 5 * time.Second

// probeAfter is the idle time after which a session looks whether the peer
// has closed before it is used again.
const probeAfter = 20 * time.Millisecond

// Session is one SMTP session. It is used by one goroutine at a time.
type Session struct {
	d       *Deliverer
	o       *Options
	id      mail.ID
	ehlo    string // "": the engine's name
	most    int    // transactions by the route; 0: no limit of its own
	host    string
	address string
	tls     string
	caps    caps
	wire    *wire

	count     int       // transactions
	lastUse   time.Time // end of the last one
	needReset bool      // a transaction was left open
	broken    bool      // no more transactions: lost, 421, out of step
	stale     bool
	closed    bool
	tx        transaction // reused
}

// ID names the session in outcomes and events.
func (s *Session) ID() mail.ID { return s.id }

// Usable reports whether another transaction may follow: no error broke the
// session, the peer has not closed it while it was idle, and it has not
// carried its number of messages yet.
func (s *Session) Usable() bool {
	if s.broken || s.closed || s.count >= s.limit() {
		return false
	}
	if s.wire.buffered() > 0 || s.wire.interrupted() || s.count > 0 && time.Since(s.lastUse) > probeAfter && s.wire.lost() {
		s.broken = true // what came unasked is a 421
		return false
	}
	return true
}

// limit is the number of transactions this session may carry.
func (s *Session) limit() int {
	n := s.o.MessagesPerSession
	for _, other := range []int{s.caps.maxMail, s.most} {
		if other > 0 {
			n = min(n, other)
		}
	}
	return n
}

// Stale reports that the last Deliver failed before the peer took anything: it
// had closed the idle session (or said 421 to it), or no permit for a message
// was to be had. The same messages may go at once on a new session.
func (s *Session) Stale() bool { return s.stale }

// Deliver sends equal copies (mail.SameCopy) in one transaction, or in several
// when there are more of them than the peer takes at once. Outcome i is that of
// msgs[i]. It does not retry. When ctx ends, what is on its way is given up; a
// message already written whole still gets a few seconds for its reply. Pass,
// if it is not nil, is used right before each MAIL.
func (s *Session) Deliver(ctx context.Context, msgs []*mail.Message, pass mail.Pass) []mail.Outcome {
	started := time.Now()
	out := make([]mail.Outcome, len(msgs))
	if len(msgs) == 0 {
		return out
	}
	s.stale = false
	t := &s.tx
	t.begin(s, msgs, out, pass)
	s.run(ctx, t)
	t.end()

	now := time.Now()
	s.lastUse = now
	s.wire.rest()
	s.d.m.seconds.Observe(now.Sub(started).Seconds())
	for i := range out {
		o := &out[i]
		o.Host, o.Address, o.TLS, o.Session = s.host, s.address, s.tls, s.id
		o.Started, o.Took = started, now.Sub(started)
		s.d.m.outcomes[o.Kind].Inc()
	}
	return out
}

// run composes the message and carries it to all recipients.
func (s *Session) run(ctx context.Context, t *transaction) {
	if s.broken || s.closed || s.wire.lostSince(s.lastUse, s.count) {
		s.stale = s.count > 0 && !s.broken && !s.closed
		s.broken = true
		t.finish(s.lost("MAIL", io.ErrUnexpectedEOF))
		return
	}
	content, err := s.d.d.Composer.Compose(ctx, t.msgs[0])
	if err != nil {
		t.finish(notComposed(err))
		return
	}
	t.content = content
	if refused := t.check(); refused != nil {
		t.finish(*refused)
		return
	}
	s.wire.setGrace(0)
	done := s.wire.watch(ctx)
	defer done()
	for len(t.todo) > 0 && !s.broken {
		t.next()
		if err := t.permitted(ctx); err != nil {
			s.stale = len(t.batch) == len(t.out)
			s.broken = s.broken || !s.stale
			t.todo = append(t.todo, t.batch...)
			break
		}
		t.run()
	}
	if len(t.todo) > 0 {
		t.finish(local(mail.Deferred, mail.ClassConnect, 451, "4.4.2", "session ended before this recipient's turn", nil))
	}
}

func notComposed(err error) mail.Outcome {
	var decided *mail.OutcomeError
	if errors.As(err, &decided) {
		return decided.Outcome
	}
	return local(mail.Deferred, mail.ClassPolicy, 451, "4.3.0", "the message could not be composed", err)
}

// lost is the outcome when no reply to command could be had, and marks the session.
func (s *Session) lost(command string, err error) mail.Outcome {
	s.broken = true
	if errors.Is(err, errMalformed) {
		return mail.Outcome{Kind: mail.Deferred, Class: mail.ClassSMTP, Command: command, Reply: s.wire.parser.mailReply(), Error: err.Error()}
	}
	text := "connection lost"
	var timeout net.Error
	switch {
	case s.wire.interrupted() || errors.Is(err, errCancelled):
		text = "interrupted"
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout():
		text = "timed out"
	}
	o := local(mail.Deferred, mail.ClassConnect, 451, "4.4.2", text+" at "+command+" with "+s.host+"["+s.address+"]", err)
	o.Command = command
	return o
}

// Close ends the session: QUIT when the peer still listens, with a short wait
// for its reply and its own close, so that it neither sees a reset nor counts
// this connection beside the next. It reports whether the peer did both. A second call does nothing.
func (s *Session) Close() (clean bool) {
	if s.closed {
		return false
	}
	s.closed = true
	s.d.m.sessions.Dec()
	if !s.broken && !s.wire.interrupted() {
		timeout := s.o.QuitTimeout.D()
		if s.wire.write([]byte("QUIT\r\n"), timeout) == nil {
			clean = s.wire.readReply(timeout) == nil && s.wire.awaitClose(timeout)
		}
	}
	s.wire.close()
	s.d.d.Logger.Debug("session closed", slog.String("session", s.id.String()), slog.String("host", s.host), slog.Int("transactions", s.count))
	return clean
}
