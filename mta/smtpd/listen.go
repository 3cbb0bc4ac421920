package smtpd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	gosmtp "github.com/emersion/go-smtp"
	"github.com/pires/go-proxyproto"

	"github.com/godwit-mta/godwit/mta/smtp"
)

const (
	proxyTimeout   = 10 * time.Second // for the whole PROXY header
	refuseTimeout  = time.Second      // for the reply to a connection that is not taken
	tooMany        = "Too many connections, try again later"
	tooManyFromYou = "Too many connections from your address"
)

// endpoint is one listener. Its state is replaced at reload; connections keep
// the one they came in with.
type endpoint struct {
	srv  *Server
	key  string
	gate gate
	wg   sync.WaitGroup // the accept loop and all connections

	mu      sync.Mutex
	ln      net.Listener
	closed  bool
	state   *state
	old     []*state              // replaced, still used by connections
	pending map[net.Conn]struct{} // before mta/smtp has them
}

// state is what a reload can change of an endpoint.
type state struct {
	Listener
	implicit    bool
	maxTotal    int
	maxPerIP    int
	proxyFrom   []netip.Prefix
	xclientFrom []netip.Prefix
	proto       *smtp.Server
	refs        int // connections that use it, guarded by endpoint.mu
}

// newState prepares what e is going to be under o. pair is nil without a certificate.
func (s *Server) newState(o *Options, l Listener, pair *keyPair) (*state, error) {
	st := &state{Listener: l, implicit: l.TLS == TLSImplicit, maxTotal: o.MaxConnections, maxPerIP: o.MaxConnectionsPerIP}
	if l.MaxConnections > 0 {
		st.maxTotal = l.MaxConnections
	}
	if l.MaxConnectionsPerIP > 0 {
		st.maxPerIP = l.MaxConnectionsPerIP
	}
	var err1, err2 error
	st.proxyFrom, err1 = parseNetworks(l.ProxyFrom)
	st.xclientFrom, err2 = parseNetworks(l.XClientFrom)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	p := smtp.DefaultOptions()
	p.Domain, p.ImplicitTLS, p.AllowInsecureAuth = s.deps.Hostname, st.implicit, l.InsecureAuth
	p.MaxRecipients, p.MaxMessageBytes, p.MaxErrors = o.MaxRecipients, o.MaxSize, o.MaxErrors
	p.IdleTimeout, p.TotalTimeout = o.IdleTimeout, o.TotalTimeout
	deps := smtp.Deps{
		Backend: smtp.BackendFunc(func(c smtp.Conn) (gosmtp.Session, error) { return s.newSession(st, c), nil }),
		Log:     s.log, Trace: s.deps.Trace, Tracing: s.deps.Tracing, OnReply: s.onReply, OnClose: s.onClose,
	}
	if l.TLS != TLSNone && pair != nil {
		deps.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.get}
	}
	var err error
	st.proto, err = smtp.New(p, deps)
	return st, err
}

// take gives the state to one more connection.
func (e *endpoint) take() *state {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state.refs++
	return e.state
}

func (e *endpoint) drop(st *state) {
	e.mu.Lock()
	defer e.mu.Unlock()
	st.refs--
	e.prune()
}

// change puts another state in place for connections to come.
func (e *endpoint) change(st *state) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.old = append(e.old, e.state)
	e.state = st
	e.prune()
}

func (e *endpoint) prune() {
	kept := e.old[:0]
	for _, st := range e.old {
		if st.refs > 0 {
			kept = append(kept, st)
		}
	}
	clear(e.old[len(kept):])
	e.old = kept
}

// protos are all protocol servers that may have connections.
func (e *endpoint) protos() []*smtp.Server {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := []*smtp.Server{e.state.proto}
	for _, st := range e.old {
		list = append(list, st.proto)
	}
	return list
}

// run accepts until close.
func (e *endpoint) run(ln net.Listener) {
	delay := 5 * time.Millisecond
	for {
		nc, err := ln.Accept()
		if err == nil {
			delay = 5 * time.Millisecond
			if e.admit(nc) {
				e.wg.Go(func() { e.serve(nc) })
			}
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		e.srv.log.Error("smtp accept failed", "listener", e.key, "error", err, "retry_in", delay)
		time.Sleep(delay) // out of file descriptors or the like: nobody else to wake us
		delay = min(2*delay, time.Second)
	}
}

// admit counts a fresh connection, or refuses it.
func (e *endpoint) admit(nc net.Conn) bool {
	st := e.take()
	defer e.drop(st)
	if !e.gate.enter(st.maxTotal) {
		e.refuse(st, nc, "total", tooMany)
		return false
	}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		e.gate.leave()
		_ = nc.Close()
		return false
	}
	e.pending[nc] = struct{}{}
	e.mu.Unlock()
	e.srv.metrics.connections.WithLabelValues(e.key).Inc()
	return true
}

// serve is the life of one connection.
func (e *endpoint) serve(nc net.Conn) {
	defer e.gate.leave()
	st := e.take()
	defer e.drop(st)
	c := &client{gate: &e.gate}
	defer c.uncount()
	identified, err := c.identify(nc, st)
	e.mu.Lock()
	delete(e.pending, nc)
	e.mu.Unlock()
	if err != nil {
		e.srv.metrics.refused.WithLabelValues("proxy").Inc()
		e.srv.log.Warn("connection refused", "listener", e.key, "peer", nc.RemoteAddr(), "error", err)
		_ = nc.Close()
		return
	}
	switch {
	case e.srv.blocked(c.addr) && !e.srv.policy.Load().rights(c.addr, "").relay:
		e.refuse(st, identified, "auth", tooManyFailures)
	case !holds(st.xclientFrom, c.socket) && !c.count(st.maxPerIP): // a proxy counts as its clients do
		e.refuse(st, identified, "per_ip", tooManyFromYou)
	default:
		st.proto.ServeConn(&conn{Conn: identified, peer: newPeer(c)})
	}
}

// refuse says why in one line, where the client can read it before a TLS handshake.
func (e *endpoint) refuse(st *state, nc net.Conn, reason, message string) {
	e.srv.metrics.refused.WithLabelValues(reason).Inc()
	e.srv.log.Info("connection refused", "listener", e.key, "peer", nc.RemoteAddr(), "reason", reason)
	if !st.implicit {
		_ = nc.SetWriteDeadline(time.Now().Add(refuseTimeout))
		_, _ = nc.Write([]byte("421 4.7.0 " + e.srv.deps.Hostname + " " + message + "\r\n"))
	}
	_ = nc.Close()
}

// identify finds out who the client is: the other end of the socket, or, for a
// listed load balancer, whoever its PROXY header names. Others' PROXY headers are
// no commands of SMTP and refused as such.
func (c *client) identify(nc net.Conn, st *state) (net.Conn, error) {
	ap := addrPort(nc.RemoteAddr())
	c.socket, c.addr, c.port = ap.Addr(), ap.Addr(), ap.Port()
	if !holds(st.proxyFrom, c.socket) {
		return nc, nil
	}
	pc := proxyproto.NewConn(nc, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(proxyTimeout))
	header := pc.ProxyHeader() // reads it
	if header == nil {
		return nil, errors.New("no valid PROXY header from a load balancer in proxy_from")
	}
	if header.Version == 2 && header.Command.IsLocal() {
		return pc, nil // the balancer's own health check
	}
	// UNKNOWN of version 1 is no address either: the balancer's own must not lend its rights to whoever it is.
	c.socket, c.addr, c.port = netip.Addr{}, netip.Addr{}, 0
	if header.SourceAddr != nil && header.TransportProtocol.IsStream() {
		ap := addrPort(header.SourceAddr)
		c.socket, c.addr, c.port = ap.Addr(), ap.Addr(), ap.Port()
	}
	return pc, nil
}

// conn is a connection that knows its client.
type conn struct {
	net.Conn
	peer *peer
}

// RemoteAddr is the client's address.
func (c *conn) RemoteAddr() net.Addr { return c.peer }

// Raw is the connection below.
func (c *conn) Raw() net.Conn { return c.Conn }

// close stops accepting. Connections go on.
func (e *endpoint) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	if e.ln == nil {
		return nil
	}
	if err := e.ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close %s: %w", e.key, err)
	}
	return nil
}

// abandon closes connections that have not come to the dialogue yet.
func (e *endpoint) abandon() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for nc := range e.pending {
		_ = nc.Close()
	}
}

// newSession is called at the first EHLO of a connection and after STARTTLS.
func (s *Server) newSession(st *state, c smtp.Conn) *session {
	p, ok := c.RemoteAddr().(*peer)
	if !ok { // not from one of our listeners
		ap := addrPort(c.RemoteAddr())
		p = newPeer(&client{socket: ap.Addr(), addr: ap.Addr(), port: ap.Port()})
		c.SetRemote(p)
	}
	sess := &session{srv: s, state: st, conn: c, client: p.client}
	if state, ok := c.TLSConnectionState(); ok {
		sess.tls = describeTLS(state)
	}
	return sess
}

func (s *Server) onReply(verb string, code int) {
	if code >= 400 {
		s.metrics.replies.WithLabelValues(verb, fmt.Sprint(code)).Inc()
	}
}

func (s *Server) onClose(c smtp.Conn, sum smtp.Summary) {
	s.metrics.closed.WithLabelValues(sum.Reason).Inc()
	s.log.Debug("smtp connection closed", "conn", uint64(c.ID()), "peer", c.RemoteAddr(), "reason", sum.Reason,
		slog.Duration("took", sum.Duration), "messages", sum.Messages, "errors", sum.Errors, "bytes", sum.Bytes)
}
