package smtpd

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/passwd"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/mta/accept"
)

func TestLogin(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
	}{
		{"plain", []string{authPlain("ann", "secret"), "235 2.7.0"}},
		{"plain in two steps", []string{"AUTH PLAIN", "334", b64("\x00ann\x00secret"), "235"}},
		{"plain as oneself", []string{"AUTH PLAIN " + b64("ann\x00ann\x00secret"), "235"}},
		{"plain as another", []string{"AUTH PLAIN " + b64("bob\x00ann\x00secret"), "535 5.7.8"}},
		{"login", []string{"AUTH LOGIN", "334 " + b64("Username:"), b64("ann"), "334 " + b64("Password:"), b64("secret"), "235"}},
		{"login with user", []string{"AUTH LOGIN " + b64("ann"), "334 " + b64("Password:"), b64("secret"), "235"}},
		{"wrong password", []string{authPlain("ann", "Secret"), "535 5.7.8", "MAIL FROM:<a@b>", "250", "RCPT TO:<x@y.example>", "550 5.7.1"}},
		{"wrong login password", []string{"AUTH LOGIN", "334", b64("ann"), "334", b64("x"), "535 5.7.8"}},
		{"unknown user", []string{authPlain("eve", "secret"), "535 5.7.8"}},
		{"empty password", []string{authPlain("ann", ""), "535 5.7.8"}},
		{"cancelled", []string{"AUTH LOGIN", "334", "*", "501"}},
		{"bad base64", []string{"AUTH PLAIN !", "501"}},
		{"unknown mechanism", []string{"AUTH CRAM-MD5", "504"}},
		{"twice", []string{authPlain("ann", "secret"), "235", authPlain("ann", "secret"), "503"}},
		{"in a transaction", []string{"MAIL FROM:<a@b>", "250", authPlain("ann", "secret"), "503"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv, _ := newServer(t, nil)
			c := greeted(t, srv, 0, "192.0.2.1")
			for i := 0; i < len(tt.lines); i += 2 {
				c.do(tt.lines[i], tt.lines[i+1])
			}
		})
	}
}

func TestLoginNeedsTLS(t *testing.T) {
	cert, key := certificate(t, t.TempDir(), 1)
	srv, s := newServer(t, func(o *Options) {
		o.CertFile, o.KeyFile = cert, key
		o.Listeners = []Listener{{Address: "127.0.0.1:25"}, {Address: "127.0.0.1:465", TLS: TLSImplicit, Submission: true}, {Address: "127.0.0.1:26", TLS: TLSNone}}
	})
	c := greeted(t, srv, 0, "192.0.2.1")
	c.do(authPlain("ann", "secret"), "538 5.7.11")
	c.startTLS()
	c.do("EHLO client.example", "250")
	c.do(authPlain("ann", "secret"), "235")
	c.message("250", "x@d.example")
	if o := s.last(t).Origin; o.Protocol != "esmtpsa" {
		t.Errorf("origin %+v", o)
	}
	c = connect(t, srv, 1, "192.0.2.1")
	c.handshake()
	c.expect("220")
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<a@b>", "530 5.7.0")
	c.do(authPlain("ann", "secret"), "235")
	c.message("250", "x@d.example")

	c = greeted(t, srv, 2, "192.0.2.1")
	c.do("STARTTLS", "502")
}

// TestLoginIsForgottenAtSTARTTLS: RFC 3207 §4.2.
func TestLoginIsForgottenAtSTARTTLS(t *testing.T) {
	cert, key := certificate(t, t.TempDir(), 1)
	srv, _ := newServer(t, func(o *Options) { o.CertFile, o.KeyFile = cert, key })
	c := greeted(t, srv, 0, "192.0.2.1")
	c.do(authPlain("ann", "secret"), "235")
	c.startTLS()
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<a@b>", "250")
	c.do("RCPT TO:<x@d.example>", "550 5.7.1")
}

func TestFailuresBlockTheAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := newServer(t, func(o *Options) {
			o.AuthFailures, o.AuthWindow = 3, units.Duration(10*time.Minute)
			o.RelayFrom = []Network{{Network: "10.0.0.0/8"}}
		})
		attack := func(from string) {
			c := greeted(t, srv, 0, from)
			c.do(authPlain("ann", "x"), "535 5.7.8")
			c.do(authPlain("nobody", "x"), "535 5.7.8")
			other := greeted(t, srv, 0, from) // counted over connections
			other.do(authPlain("ann", "y"), "421 4.7.0")
			other.ended()
			c.do(authPlain("ann", "secret"), "421 4.7.0") // too late
			c.ended()
		}
		attack("192.0.2.1")
		c := connect(t, srv, 0, "192.0.2.1")
		c.expect("421 4.7.0 mx.example.net Too many authentication failures")
		c.ended()
		greeted(t, srv, 0, "192.0.2.2").do(authPlain("ann", "secret"), "235")

		attack("2001:db8:0:1::1") // an IPv6 client has a whole /64
		connect(t, srv, 0, "2001:db8:0:1::2").expect("421 4.7.0")
		greeted(t, srv, 0, "2001:db8:0:2::1").do(authPlain("ann", "secret"), "235")

		attack("10.0.0.1") // a listed network can still relay, but not log in
		c = greeted(t, srv, 0, "10.0.0.1")
		c.message("250", "x@d.example")
		c.do(authPlain("ann", "secret"), "421 4.7.0")

		time.Sleep(10 * time.Minute)
		greeted(t, srv, 0, "192.0.2.1").do(authPlain("ann", "secret"), "235")
	})
}

func TestRealVerifier(t *testing.T) {
	door, err := accept.New(accept.DefaultOptions(), accept.Deps{Queue: &store{}, IDs: &mail.IDs{}, Hostname: "mx.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	hash, _ := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	srv, err := New(testOptions(func(o *Options) { o.Users[0].PasswordHash = string(hash) }), Deps{Door: door, Hostname: "mx.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	greeted(t, srv, 0, "192.0.2.1").do(authPlain("ann", "secret"), "235")
	greeted(t, srv, 0, "192.0.2.1").do(authPlain("ann", "wrong"), "535")
}

type busy struct{}

func (busy) Verify(context.Context, string, string, string) (bool, error) {
	return false, errors.Join(passwd.ErrBusy)
}

func TestBusyVerifierIsTemporary(t *testing.T) {
	srv, _ := newServer(t, nil)
	srv.deps.Passwords = busy{}
	c := greeted(t, srv, 0, "192.0.2.1")
	c.do(authPlain("ann", "secret"), "454 4.7.0")
	if n := srv.failures.count(clientKey(addrPort(addrConn{}.remoteOr("192.0.2.1")).Addr()), time.Now(), time.Hour); n != 0 {
		t.Errorf("%d failures counted", n)
	}
}

func TestFailureTableIsBounded(t *testing.T) {
	f := &failures{}
	now := time.Now()
	for i := range maxTracked + 1000 {
		f.add(clientKey(ipv4(uint32(i))), now.Add(time.Duration(i)), time.Hour, 10)
	}
	if len(f.by) > maxTracked {
		t.Errorf("%d entries", len(f.by))
	}
	for range 100 {
		f.add(clientKey(ipv4(1<<30)), now, time.Hour, 10)
	}
	if n := f.count(clientKey(ipv4(1<<30)), now, time.Hour); n != 10 || cap(f.by[clientKey(ipv4(1<<30))]) > 64 {
		t.Errorf("%d failures", n)
	}
}
