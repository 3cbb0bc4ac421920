package deliver

import (
	"errors"
	"os"
	"strconv"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// data reads the reply to DATA, sends the message and reads the last reply.
func (t *transaction) data() {
	s := t.s
	if !t.read("DATA", s.o.DataTimeout.D()) {
		return
	}
	if s.wire.parser.code != 354 {
		if len(t.accepted) > 0 {
			t.decide(t.accepted, t.refused("DATA"))
		} else if s.wire.parser.code/100 < 4 {
			s.broken = true
		}
		return
	}
	if len(t.accepted) == 0 { // RFC 2920 §3.1: a server may say 354 all the same; an empty message ends it
		if s.wire.write(endOfData, s.o.DataTimeout.D()) != nil || s.wire.readReply(s.o.FinalTimeout.D()) != nil {
			s.broken = true
		}
		return
	}
	if err := s.wire.writeData(t.content.Parts, t.content.Size, s.o.BlockTimeout.D()); err != nil {
		t.writeFailed("end-of-data", err)
		return
	}
	s.needReset = false
	t.finalReply("end-of-data")
}

// chunk sends the message by BDAT after the envelope was accepted.
func (t *transaction) chunk() {
	if len(t.accepted) == 0 {
		return
	}
	var err error
	if t.cmd, err = t.writeChunk(t.cmd[:0]); err != nil {
		t.writeFailed("BDAT", err)
		return
	}
	t.finalReply("BDAT")
}

// writeChunk sends b, BDAT and the message (RFC 3030 §2). It returns b with the command.
func (t *transaction) writeChunk(b []byte) ([]byte, error) {
	size, end := t.content.Size, []byte(nil)
	if !endsLine(t.content.Parts) {
		end = crlf
	}
	b = append(b, "BDAT "...)
	b = strconv.AppendInt(b, size+int64(len(end)), 10)
	b = append(b, " LAST\r\n"...)
	return b, t.s.wire.writeParts(b, t.content.Parts, size, end, t.s.o.BlockTimeout.D())
}

// finalReply reads the reply to the end of the message and decides the accepted recipients by it.
func (t *transaction) finalReply(command string) {
	s := t.s
	s.wire.setGrace(finalGrace)
	err := s.wire.readReply(s.o.FinalTimeout.D())
	s.wire.setGrace(0)
	if err != nil {
		t.over(t.ambiguous(command, err))
		return
	}
	s.d.m.bytes.Add(float64(t.content.Size))
	if command == "BDAT" {
		s.needReset = s.wire.parser.code/100 != 2
	}
	kind := mail.Ambiguous
	switch s.wire.parser.code / 100 {
	case 2:
		kind = mail.Delivered
	case 4:
		kind = mail.Deferred
	case 5:
		kind = mail.Bounced
	}
	if len(t.accepted) > 0 {
		t.decide(t.accepted, t.replied(kind, command))
	}
	if kind == mail.Ambiguous || s.wire.parser.code == 421 {
		s.broken = true
	}
}

// ambiguous is the outcome when the message was written whole and its reply did not come.
func (t *transaction) ambiguous(command string, err error) mail.Outcome {
	o := t.s.lost(command, err)
	o.Kind = mail.Ambiguous
	return o
}

// How long a peer's last words are waited for: after it closed they are on
// their way; one that only stopped reading said them long ago.
const (
	replyAfterLoss    = 2 * time.Second
	replyAfterTimeout = 20 * time.Millisecond
)

// writeFailed decides all who have no outcome yet. A peer that gave up on us
// has often said why before it closed: then that counts.
func (t *transaction) writeFailed(command string, err error) {
	s := t.s
	o := s.lost(command, err)
	wait := replyAfterLoss
	if errors.Is(err, os.ErrDeadlineExceeded) {
		wait = replyAfterTimeout
	}
	if !s.wire.interrupted() && s.wire.readReply(wait) == nil {
		code := s.wire.parser.code
		switch {
		case code/100 == 4, code/100 == 5 && command != "end-of-data":
			o = t.replied(mail.Deferred, command)
			o.Error = err.Error()
		case code/100 == 5:
			o = t.replied(mail.Bounced, command)
			o.Error = err.Error()
		}
	}
	t.over(o)
}
