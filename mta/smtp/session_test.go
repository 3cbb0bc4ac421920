package smtp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"
)

// record is one message that a test session accepted.
type record struct {
	from string
	opts *gosmtp.MailOptions
	to   []string
	rcpt []*gosmtp.RcptOptions
	data string
}

// recorder is a Backend whose sessions keep what they accept. The local part
// of a recipient tells a session how to behave; see testdata/README.md.
type recorder struct {
	xclient bool // offer XCLIENT
	auth    bool // offer AUTH

	mu       sync.Mutex
	accepted []record
	readErrs []error
	sessions int
	logouts  int
	conns    []Conn
}

func (r *recorder) NewSession(c Conn) (gosmtp.Session, error) {
	if c.Hostname() == "unwelcome" {
		return nil, &gosmtp.SMTPError{Code: 550, EnhancedCode: ec(5, 7, 1), Message: "Go away"}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions++
	r.conns = append(r.conns, c)
	return &testSession{r: r, c: c}, nil
}

func (r *recorder) take() (record, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.accepted) == 0 {
		return record{}, false
	}
	m := r.accepted[0]
	r.accepted = r.accepted[1:]
	return m, true
}

type testSession struct {
	r   *recorder
	c   Conn
	cur record
}

func (s *testSession) Reset() { s.cur = record{} }

func (s *testSession) Logout() error {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.logouts++
	return nil
}

func behave(addr string) error {
	local, _, _ := strings.Cut(addr, "@")
	full := &gosmtp.SMTPError{Code: 452, EnhancedCode: ec(4, 2, 2), Message: "Mailbox full"}
	switch local {
	case "reject":
		return &gosmtp.SMTPError{Code: 550, EnhancedCode: ec(5, 1, 1), Message: "No such user"}
	case "wrapped":
		return fmt.Errorf("policy: %w", full)
	case "plain":
		return errors.New("pq: password of 10.0.0.7 is swordfish")
	case "panic":
		panic("session bug")
	case "hangup":
		return &gosmtp.SMTPError{Code: 421, EnhancedCode: ec(4, 7, 0), Message: "Enough"}
	case "forward":
		return &gosmtp.SMTPError{Code: 251, EnhancedCode: ec(2, 1, 5), Message: "Will forward"}
	case "inject":
		return &gosmtp.SMTPError{Code: 550, Message: "two\r\nlines\rand\x00junk"}
	}
	return nil
}

func (s *testSession) Mail(from string, opts *gosmtp.MailOptions) error {
	if err := behave(from); err != nil {
		return err
	}
	s.cur.from, s.cur.opts = from, opts
	return nil
}

func (s *testSession) Rcpt(to string, opts *gosmtp.RcptOptions) error {
	err := behave(to)
	if err != nil && !accepted(err) {
		return err
	}
	s.cur.to = append(s.cur.to, to)
	s.cur.rcpt = append(s.cur.rcpt, opts)
	return err
}

func (s *testSession) Data(r io.Reader) error {
	for _, to := range s.cur.to {
		switch local, _, _ := strings.Cut(to, "@"); local {
		case "early":
			return fmt.Errorf("door: %w", &gosmtp.SMTPError{Code: 452, EnhancedCode: ec(4, 3, 1), Message: "Queue full"})
		case "ignore":
			return nil
		case "datapanic":
			panic("session bug in data")
		}
	}
	var sb strings.Builder
	if _, err := io.Copy(&sb, r); err != nil {
		s.r.mu.Lock()
		s.r.readErrs = append(s.r.readErrs, err)
		s.r.mu.Unlock()
		return fmt.Errorf("reading: %w", err)
	}
	s.cur.data = sb.String()
	for _, to := range s.cur.to {
		switch local, _, _ := strings.Cut(to, "@"); local {
		case "slow":
			time.Sleep(time.Minute)
		case "dataplain":
			return errors.New("disk sda1 is broken")
		case "datawrapped":
			return fmt.Errorf("queue: %w", &gosmtp.SMTPError{Code: 554, EnhancedCode: ec(5, 7, 1), Message: "Spam"})
		}
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.accepted = append(s.r.accepted, s.cur)
	for _, to := range s.cur.to {
		if strings.HasPrefix(to, "withid@") {
			return &gosmtp.SMTPError{Code: 250, EnhancedCode: ec(2, 6, 0), Message: "queued as 42"}
		}
	}
	return nil
}

func (s *testSession) AuthMechanisms() []string {
	if !s.r.auth {
		return nil
	}
	return []string{"PLAIN", "LOGIN"}
}

func (s *testSession) Auth(mech string) (sasl.Server, error) {
	check := func(user, pass string) error {
		switch {
		case user == "down":
			return errors.New("ldap: no route to host")
		case user == "u" && pass == "p":
			return nil
		}
		return fmt.Errorf("user %s: %w", user, gosmtp.ErrAuthFailed)
	}
	if mech == "PLAIN" {
		return sasl.NewPlainServer(func(_, user, pass string) error { return check(user, pass) }), nil
	}
	return &loginServer{check: check}, nil
}

type loginServer struct {
	check func(user, pass string) error
	user  *string
	asked bool
}

func (l *loginServer) Next(response []byte) ([]byte, bool, error) {
	if response == nil && !l.asked {
		l.asked = true
		return []byte("Username:"), false, nil
	}
	if l.user == nil {
		u := string(response)
		l.user = &u
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(*l.user, string(response))
}

func (s *testSession) XClientAttributes() []string {
	if !s.r.xclient {
		return nil
	}
	return []string{"NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN"}
}

func (s *testSession) XClient(attrs map[string]string) error {
	if a, ok := attrs["ADDR"]; ok {
		ip := net.ParseIP(a)
		if ip == nil {
			return &gosmtp.SMTPError{Code: 501, EnhancedCode: ec(5, 5, 4), Message: "Bad ADDR"}
		}
		s.c.SetRemote(&net.TCPAddr{IP: ip})
	}
	return nil
}

// serverTLS returns a configuration with a fresh certificate, which clients do not check.
func serverTLS(tb testing.TB) *tls.Config {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"mx.example"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}
