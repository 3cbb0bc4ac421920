package deliver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/dns"
)

// opening is one call of Open.
type opening struct {
	d        *Deliverer
	o        *Options
	dialer   Dialer
	serial   bool // one connection at a time
	route    mail.Route
	id       mail.ID
	started  time.Time
	left     int           // addresses that may still be tried
	best     *mail.Outcome // the most telling failure so far
	notTried error         // the way there failed, not the provider
}

// run tries the hosts in order; nil when none carried a session.
func (op *opening) run(ctx context.Context) *Session {
	hosts := op.order(op.route.Hosts)
	for i, h := range hosts {
		if i == op.o.MaxHosts || op.left <= 0 || op.notTried != nil || ctx.Err() != nil {
			break
		}
		if s := op.host(ctx, h); s != nil {
			return s
		}
	}
	return nil
}

// order shuffles hosts of equal preference (RFC 5321 §5.1). The route's own slice is shared and stays as it is.
func (op *opening) order(hosts []mail.Host) []mail.Host {
	if len(hosts) < 2 {
		return hosts
	}
	hosts = append([]mail.Host(nil), hosts...)
	for from := 0; from < len(hosts); {
		to := from + 1
		for to < len(hosts) && hosts[to].Preference == hosts[from].Preference {
			to++
		}
		if equal := hosts[from:to]; len(equal) > 1 {
			op.d.d.Shuffle(len(equal), func(i, j int) { equal[i], equal[j] = equal[j], equal[i] })
		}
		from = to
	}
	return hosts
}

// host tries one host: its addresses until one greets us, or answers that it will not.
func (op *opening) host(ctx context.Context, h mail.Host) *Session {
	addrs := op.addresses(ctx, h)
	for len(addrs) > 0 && op.notTried == nil && ctx.Err() == nil {
		won, rest := op.race(ctx, addrs, func(f dialled) { op.connectFailed(h, f) })
		if won.err != nil {
			return nil
		}
		s, out := op.greet(ctx, h, won.conn, won.addr, op.route.TLS)
		if s == nil && out == nil { // opportunistic TLS broke: the same once more in clear
			op.d.m.tlsBroken.Inc()
			if again := op.dial(ctx, won.addr); again.err != nil {
				op.connectFailed(h, again)
			} else {
				s, out = op.greet(ctx, h, again.conn, won.addr, mail.TLSNone)
			}
		}
		if s != nil {
			return s
		}
		if out != nil {
			op.note(h, won.addr, *out)
			if out.Class == mail.ClassSMTP {
				return nil // the host spoke: its other addresses will say the same
			}
		}
		addrs = rest
	}
	return nil
}

// addresses are those of h to try, or none after a note of why.
func (op *opening) addresses(ctx context.Context, h mail.Host) []netip.AddrPort {
	port := h.Port
	if port == 0 {
		port = op.route.Port
	}
	ips, err := op.lookup(ctx, h.Name)
	if err != nil {
		op.note(h, netip.AddrPort{}, noAddress(h.Name, err))
		return nil
	}
	noV6 := op.d.ipv6.is(op.route.Source, time.Now())
	var out []netip.AddrPort
	loop, skipped := false, false
	for _, ip := range interleave(ips) {
		addr := netip.AddrPortFrom(ip.Unmap(), port)
		switch {
		case ip.IsUnspecified() || ip.IsMulticast():
		case op.d.d.Own != nil && op.d.d.Own(addr):
			loop = true
		case noV6 && viaIPv6Route(ip):
			skipped = true
		default:
			out = append(out, addr)
		}
	}
	switch {
	case len(out) > 0:
		out = out[:min(len(out), op.left)]
	case loop:
		op.note(h, netip.AddrPort{}, local(mail.Bounced, mail.ClassPolicy, 554, "5.4.6", "mail exchanger "+h.Name+" is ourselves", nil))
	case skipped:
		op.note(h, netip.AddrPort{}, local(mail.Deferred, mail.ClassConnect, 451, "4.4.1", h.Name+" has only IPv6 addresses and there is no IPv6 route", nil))
	default:
		op.note(h, netip.AddrPort{}, local(mail.Bounced, mail.ClassDNS, 550, "5.4.4", h.Name+" has no usable address", nil))
	}
	return out
}

func (op *opening) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	a, err := op.d.d.Resolver.Addresses(ctx, host)
	return a.IPs, err
}

func noAddress(host string, err error) mail.Outcome {
	if errors.Is(err, dns.ErrNotFound) || errors.Is(err, dns.ErrNoData) {
		return local(mail.Bounced, mail.ClassDNS, 550, "5.4.4", "mail exchanger "+host+" has no address", err)
	}
	return local(mail.Deferred, mail.ClassDNS, 451, "4.4.3", "DNS gave no answer for "+host, err)
}

func (op *opening) connectFailed(h mail.Host, f dialled) {
	if errors.Is(f.err, mail.ErrNotTried) {
		op.notTried = f.err
		return
	}
	op.left--
	if noIPv6(f.addr.Addr(), f.err) {
		op.d.ipv6.mark(op.route.Source, time.Now())
	}
	op.note(h, f.addr, local(mail.Deferred, mail.ClassConnect, 451, "4.4.1",
		fmt.Sprintf("connect to %s[%s]: %s", h.Name, f.addr, cause(f.err)), f.err))
}

// cause is the part of a network error that says what happened.
func cause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return err.Error()
}

// note keeps out if it tells more than what is known.
func (op *opening) note(h mail.Host, addr netip.AddrPort, out mail.Outcome) {
	if op.best != nil && rank(*op.best) >= rank(out) {
		return
	}
	if out.Command == "" {
		out.Command = "connect"
	}
	out.Host = h.Name
	if addr.IsValid() {
		out.Address = addr.String()
	}
	op.best = &out
}

// rank orders failures of Open. One that may pass outweighs one that will not:
// while a host may still take the mail it must not bounce. Among those, what a peer said tells most.
func rank(o mail.Outcome) int {
	n := 0
	if o.Kind == mail.Deferred {
		n = 10
	}
	switch o.Class {
	case mail.ClassSMTP:
		return n + 4
	case mail.ClassTLS:
		return n + 3
	case mail.ClassConnect:
		return n + 2
	case mail.ClassDNS:
		return n + 1
	}
	return n
}

// failure is the error of Open.
func (op *opening) failure(ctx context.Context) *mail.OutcomeError {
	out := local(mail.Deferred, mail.ClassConnect, 451, "4.4.1", "no mail exchanger to try", nil)
	if op.best != nil {
		out = *op.best
	}
	if ctx.Err() != nil {
		out = local(mail.Deferred, mail.ClassConnect, 451, "4.4.1", "interrupted while connecting", context.Cause(ctx))
	}
	out.Session, out.Started, out.Took = op.id, op.started, time.Since(op.started)
	return &mail.OutcomeError{Outcome: out}
}

// local makes an outcome that we decide, not the peer.
func local(kind mail.OutcomeKind, class string, code int, enhanced, text string, err error) mail.Outcome {
	o := mail.Outcome{Kind: kind, Class: class, Reply: mail.Reply{Code: code, Enhanced: enhanced, Text: text}}
	if err != nil {
		o.Error = err.Error()
	}
	return o
}
