package smtp

import (
	"io"
	"strings"
	"testing"

	gosmtp "github.com/emersion/go-smtp"
)

// script is a net.Conn of a client that waits for each reply, as smtp-source
// does: one Read gives one piece.
type script struct {
	tape
	pieces [][]byte
	pos    int
	rounds int
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.in) == 0 {
		if s.rounds == 0 {
			return 0, io.EOF
		}
		s.in = s.pieces[s.pos]
		if s.pos++; s.pos == len(s.pieces) {
			s.pos = 1 // EHLO only once
			s.rounds--
		}
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) { return len(p), nil }

type discardSession struct{}

func (discardSession) Reset()                                 {}
func (discardSession) Logout() error                          { return nil }
func (discardSession) Mail(string, *gosmtp.MailOptions) error { return nil }
func (discardSession) Rcpt(string, *gosmtp.RcptOptions) error { return nil }
func (discardSession) Data(r io.Reader) error {
	_, err := r.(io.WriterTo).WriteTo(io.Discard)
	return err
}

// BenchmarkMessage is one message of 10 KB, un-pipelined, without the cost of
// the network.
func BenchmarkMessage(b *testing.B) {
	body := strings.Repeat(strings.Repeat("x", 74)+"\r\n", 135)
	bench := func(b *testing.B, pieces ...string) {
		srv := newServer(b, DefaultOptions(), Deps{Backend: BackendFunc(func(Conn) (gosmtp.Session, error) {
			return discardSession{}, nil
		})})
		s := &script{rounds: b.N}
		for _, p := range append([]string{"EHLO client.example\r\n"}, pieces...) {
			s.pieces = append(s.pieces, []byte(p))
		}
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		b.ResetTimer()
		srv.ServeConn(s)
	}
	const mail, rcpt = "MAIL FROM:<sender@example.com> SIZE=10260\r\n", "RCPT TO:<recipient@example.net>\r\n"
	b.Run("data", func(b *testing.B) { bench(b, mail, rcpt, "DATA\r\n", body+".\r\n") })
	b.Run("pipelined", func(b *testing.B) { bench(b, mail+rcpt+"DATA\r\n", body+".\r\n") })
	b.Run("bdat", func(b *testing.B) { bench(b, mail+rcpt+"BDAT 10260 LAST\r\n"+body) })
}
