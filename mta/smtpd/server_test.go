package smtpd

import (
	"bufio"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gosmtp "github.com/emersion/go-smtp"
	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/mta/smtp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial connects to a real listener.
func dial(t *testing.T, a net.Addr) *talk { return dialFrom(t, "127.0.0.1", a) }

func dialFrom(t *testing.T, source string, a net.Addr) *talk {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	nc, err := d.Dial("tcp", a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return &talk{t: t, nc: nc, r: bufio.NewReader(nc)}
}

func start(t *testing.T, srv *Server) {
	t.Helper()
	if err := srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := srv.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestListeners(t *testing.T) {
	cert, key := certificate(t, t.TempDir(), 7)
	srv, s := newServer(t, func(o *Options) {
		o.CertFile, o.KeyFile = cert, key
		o.RelayFrom = []Network{{Network: "127.0.0.0/8", Tenant: "loop"}}
		o.Listeners = []Listener{{Address: "127.0.0.1:0"}, {Address: "127.0.0.1:0", TLS: TLSImplicit}}
	})
	start(t, srv)
	c := dial(t, srv.Addrs()[0])
	c.expect("220 mx.example.net")
	c.do("EHLO client.example", "250")
	c.message("250", "x@d.example")
	if m := s.last(t).Messages[0]; m.Tenant != "loop" {
		t.Errorf("message %+v", m)
	}
	c = dial(t, srv.Addrs()[1])
	if serial := c.handshake(); serial != 7 {
		t.Errorf("certificate %d", serial)
	}
	c.expect("220")
	if err := srv.Start(t.Context()); err == nil {
		t.Error("started twice")
	}
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir, 1)
	o := testOptions(func(o *Options) {
		o.CertFile, o.KeyFile = cert, key
		o.RelayFrom = nil
		o.Listeners = []Listener{{Address: "127.0.0.1:0", InsecureAuth: true}, {Address: "127.0.0.1:0"}}
	})
	srv, _ := newServer(t, func(to *Options) { *to = o })
	start(t, srv)
	first, second := srv.Addrs()[0], srv.Addrs()[1]
	ann, other := dial(t, first), dialFrom(t, "127.0.0.9", second)
	for _, c := range []*talk{ann, other} {
		c.expect("220")
		c.do("EHLO client.example", "250")
	}
	ann.do(authPlain("ann", "secret"), "235")
	ann.message("250", "x@d.example")
	other.do("MAIL FROM:<a@b>", "250")
	other.do("RCPT TO:<x@d.example>", "550 5.7.1")
	other.do("RSET", "250")

	// Bad options change nothing.
	bad := o
	bad.Users = nil
	bad.CertFile = filepath.Join(dir, "missing.pem")
	if err := srv.Reload(bad); err == nil || !strings.Contains(err.Error(), "cert_file") {
		t.Errorf("missing certificate: %v", err)
	}
	ann.message("250", "x@d.example")

	// The user and the second listener go, a network and a certificate come.
	certificate(t, dir, 2)
	next := o
	next.Users = []User{{Name: "bob", PasswordHash: hashOf("secret")}}
	next.RelayFrom = []Network{{Network: "127.0.0.9"}}
	next.Listeners = []Listener{{Address: "127.0.0.1:0", InsecureAuth: true, MaxConnectionsPerIP: 2}}
	if err := srv.Reload(next); err != nil {
		t.Fatal(err)
	}
	if got := srv.Addrs(); len(got) != 1 || got[0].String() != first.String() {
		t.Errorf("addresses %v", got)
	}
	ann.do("MAIL FROM:<a@b>", "250") // the same connection, the login void
	ann.do("RCPT TO:<x@d.example>", "550 5.7.1")
	ann.do("RSET", "250")
	other.message("250", "x@d.example") // its listener is gone, the connection is not
	if _, err := net.DialTimeout("tcp", second.String(), time.Second); err == nil {
		t.Error("removed listener takes connections")
	}
	if serial := ann.startTLS(); serial != 2 {
		t.Errorf("old connection got certificate %d", serial)
	}
	fresh := dial(t, first)
	fresh.expect("220")
	fresh.do("EHLO client.example", "250")
	fresh.do(authPlain("bob", "secret"), "235")
	fresh.do(authPlain("ann", "secret"), "503")
	limited := dial(t, first)
	limited.expect("421 4.7.0 mx.example.net " + tooManyFromYou)

	// A listener that cannot be opened: nothing changes either.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	bad = next
	bad.Users = nil
	bad.Listeners = append([]Listener{{Address: "127.0.0.1:0"}}, Listener{Address: taken.Addr().String()})
	if err := srv.Reload(bad); err == nil || len(srv.Addrs()) != 1 {
		t.Errorf("taken address: %v", err)
	}
	fresh.message("250", "x@d.example")
}

func TestStop(t *testing.T) {
	srv, s := newServer(t, func(o *Options) {
		o.RelayFrom = []Network{{Network: "127.0.0.1"}}
		o.Listeners[0].ProxyFrom = []string{"127.0.0.2"}
	})
	if err := srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	idle, working := dial(t, srv.Addrs()[0]), dial(t, srv.Addrs()[0])
	for _, c := range []*talk{idle, working} {
		c.expect("220")
		c.do("EHLO client.example", "250")
	}
	working.do("MAIL FROM:<a@b>", "250")
	working.do("RCPT TO:<x@d.example>", "250")
	stopped := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		stopped <- srv.Stop(ctx)
	}()
	idle.expect("421 4.3.2")
	idle.ended()
	idle.nc.Close()
	working.do("DATA", "354")
	working.send("\r\n.\r\n")
	working.expect("250 2.0.0 Ok: queued as")
	working.expect("421 4.3.2")
	working.nc.Close()
	if err := <-stopped; err != nil || len(s.batches) != 1 {
		t.Errorf("stop: %v, %d batches", err, len(s.batches))
	}
	if _, err := net.DialTimeout("tcp", srv.endpoints[0].ln.Addr().String(), time.Second); err == nil {
		t.Error("still listening")
	}
	if err := srv.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if srv.Reload(DefaultOptions()) == nil || srv.Start(context.Background()) == nil {
		t.Error("a stopped server came back")
	}
}

func TestStopCutsOffWhatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := newServer(t, func(o *Options) { o.Listeners[0].ProxyFrom = []string{"172.16.0.0/12"} })
		waiting := connect(t, srv, 0, "172.16.0.1") // for a PROXY header
		c := greeted(t, srv, 0, "10.2.0.1")
		c.do("MAIL FROM:<a@b>", "250")
		c.do("RCPT TO:<x@d.example>", "250")
		c.do("DATA", "354")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		if err := srv.Stop(ctx); err != context.DeadlineExceeded {
			t.Errorf("stop: %v", err)
		}
		<-waiting.done
		<-c.done
		if d := time.Since(begin); d > time.Minute+2*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

// TestUnderTheLibrarysServer drives the sessions by go-smtp's own server.
func TestUnderTheLibrarysServer(t *testing.T) {
	srv, s := newServer(t, func(o *Options) { o.RelayFrom = []Network{{Network: "127.0.0.1"}} })
	st := srv.endpoints[0].state
	lib := gosmtp.NewServer(smtp.Adapt(smtp.BackendFunc(func(c smtp.Conn) (gosmtp.Session, error) { return srv.newSession(st, c), nil })))
	lib.Domain, lib.AllowInsecureAuth = "mx.example.net", true
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = lib.Serve(ln); close(done) }()
	defer func() { lib.Close(); <-done }()
	c := dial(t, ln.Addr())
	c.expect("220")
	c.do("EHLO client.example", "250")
	c.do(authPlain("ann", "wrong"), "535")
	c.do(authPlain("ann", "secret"), "235")
	c.message("250 2.0.0 Ok: queued as", "x@d.example")
	if o := s.last(t).Origin; o.AuthID != "ann" || o.Peer != "127.0.0.1" {
		t.Errorf("origin %+v", o)
	}
	c.do("QUIT", "221")
}

func TestValidate(t *testing.T) {
	if err := DefaultOptions().Validate(); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*Options){
		"max_size":                  func(o *Options) { o.MaxSize = 10 },
		"idle_timeout":              func(o *Options) { o.IdleTimeout = 0 },
		"auth_failures":             func(o *Options) { o.AuthFailures = 0 },
		"cert_file":                 func(o *Options) { o.KeyFile = "x" },
		"listeners[0].address":      func(o *Options) { o.Listeners[0].Address = "nonsense" },
		"listeners[1].address":      func(o *Options) { o.Listeners = []Listener{{Address: ":25"}, {Address: ":25"}} },
		"listeners[0].tls":          func(o *Options) { o.Listeners[0].TLS = TLSImplicit },
		"listeners[0].proxy_from":   func(o *Options) { o.Listeners[0].ProxyFrom = []string{"10.0.0.1/8"} },
		"listeners[0].xclient_from": func(o *Options) { o.Listeners[0].XClientFrom = []string{"x"} },
		"relay_from[0].network":     func(o *Options) { o.RelayFrom = []Network{{Network: "::ffff:10.0.0.0/104"}} },
		"users[0].name":             func(o *Options) { o.Users = []User{{PasswordHash: hashOf("x")}} },
		"users[1].name":             func(o *Options) { u := User{Name: "a", PasswordHash: hashOf("x")}; o.Users = []User{u, u} },
		"users[0].password_hash":    func(o *Options) { o.Users = []User{{Name: "a", PasswordHash: "secret"}} },
	} {
		o := DefaultOptions()
		change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: %v", key, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the password", key)
		}
	}
}

func TestUsersFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "users.toml")
	write := func(s string) {
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := testOptions(func(o *Options) { o.UsersFile = name })
	for content, want := range map[string]string{
		"[[users]]\nname = \"bob\"\npassword_hash = \"" + hashOf("pw") + "\"\ntenant = \"t\"\n": "",
		"[[users]]\nname = \"ann\"\npassword_hash = \"" + hashOf("pw") + "\"\n":                 "listed twice",
		"[[users]]\nname = \"bob\"\nhash = \"x\"\n":                                             name + ":3:1: unknown key",
		"nonsense": name,
	} {
		write(content)
		p, err := newPolicy(o)
		if want == "" && (err != nil || p.users["bob"].Tenant != "t" || p.users["ann"].Tenant != "acme") {
			t.Errorf("%q: %v", content, err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", content, err)
		}
	}
}
