package sink

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/godwit-mta/godwit/internal/watch"
)

// listen binds the SMTP addresses and returns the provider that owns each
// listener. When free ports were asked for, the port that is free on the first
// address may be taken on another: then all of them are tried again.
func (s *Sink) listen() (owners []*provider, err error) {
	for range bindTries {
		if owners, err = s.listenOnce(); err == nil {
			return owners, nil
		}
		for _, l := range s.listeners {
			l.Close()
		}
		s.listeners = nil
		if !errors.Is(err, syscall.EADDRINUSE) || !s.anyFreePort() {
			break
		}
	}
	return nil, err
}

func (s *Sink) anyFreePort() bool {
	return slices.ContainsFunc(s.providers, func(p *provider) bool { return strings.HasSuffix(cmp.Or(p.Listen, s.opts.Listen), ":0") })
}

// listenOnce binds all addresses; providers of equal address share a listener.
func (s *Sink) listenOnce() ([]*provider, error) {
	var owners []*provider
	bound, ears := map[string]string{}, map[string]*ear{} // by address as configured
	for i, p := range s.providers {
		want := cmp.Or(p.Listen, s.opts.Listen)
		if addr, ok := bound[want]; ok {
			p.addr = addr
		} else {
			l, err := s.bind(want)
			if err != nil {
				return nil, fmt.Errorf("providers[%d].listen: %w", i, err)
			}
			s.listeners = append(s.listeners, l)
			owners = append(owners, p)
			p.addr = l.Addr().String()
			bound[want], ears[want] = p.addr, l
		}
		p.ear = ears[want]
		var err error
		if p.tls, err = tlsConfig(p, s.certNames(p)); err != nil {
			return nil, err
		}
	}
	return owners, s.bindSwallowers()
}

// bind listens on addr; port 0 means the port of the first listener, if there is one already.
func (s *Sink) bind(addr string) (*ear, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if port == "0" && len(s.listeners) > 0 {
		port = strconv.Itoa(s.Port())
	}
	return newEar(net.JoinHostPort(host, port))
}

// certNames are the host names of a provider's certificate.
func (s *Sink) certNames(p *provider) []string {
	if !p.OwnMX {
		return p.hosts
	}
	var names []string
	for _, d := range p.domains() {
		for i := range p.hosts {
			names = append(names, fmt.Sprintf("mx%d.%s", i+1, d))
		}
	}
	return append(names, p.hosts...)
}

// serve runs the accept loop of a listener in its provider's mode.
func (s *Sink) serve(l net.Listener, p *provider) {
	guarded := &guard{Listener: l, sink: s, owner: p}
	if p.Mode == ModeFast {
		s.wg.Go(func() {
			for {
				c, err := guarded.Accept()
				if err != nil {
					return
				}
				s.wg.Go(func() { s.serveFast(c.(*countedConn), p) })
			}
		})
		return
	}
	srv := s.newFull(p)
	s.servers = append(s.servers, srv)
	s.wg.Go(func() { _ = srv.Serve(guarded) }) // ends by Stop
}

// guard is a listener that counts connections and turns away those above the provider's limit.
type guard struct {
	net.Listener
	sink  *Sink
	owner *provider
}

// Accept implements net.Listener. The connection is always a *countedConn.
func (g *guard) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			var temporary interface{ Temporary() bool }
			if errors.As(err, &temporary) && temporary.Temporary() && !errors.Is(err, net.ErrClosed) {
				g.sink.pause(5 * time.Millisecond) // out of descriptors: let some connections end
				continue
			}
			return nil, err
		}
		cc := g.admit(c)
		if cc == nil {
			continue
		}
		if g.sink.remember(cc) {
			return cc, nil
		}
		cc.Close()
	}
}

// admit counts a connection in, or answers that it cannot be and returns nil.
func (g *guard) admit(c net.Conn) *countedConn {
	r := g.owner.policy.rules()
	peer := peerOf(c)
	from := g.owner.came.of(peer.Addr())
	how := from.enter(&r.Behaviour, time.Now())
	if how == watch.Accepted && !g.owner.enter() {
		from.leave()
		how = watch.Refused
	}
	watched := g.sink.watch.Opened(peer, g.owner.Name, how)
	if how == watch.Accepted {
		return g.sink.newConn(c, g.owner, from, watched)
	}
	if how != watch.Refused {
		g.owner.counts.connections.Add(1)
		g.owner.counts.refused.Add(1)
	}
	from.counts.refused.Add(1)
	list := r.texts.connections
	if how == watch.Blocked {
		list = r.texts.blocked
	}
	c.SetWriteDeadline(time.Now().Add(time.Second))
	c.Write(g.owner.policy.pick(list).forPeer(from.ip).append(nil, true))
	g.sink.watch.Closed(watched)
	c.Close()
	return nil
}

// remember keeps a connection for Stop; false when the sink is stopping.
func (s *Sink) remember(c *countedConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Sink) forget(c *countedConn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// Port is the port of the first SMTP listener: what delivery must use instead of 25. Valid after Start.
func (s *Sink) Port() int {
	if len(s.listeners) == 0 {
		return 0
	}
	addr, _ := s.listeners[0].Addr().(*net.TCPAddr)
	return addr.Port
}

// Endpoints are the addresses of a running sink, for whoever started it on free ports.
type Endpoints struct {
	Port      int               `json:"smtp_port"` // of all providers whose address was given without one
	DNS       string            `json:"dns,omitempty"`
	HTTP      string            `json:"http,omitempty"` // base URL
	Providers map[string]string `json:"providers"`      // SMTP addresses by name
}

// Endpoints returns the addresses. Valid after Start.
func (s *Sink) Endpoints() Endpoints {
	e := Endpoints{Port: s.Port(), DNS: s.DNSAddr(), HTTP: s.URL(), Providers: map[string]string{}}
	for _, p := range s.providers {
		e.Providers[p.Name] = p.addr
	}
	return e
}

// Addr is the SMTP address of the named provider, "" if there is none. Valid after Start.
func (s *Sink) Addr(name string) string {
	for _, p := range s.providers {
		if p.Name == name {
			return p.addr
		}
	}
	return ""
}

// DNSAddr is the address of the name server, "" without one. Valid after Start.
func (s *Sink) DNSAddr() string {
	if s.dns == nil {
		return ""
	}
	return s.dns.addr
}

// URL is the base of the statistics endpoint, "" without one. Valid after Start.
func (s *Sink) URL() string {
	if s.httpAddr == "" {
		return ""
	}
	return "http://" + s.httpAddr
}
