package deliver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
)

// real is a go-smtp server that keeps what it gets.
type real struct {
	addr netip.AddrPort
	mu   sync.Mutex
	got  []string // "from to,to smtp.BodyType\n" + message
}

func (r *real) NewSession(*smtp.Conn) (smtp.Session, error) { return &realSession{r: r}, nil }

type realSession struct {
	r    *real
	head string
	to   []string
}

func (s *realSession) Mail(from string, o *smtp.MailOptions) error {
	s.head = fmt.Sprintf("%s %s utf8=%v", from, o.Body, o.UTF8)
	return nil
}

func (s *realSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "no") {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "nobody"}
	}
	s.to = append(s.to, to)
	return nil
}

func (s *realSession) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.got = append(s.r.got, s.head+" "+strings.Join(s.to, ",")+"\n"+string(b))
	return nil
}

func (s *realSession) Reset()        { s.head, s.to = "", nil }
func (s *realSession) Logout() error { return nil }

func startReal(t testing.TB, edit func(*smtp.Server)) *real {
	t.Helper()
	r := &real{}
	srv := smtp.NewServer(r)
	srv.Domain = "mx.example"
	srv.EnableSMTPUTF8 = true
	srv.MaxLineLength = 1 << 20
	if edit != nil {
		edit(srv)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = netip.MustParseAddrPort(l.Addr().String())
	var running sync.WaitGroup
	running.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() { _ = srv.Close(); running.Wait() })
	return r
}

// direct dials addr for every address.
func direct(addr netip.AddrPort) Dialer {
	d := &Direct{}
	return dialFunc(func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) { return d.Dial(ctx, mail.Route{}, addr) })
}

func certificate(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestGoSMTPServer(t *testing.T) {
	messages := map[string][]string{
		"small":        {"Subject: x\r\n\r\n", ".dot\r\n..two\r\nx.\r\n.\r\n"},
		"empty":        {""},
		"no line end":  {"Subject: x\r\n\r\nend"},
		"split dot":    {"Subject: x\r\n\r\nend\r\n", ".x\r\n"},
		"60 KB":        {"Subject: x\r\n\r\n", strings.Repeat(strings.Repeat("x", 70)+"\r\n", 850)},
		"3 MB":         {"Subject: x\r\n\r\n", strings.Repeat(strings.Repeat("y", 70)+"\r\n", 45000)},
		"3 MB of dots": {"Subject: x\r\n\r\n", strings.Repeat(".\r\n", 1<<20)},
		"many parts":   {"Subject: x\r\n", "A: b\r\n", "C: d\r\n", "\r\n", "one\r\n", "two\r\n", "three\r\n"},
	}
	cert, _ := certificate(t, "mx.example")
	for _, withTLS := range []bool{false, true} {
		for _, chunking := range []string{Auto, Off} {
			r := startReal(t, func(s *smtp.Server) {
				if withTLS {
					s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
				}
			})
			for name, parts := range messages {
				t.Run(fmt.Sprintf("tls=%v/chunking=%s/%s", withTLS, chunking, name), func(t *testing.T) {
					r.mu.Lock()
					r.got = nil
					r.mu.Unlock()
					s := session(t, deliverer(t, direct(r.addr), func(o *Options, d *Deps) {
						o.Chunking = chunking
						d.Composer = text{parts: parts}
					}), route)
					defer s.Close()
					var want []string
					whole := strings.Join(parts, "")
					if !strings.HasSuffix(whole, "\r\n") && whole != "" {
						whole += "\r\n"
					}
					for i := range 3 { // the middle one fails: the session must stay in step
						rcpt := []string{"a@x.example", "b@x.example", "no@x.example"}
						if i == 1 {
							rcpt = rcpt[2:]
						} else {
							want = append(want, "from@sender.example  utf8=false a@x.example,b@x.example\n"+whole)
						}
						for j, o := range s.Deliver(t.Context(), to(rcpt...), nil) {
							kind := mail.Delivered
							if rcpt[j] == "no@x.example" {
								kind = mail.Bounced
							}
							if o.Kind != kind || strings.HasPrefix(o.TLS, "TLS1.3 TLS_") != withTLS {
								t.Fatalf("%s: %s %s, %s", rcpt[j], brief(o), o.Reply, o.TLS)
							}
						}
						if !s.Usable() {
							t.Fatal("not usable")
						}
					}
					r.mu.Lock()
					defer r.mu.Unlock()
					if len(r.got) != len(want) {
						t.Fatalf("%d messages", len(r.got))
					}
					for i := range want {
						if r.got[i] != want[i] {
							t.Errorf("message %d differs: %d bytes, want %d", i, len(r.got[i]), len(want[i]))
						}
					}
				})
			}
		}
	}
}

func TestTLSModes(t *testing.T) {
	good, pool := certificate(t, "mx.example")
	wrong, wrongPool := certificate(t, "other.example")
	offers := func(c tls.Certificate) func(*smtp.Server) {
		return func(s *smtp.Server) { s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{c}} }
	}
	broken := func(s *smtp.Server) { s.TLSConfig = &tls.Config{} } // offers STARTTLS and cannot
	for name, c := range map[string]struct {
		server func(*smtp.Server)
		mode   mail.TLSMode
		roots  *x509.CertPool
		want   string
	}{
		"opportunistic, offered": {offers(wrong), mail.TLSOpportunistic, nil, "TLS1.3"},
		"opportunistic, absent":  {nil, mail.TLSOpportunistic, nil, "clear"},
		"opportunistic, broken":  {broken, mail.TLSOpportunistic, nil, "clear"},
		"required, offered":      {offers(wrong), mail.TLSRequired, nil, "TLS1.3"},
		"required, absent":       {nil, mail.TLSRequired, nil, "deferred tls 451 STARTTLS 4.7.4"},
		"required, broken":       {broken, mail.TLSRequired, nil, "deferred tls 451 STARTTLS 4.7.5"},
		"verify, good":           {offers(good), mail.TLSVerify, pool, "TLS1.3"},
		"verify, unknown issuer": {offers(good), mail.TLSVerify, wrongPool, "deferred tls 451 STARTTLS 4.7.5"},
		"verify, name differs":   {offers(wrong), mail.TLSVerify, wrongPool, "deferred tls 451 STARTTLS 4.7.5"},
		"none, though offered":   {offers(good), mail.TLSNone, nil, "clear"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := startReal(t, c.server)
			d := deliverer(t, direct(srv.addr), func(_ *Options, d *Deps) { d.TLS = &tls.Config{RootCAs: c.roots} })
			r := route
			r.TLS = c.mode
			for range 2 { // the second may resume the TLS session
				s, err := d.Open(t.Context(), r, nil)
				got := ""
				var oe *mail.OutcomeError
				if errors.As(err, &oe) {
					got = brief(oe.Outcome) + " " + oe.Outcome.Reply.Enhanced
				} else {
					got, _, _ = strings.Cut(s.tls, " ")
					if got == "" {
						got = "clear"
					}
					if o := s.Deliver(t.Context(), to("a@x.example"), nil); o[0].Kind != mail.Delivered {
						t.Error(brief(o[0]), o[0].Reply)
					}
					s.Close()
				}
				if got != c.want {
					t.Errorf("got %s (%v), want %s", got, err, c.want)
				}
			}
		})
	}
}

// scripted serves each connection on loopback with serve.
func scripted(t testing.TB, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return netip.MustParseAddrPort(l.Addr().String())
}

func TestSTARTTLSInjection(t *testing.T) {
	addr := scripted(t, (&peer{ehlo: []string{"STARTTLS"}, replies: map[string]string{"STARTTLS": "220 go\r\n250 injected"}}).serve)
	r := route
	r.TLS = mail.TLSRequired
	_, err := deliverer(t, direct(addr), nil).Open(t.Context(), r, nil)
	if err == nil || !strings.Contains(err.Error(), "unencrypted data") {
		t.Error(err)
	}
}

func TestRefusedSTARTTLS(t *testing.T) {
	for reply, conns := range map[string]int{"454 4.7.0 not now": 1, "421 4.7.0 bye": 2, drop: 2} {
		p := &peer{ehlo: []string{"STARTTLS"}, replies: map[string]string{"STARTTLS": reply}}
		s := session(t, deliverer(t, direct(scripted(t, p.serve)), nil), route)
		if o := s.Deliver(t.Context(), to("a@x.example"), nil); o[0].Kind != mail.Delivered || o[0].TLS != "" {
			t.Errorf("%s: %s", reply, brief(o[0]))
		}
		s.Close()
		if p.conns != conns {
			t.Errorf("%s: %d connections", reply, p.conns)
		}
	}
}

func TestIdleSessionClosedByPeerIsNotUsable(t *testing.T) {
	for name, last := range map[string]string{"closed": "", "421 first": "421 4.4.2 idle\r\n"} {
		conns := make(chan net.Conn, 1)
		p := &peer{ehlo: []string{"PIPELINING"}}
		addr := scripted(t, func(c net.Conn) { conns <- c; p.serve(c) })
		s := session(t, deliverer(t, direct(addr), nil), route)
		s.Deliver(t.Context(), to("a@x.example"), nil)
		s.lastUse = s.lastUse.Add(-time.Hour)
		if !s.Usable() {
			t.Fatalf("%s: not usable while open", name)
		}
		theirs := <-conns
		if last != "" {
			_, _ = io.WriteString(theirs, last)
		} else {
			theirs.Close()
		}
		// The loss is there as soon as a read sees it; take nothing while waiting for that.
		for !s.wire.lost() {
			runtime.Gosched()
		}
		if o := s.Deliver(t.Context(), to("a@x.example"), nil); !s.Stale() || o[0].Kind != mail.Deferred {
			t.Errorf("%s: stale %v, %s", name, s.Stale(), brief(o[0]))
		}
		if s.Usable() {
			t.Errorf("%s: usable", name)
		}
		s.Close()
	}
}

func TestPeerStopsReading(t *testing.T) {
	// The message does not fit into the socket buffers and the peer reads no more: block_timeout ends it.
	stop := make(chan struct{})
	addr := scripted(t, func(c net.Conn) {
		defer c.Close()
		_, _ = io.WriteString(c, "220 x\r\n250-x\r\n250 PIPELINING\r\n250 x\r\n250 x\r\n354 x\r\n")
		<-stop
	})
	s := session(t, deliverer(t, direct(addr), func(o *Options, d *Deps) {
		o.BlockTimeout = units.Duration(50 * time.Millisecond)
		d.Composer = text{parts: []string{strings.Repeat("0123456789\r\n", 3<<20)}}
	}), route)
	o := s.Deliver(t.Context(), to("a@x.example"), nil)
	close(stop)
	if brief(o[0]) != "deferred connect 451 end-of-data" || !strings.Contains(o[0].Reply.Text, "timed out") {
		t.Errorf("%s %s", brief(o[0]), o[0].Reply)
	}
	s.Close()
}

func TestLastWordsOfAPeerThatGivesUp(t *testing.T) {
	// It refuses in the middle of the message and closes: its reply decides, not the write error.
	addr := scripted(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "220 x\r\n250-x\r\n250 PIPELINING\r\n250 x\r\n250 x\r\n354 x\r\n")
		_, _ = io.CopyN(io.Discard, c, 1<<20)
		_, _ = io.WriteString(c, "552 5.3.4 too big\r\n")
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.CopyN(io.Discard, c, 1<<20)
		c.Close()
	})
	s := session(t, deliverer(t, direct(addr), func(_ *Options, d *Deps) {
		d.Composer = text{parts: []string{strings.Repeat("0123456789\r\n", 3<<20)}}
	}), route)
	o := s.Deliver(t.Context(), to("a@x.example"), nil)
	if brief(o[0]) != "bounced smtp 552 end-of-data" {
		t.Errorf("%s %s %s", brief(o[0]), o[0].Reply, o[0].Error)
	}
	s.Close()
}

func TestDirectBindsLocalAddress(t *testing.T) {
	from := make(chan string, 1)
	addr := scripted(t, func(c net.Conn) { from <- c.RemoteAddr().String(); c.Close() })
	o := DefaultOptions()
	o.LocalIPv4 = "127.0.0.2"
	d, err := NewDirect(o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Dial(t.Context(), mail.Route{}, addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got := <-from; !strings.HasPrefix(got, "127.0.0.2:") {
		t.Error(got)
	}
}

// sink is a peer that answers without looking much, for benchmarks.
func sink(caps string) func(net.Conn) {
	return func(c net.Conn) {
		defer c.Close()
		_, _ = io.WriteString(c, "220 x\r\n")
		buf := make([]byte, 64<<10)
		have, inData, skip := 0, false, 0
		for {
			n, err := c.Read(buf[have:])
			if err != nil {
				return
			}
			have += n
			var out []byte
			at := 0
			for at < have {
				if skip > 0 {
					k := min(skip, have-at)
					at, skip = at+k, skip-k
					if skip == 0 {
						out = append(out, "250 2.0.0 taken\r\n"...)
					}
					continue
				}
				if inData {
					i := bytes.Index(buf[at:have], []byte("\r\n.\r\n"))
					if i < 0 {
						at = max(at, have-4)
						break
					}
					at += i + 5
					inData = false
					out = append(out, "250 2.0.0 taken\r\n"...)
					continue
				}
				i := bytes.IndexByte(buf[at:have], '\n')
				if i < 0 {
					break
				}
				line := string(buf[at : at+i])
				at += i + 1
				switch line[:4] {
				case "EHLO":
					out = append(out, "250-x\r\n"+caps...)
				case "DATA":
					inData = true
					out = append(out, "354 x\r\n"...)
				case "BDAT":
					fmt.Sscanf(line, "BDAT %d", &skip)
				default:
					out = append(out, "250 2.1.0 ok\r\n"...)
				}
			}
			have = copy(buf, buf[at:have])
			if len(out) > 0 {
				if _, err := c.Write(out); err != nil {
					return
				}
			}
		}
	}
}

func BenchmarkDeliver(b *testing.B) {
	body := text{parts: []string{"Subject: x\r\n\r\n", strings.Repeat(strings.Repeat("x", 70)+"\r\n", 142)}}
	dots := text{parts: []string{"Subject: x\r\n\r\n", strings.Repeat("."+strings.Repeat("x", 70)+"\r\n", 142)}}
	for name, c := range map[string]struct {
		caps string
		body text
	}{
		"data":      {"250 PIPELINING\r\n", body},
		"data/dots": {"250 PIPELINING\r\n", dots},
		"bdat":      {"250-CHUNKING\r\n250 PIPELINING\r\n", body},
		"lockstep":  {"250 SIZE\r\n", body},
	} {
		b.Run(name, func(b *testing.B) {
			addr := scripted(b, sink(c.caps))
			s := session(b, deliverer(b, direct(addr), func(o *Options, d *Deps) { d.Composer = c.body; o.MessagesPerSession = 1 << 30 }), route)
			defer s.Close()
			msgs := to("a@rcpt.example")
			b.ReportAllocs()
			for b.Loop() {
				if o := s.Deliver(context.Background(), msgs, nil); o[0].Kind != mail.Delivered {
					b.Fatal(brief(o[0]), o[0].Reply)
				}
			}
		})
	}
}
