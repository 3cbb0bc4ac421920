package deliver

import (
	"context"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// inlineSize is the largest message that follows its envelope without waiting
// (BDAT): more would often be sent in vain, to recipients that are all refused.
const inlineSize = 64 << 10

// transaction is the work of one Deliver: rounds of MAIL, RCPT…, message.
type transaction struct {
	s       *Session
	msgs    []*mail.Message
	out     []mail.Outcome // Kind 0: not decided yet
	content *mail.Composed
	pass    mail.Pass // nil: nothing limits messages

	reversePath string
	utf8        bool

	todo     []int // messages no round has taken yet
	batch    []int // messages of this round
	accepted []int // those of batch whose RCPT was accepted
	surplus  []int // those of batch the peer wants in another round
	cmd      []byte
}

// begin takes up the work; slices of the last one are used again.
func (t *transaction) begin(s *Session, msgs []*mail.Message, out []mail.Outcome, pass mail.Pass) {
	t.s, t.msgs, t.out, t.content, t.pass = s, msgs, out, nil, pass
	t.todo = t.todo[:0]
	for i := range msgs {
		t.todo = append(t.todo, i)
	}
}

// end lets go of everything large.
func (t *transaction) end() {
	if t.content != nil {
		t.content.Release()
	}
	t.msgs, t.out, t.content, t.pass = nil, nil, nil, nil
	if cap(t.cmd) > 4<<10 {
		t.cmd = nil
	}
}

// next moves the recipients of the next round from todo to batch.
func (t *transaction) next() {
	n := min(len(t.todo), t.s.o.RecipientsPerTransaction)
	if t.s.caps.maxRcpt > 0 {
		n = min(n, t.s.caps.maxRcpt)
	}
	t.batch = append(t.batch[:0], t.todo[:n]...)
	t.todo = append(t.todo[:0], t.todo[n:]...)
	t.accepted, t.surplus = t.accepted[:0], t.surplus[:0]
}

// passPatience is how long a composed message waits for a permit at an open connection.
const passPatience = 10 * time.Second

// permitted takes the permit for a MAIL that goes out now.
func (t *transaction) permitted(ctx context.Context) error {
	if t.pass == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, passPatience)
	defer cancel()
	return t.pass.Use(ctx)
}

// finish gives o to every message that has no outcome yet and ends the work.
func (t *transaction) finish(o mail.Outcome) {
	for i := range t.out {
		if t.out[i].Kind == 0 {
			t.out[i] = o
		}
	}
	t.todo = t.todo[:0]
}

// decide gives o to those messages of this round in which that have no outcome yet.
func (t *transaction) decide(which []int, o mail.Outcome) {
	for _, i := range which {
		if t.out[i].Kind == 0 {
			t.out[i] = o
		}
	}
}

// run is one round. Every message of the batch has an outcome after it, or is back in todo.
func (t *transaction) run() {
	s := t.s
	s.count++
	if s.caps.pipelining {
		t.pipelined()
	} else {
		t.lockStep()
	}
	if len(t.accepted) > 0 && !s.broken {
		t.todo = append(t.todo, t.surplus...)
	} else {
		t.decide(t.surplus, tooMany())
	}
	// Nothing may stay undecided, whatever the peer did.
	if s.broken {
		t.decide(t.batch, s.lost("MAIL", errMalformed))
	}
}

func (t *transaction) chunking() bool { return t.s.caps.chunking && t.s.o.Chunking == Auto }

// pipelined sends the envelope in one write (RFC 2920), and with it DATA, or the message itself.
func (t *transaction) pipelined() {
	s := t.s
	// After a pause the peer may be gone, and what is written whole is ambiguous: then better wait.
	inline := t.chunking() && t.content.Size <= inlineSize && (s.count == 1 || time.Since(s.lastUse) < time.Second)
	b := t.cmd[:0]
	reset := s.needReset
	if reset {
		b = append(b, "RSET\r\n"...)
	}
	b = t.appendMail(b)
	for _, i := range t.batch {
		b = t.appendRcpt(b, t.msgs[i])
	}
	var err error
	switch {
	case inline:
		b, err = t.writeChunk(b)
	case t.chunking():
		err = s.wire.write(b, s.o.BlockTimeout.D())
	default:
		b = append(b, "DATA\r\n"...)
		err = s.wire.write(b, s.o.BlockTimeout.D())
	}
	t.cmd = b
	if err != nil {
		t.writeFailed("MAIL", err)
		return
	}
	if inline {
		s.wire.setGrace(finalGrace)
	}
	if !t.replies(reset, inline) {
		return
	}
	switch {
	case inline:
		t.finalReply("BDAT")
	case t.chunking():
		t.chunk()
	default:
		t.data()
	}
}

// lockStep waits for each reply before the next command.
func (t *transaction) lockStep() {
	s := t.s
	if s.needReset && !t.send("RSET", []byte("RSET\r\n"), s.o.EHLOTimeout.D()) {
		return
	}
	t.cmd = t.appendMail(t.cmd[:0])
	if !t.send("MAIL", t.cmd, s.o.MailTimeout.D()) || !t.mailReply() {
		return
	}
	for _, i := range t.batch {
		t.cmd = t.appendRcpt(t.cmd[:0], t.msgs[i])
		if !t.send("RCPT", t.cmd, s.o.RcptTimeout.D()) {
			return
		}
		if t.rcptReply(i); s.broken {
			return
		}
	}
	switch {
	case len(t.accepted) == 0:
	case t.chunking():
		t.chunk()
	default:
		if err := s.wire.write([]byte("DATA\r\n"), s.o.DataTimeout.D()); err != nil {
			t.writeFailed("DATA", err)
			return
		}
		t.data()
	}
}

// send writes a command and reads its reply; false when the session is over.
func (t *transaction) send(command string, line []byte, timeout time.Duration) bool {
	if err := t.s.wire.write(line, timeout); err != nil {
		t.writeFailed(command, err)
		return false
	}
	return t.read(command, timeout)
}

// read reads the reply to command. A lost connection or a 421 (RFC 5321
// §3.8) decides all who have no outcome yet, and read returns false.
func (t *transaction) read(command string, timeout time.Duration) bool {
	s := t.s
	if err := s.wire.readReply(timeout); err != nil {
		t.over(s.lost(command, err))
		return false
	}
	if s.wire.parser.code == 421 {
		s.broken = true
		t.over(t.replied(mail.Deferred, command))
		return false
	}
	return true
}

// over ends the whole work because the session is no more: with o for those of
// this round, deferred for those whose turn had not come or was put off.
func (t *transaction) over(o mail.Outcome) {
	t.s.stale = t.s.count > 1 && o.Kind == mail.Deferred && (o.Command == "RSET" || o.Command == "MAIL") &&
		(o.Reply.Code == 421 || o.Class == mail.ClassConnect) && len(t.out) == len(t.batch)
	t.decide(t.surplus, tooMany())
	t.decide(t.batch, o)
	o.Kind = mail.Deferred
	t.finish(o)
}

func tooMany() mail.Outcome {
	o := local(mail.Deferred, mail.ClassSMTP, 452, "4.5.3", "too many recipients", nil)
	o.Command = "RCPT"
	return o
}

// replied is an outcome with the reply just read.
func (t *transaction) replied(kind mail.OutcomeKind, command string) mail.Outcome {
	return mail.Outcome{Kind: kind, Class: mail.ClassSMTP, Command: command, Reply: t.s.wire.parser.mailReply()}
}

// refused is the outcome of a reply that should have been a 2xx or 354 and is
// not. A reply that means nothing here leaves the session out of step.
func (t *transaction) refused(command string) mail.Outcome {
	switch t.s.wire.parser.code / 100 {
	case 4:
		return t.replied(mail.Deferred, command)
	case 5:
		return t.replied(mail.Bounced, command)
	}
	t.s.broken = true
	o := t.replied(mail.Deferred, command)
	o.Error = "unexpected reply"
	return o
}

// replies reads those of a pipelined envelope; false when the session is over.
func (t *transaction) replies(reset, inline bool) bool {
	s := t.s
	written := func(command string, timeout time.Duration) bool {
		if !inline {
			return t.read(command, timeout)
		}
		// The message is out already: lost now is ambiguous, except for those refused.
		if err := s.wire.readReply(timeout); err != nil {
			t.over(t.ambiguous(command, err))
			return false
		}
		if s.wire.parser.code == 421 {
			s.broken = true
			t.over(t.replied(mail.Deferred, command))
			return false
		}
		return true
	}
	if reset && !written("RSET", s.o.EHLOTimeout.D()) || !written("MAIL", s.o.MailTimeout.D()) {
		return false
	}
	mailed := t.mailReply()
	for _, i := range t.batch {
		if !written("RCPT", s.o.RcptTimeout.D()) {
			return false
		}
		if mailed {
			t.rcptReply(i)
		}
	}
	return !s.broken
}

// mailReply judges the reply to MAIL; false when it was refused.
func (t *transaction) mailReply() bool {
	if t.s.wire.parser.code/100 == 2 {
		t.s.needReset = true
		return true
	}
	t.s.needReset = false
	t.decide(t.batch, t.refused("MAIL"))
	return false
}

// rcptReply judges the reply to the RCPT of message i.
func (t *transaction) rcptReply(i int) {
	p := &t.s.wire.parser
	switch {
	case p.code/100 == 2:
		t.accepted = append(t.accepted, i)
	case p.code == 452 && len(t.accepted) > 0 && (len(p.enhanced) == 0 || string(p.enhanced) == "4.5.3"):
		t.surplus = append(t.surplus, i) // RFC 5321 §4.5.3.1.10: the rest in another transaction
	default:
		t.out[i] = t.refused("RCPT")
	}
}
