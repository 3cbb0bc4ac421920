package smtpd

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	gosmtp "github.com/emersion/go-smtp"
)

// client is what is known of the other end of one connection. It outlives the
// session, which STARTTLS replaces.
type client struct {
	// socket is the address the connection comes from, or what the PROXY
	// header said: what may use XCLIENT is decided by it.
	socket netip.Addr
	addr   netip.Addr // the client's real address: socket, or what XCLIENT said. Invalid: not known
	port   uint16
	helo   bool // XCLIENT PROTO=SMTP: the client said HELO to the proxy

	// What the connection is counted under in the gate; nil gate: not counted.
	gate *gate
	held netip.Prefix
	slot bool
}

// count moves the connection to the account of its real address. It reports false when that has too many.
func (c *client) count(limit int) bool {
	if c.gate == nil {
		return true
	}
	key := clientKey(c.addr)
	if c.slot && c.held == key {
		return true
	}
	if c.addr.IsValid() && !c.gate.hold(key, limit) {
		return false
	}
	c.uncount()
	c.held, c.slot = key, c.addr.IsValid()
	return true
}

func (c *client) uncount() {
	if c.slot {
		c.gate.release(c.held)
		c.slot = false
	}
}

// peer is the net.Addr of a connection. It carries the client through the
// connection loop, from the listener to the session.
type peer struct {
	net.Addr
	client *client
}

func newPeer(c *client) *peer {
	if !c.addr.IsValid() {
		return &peer{Addr: unknownAddr{}, client: c}
	}
	return &peer{Addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.addr, c.port)), client: c}
}

type unknownAddr struct{}

func (unknownAddr) Network() string { return "tcp" }
func (unknownAddr) String() string  { return "unknown" }

// addrPort reads a net.Addr; the result is invalid for anything but IP and port.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// XClientAttributes are offered to listed proxies only.
func (s *session) XClientAttributes() []string {
	if !s.client.socket.IsValid() || !holds(s.state.xclientFrom, s.client.socket) {
		return nil
	}
	return []string{"NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT"}
}

func badAttribute(name string) error {
	return text(501, gosmtp.EnhancedCode{5, 5, 4}, "Bad value of attribute "+name)
}

func unavailable(v string) bool {
	return strings.EqualFold(v, "[UNAVAILABLE]") || strings.EqualFold(v, "[TEMPUNAVAIL]")
}

// XClient believes a listed proxy about its client. From here on the client's
// address counts everywhere: relay control, limits, logs, Received. NAME and DESTADDR are taken and not used.
func (s *session) XClient(attrs map[string]string) error {
	next := *s.client
	user := s.user
	for name, value := range attrs {
		switch name {
		case "ADDR":
			a, ok := parseXClientAddr(value)
			if !ok {
				return badAttribute(name)
			}
			next.addr, user = a, "" // another client: what the last one proved is void
		case "PORT":
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil && !unavailable(value) {
				return badAttribute(name)
			}
			next.port = uint16(n)
		case "PROTO":
			if !strings.EqualFold(value, "SMTP") && !strings.EqualFold(value, "ESMTP") && !unavailable(value) {
				return badAttribute(name)
			}
			next.helo = strings.EqualFold(value, "SMTP")
		}
	}
	if login, ok := attrs["LOGIN"]; ok {
		user = ""
		if !unavailable(login) {
			if _, known := s.srv.policy.Load().users[login]; !known {
				return errLogin()
			}
			user = login
		}
	}
	if s.srv.blocked(next.addr) {
		return errBlocked()
	}
	if !next.count(s.state.maxPerIP) {
		return text(421, gosmtp.EnhancedCode{4, 7, 0}, tooManyFromYou)
	}
	*s.client = next
	s.user = user
	s.conn.SetRemote(newPeer(s.client))
	return nil
}

// parseXClientAddr reads an address as Postfix writes it: IPv6 with a prefix.
func parseXClientAddr(v string) (netip.Addr, bool) {
	if unavailable(v) {
		return netip.Addr{}, true
	}
	if len(v) > 5 && strings.EqualFold(v[:5], "IPV6:") {
		v = v[5:]
	}
	a, err := netip.ParseAddr(v)
	return a.Unmap(), err == nil && a.Zone() == ""
}
