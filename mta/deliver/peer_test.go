package deliver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/dns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	drop = "!drop" // close the connection instead of a reply
	hang = "!hang" // never answer
)

// peer plays a provider by script.
type peer struct {
	ehlo    []string          // capabilities
	replies map[string]string // by stage: banner, EHLO, MAIL, RCPT, RCPT <address>, DATA, end, BDAT, …

	mu     sync.Mutex
	log    []string // command lines
	bodies []string // messages, unstuffed
	conns  int
}

func (p *peer) reply(stage, usual string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r, ok := p.replies[stage]; ok {
		return r
	}
	return usual
}

func (p *peer) note(list *[]string, s string) {
	p.mu.Lock()
	*list = append(*list, s)
	p.mu.Unlock()
}

func (p *peer) commands() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log, "|")
}

// serve speaks on one connection until it ends.
func (p *peer) serve(c net.Conn) {
	defer c.Close()
	p.mu.Lock()
	p.conns++
	p.mu.Unlock()
	in := bufio.NewReaderSize(c, 1<<20)
	say := func(stage, usual string) bool {
		switch r := p.reply(stage, usual); r {
		case drop:
			return false
		case hang:
			_, _ = io.Copy(io.Discard, in)
			return false
		default:
			_, err := io.WriteString(c, r+"\r\n")
			return err == nil
		}
	}
	if !say("banner", "220 peer ready") {
		return
	}
	accepted := 0
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\r\n")
		p.note(&p.log, line)
		verb, _, _ := strings.Cut(line, " ")
		ok := true
		switch verb {
		case "EHLO":
			ok = say("EHLO", "250-peer\r\n"+ehloLines(p.ehlo))
		case "MAIL":
			accepted = 0
			ok = say("MAIL", "250 2.1.0 ok")
		case "RCPT":
			_, address, _ := strings.Cut(line, "<")
			address, _, _ = strings.Cut(address, ">")
			r := p.reply("RCPT "+address, p.reply("RCPT", "250 2.1.5 ok"))
			if r[0] == '2' {
				accepted++
			}
			ok = say("RCPT "+address, r)
		case "DATA":
			usual := "354 go on"
			if accepted == 0 {
				usual = "503 5.5.1 no recipients"
			}
			usual = p.reply("DATA", usual)
			if ok = say("DATA", usual); ok && usual[0] == '3' {
				var body strings.Builder
				for {
					l, err := in.ReadString('\n')
					if err != nil {
						return
					}
					if l == ".\r\n" {
						break
					}
					body.WriteString(strings.TrimPrefix(l, "."))
				}
				p.note(&p.bodies, body.String())
				usual = "250 2.0.0 taken"
				if accepted == 0 {
					usual = "554 5.5.1 no valid recipients"
				}
				ok = say("end", usual)
			}
		case "BDAT":
			n, _ := strconv.Atoi(strings.Fields(line)[1])
			body := make([]byte, n)
			if _, err := io.ReadFull(in, body); err != nil {
				return
			}
			usual := "503 5.5.1 no recipients"
			if accepted > 0 {
				usual = "250 2.0.0 taken"
				p.note(&p.bodies, string(body))
			}
			ok = say("BDAT", usual)
		case "QUIT":
			_ = say("QUIT", "221 bye")
			return
		default:
			ok = say(verb, "250 ok")
		}
		if !ok {
			return
		}
	}
}

func ehloLines(caps []string) string {
	caps = append([]string{"ENHANCEDSTATUSCODES"}, caps...)
	var b strings.Builder
	for i, c := range caps {
		sep := "-"
		if i == len(caps)-1 {
			sep = " "
		}
		fmt.Fprintf(&b, "250%s%s", sep, c)
		if sep == "-" {
			b.WriteString("\r\n")
		}
	}
	return b.String()
}

// dialFunc is a Dialer.
type dialFunc func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)

func (f dialFunc) Dial(ctx context.Context, _ mail.Route, addr netip.AddrPort) (net.Conn, error) {
	return f(ctx, addr)
}

// pipes dials the peer of each address by net.Pipe; wait for it before the test ends.
type pipes struct {
	peers   map[string]*peer // by IP; "" is every other
	running sync.WaitGroup
}

func (n *pipes) Dial(_ context.Context, _ mail.Route, addr netip.AddrPort) (net.Conn, error) {
	p := n.peers[addr.Addr().String()]
	if p == nil {
		p = n.peers[""]
	}
	if p == nil {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	n.running.Go(func() { p.serve(theirs) })
	return ours, nil
}

// addresses is a Resolver: host to IPs.
type addresses map[string][]string

func (a addresses) Addresses(_ context.Context, host string) (dns.Addresses, error) {
	ips, ok := a[host]
	if !ok {
		return dns.Addresses{}, dns.ErrNotFound
	}
	var out dns.Addresses
	for _, ip := range ips {
		if ip == "fail" {
			return dns.Addresses{}, dns.ErrTemporary
		}
		out.IPs = append(out.IPs, netip.MustParseAddr(ip))
	}
	return out, nil
}

// text is a Composer.
type text struct {
	parts    []string
	eightBit bool
	err      error
	released *int
}

func (c text) Compose(context.Context, *mail.Message) (*mail.Composed, error) {
	if c.err != nil {
		return nil, c.err
	}
	var b net.Buffers
	for _, p := range c.parts {
		b = append(b, []byte(p))
	}
	return mail.NewComposed(b, c.eightBit, func() {
		if c.released != nil {
			*c.released++
		}
	}), nil
}

var hello = text{parts: []string{"Subject: hi\r\n\r\n", "hello\r\n.dot\r\n"}}

// deliverer makes one over dialer; edit may change what is usual.
func deliverer(t testing.TB, dialer Dialer, edit func(*Options, *Deps)) *Deliverer {
	t.Helper()
	o := DefaultOptions()
	d := Deps{Dialer: dialer, Composer: hello, Hostname: "client.example", Resolver: addresses{"mx.example": {"192.0.2.1"}},
		Shuffle: func(int, func(i, j int)) {}}
	if edit != nil {
		edit(&o, &d)
	}
	del, err := New(o, d)
	if err != nil {
		t.Fatal(err)
	}
	return del
}

var route = mail.Route{Site: "mx.example", Domain: "rcpt.example", Hosts: []mail.Host{{Name: "mx.example"}}, Port: 25, TLS: mail.TLSOpportunistic}

func to(recipients ...string) []*mail.Message {
	msgs := make([]*mail.Message, len(recipients))
	for i, r := range recipients {
		msgs[i] = &mail.Message{ReversePath: "from@sender.example", Recipient: r}
	}
	return msgs
}

// brief is an outcome in short.
func brief(o mail.Outcome) string {
	return fmt.Sprintf("%s %s %d %s", o.Kind, o.Class, o.Reply.Code, o.Command)
}

// session opens one or fails.
func session(t testing.TB, d *Deliverer, r mail.Route) *Session {
	t.Helper()
	s, err := d.Open(context.Background(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
