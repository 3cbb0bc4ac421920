package deliver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Direct dials from this machine.
type Direct struct {
	ipv4, ipv6 netip.Addr // local addresses; invalid means the system's choice
}

// NewDirect returns a dialer that connects from o.LocalIPv4 and o.LocalIPv6.
func NewDirect(o Options) (*Direct, error) {
	v4, err := localAddress("local_ipv4", o.LocalIPv4, false)
	if err != nil {
		return nil, err
	}
	v6, err := localAddress("local_ipv6", o.LocalIPv6, true)
	if err != nil {
		return nil, err
	}
	return &Direct{ipv4: v4, ipv6: v6}, nil
}

// Dial implements Dialer.
func (d *Direct) Dial(ctx context.Context, _ mail.Route, addr netip.AddrPort) (net.Conn, error) {
	var dialer net.Dialer
	local := d.ipv4
	if addr.Addr().Unmap().Is6() {
		local = d.ipv6
	}
	if local.IsValid() {
		dialer.LocalAddr = &net.TCPAddr{IP: local.AsSlice(), Zone: local.Zone()}
	}
	return dialer.DialContext(ctx, "tcp", addr.String())
}

// unreachable remembers from which sources IPv6 leads nowhere, so that a
// machine without it does not try, and log, at every session.
type unreachable struct {
	mu    sync.Mutex
	until map[string]time.Time // by source
}

// unreachableFor is how long it is believed: routes come and go.
const unreachableFor = 10 * time.Minute

func (u *unreachable) is(source string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now.Before(u.until[source])
}

func (u *unreachable) mark(source string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until == nil {
		u.until = make(map[string]time.Time)
	}
	u.until[source] = now.Add(unreachableFor)
}

// noIPv6 reports whether err says that this machine, or source, has no IPv6.
func noIPv6(addr netip.Addr, err error) bool {
	return viaIPv6Route(addr) && (errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL) ||
		errors.Is(err, syscall.EAFNOSUPPORT))
}

// viaIPv6Route reports whether addr needs an IPv6 route: ::1 works without.
func viaIPv6Route(addr netip.Addr) bool {
	return addr.Is6() && !addr.Is4In6() && !addr.IsLoopback() && !addr.IsLinkLocalUnicast()
}

// interleave orders addresses so that families alternate, the first one's first (RFC 8305 §4).
func interleave(ips []netip.Addr) []netip.Addr {
	if len(ips) < 3 {
		return ips
	}
	var families [2][]netip.Addr
	for _, ip := range ips {
		f := 0
		if ip.Is4() != ips[0].Is4() {
			f = 1
		}
		families[f] = append(families[f], ip)
	}
	out := make([]netip.Addr, 0, len(ips))
	for i := range len(ips) {
		for _, f := range families {
			if i < len(f) {
				out = append(out, f[i])
			}
		}
	}
	return out
}

// dialled is the result of one dial.
type dialled struct {
	conn net.Conn
	addr netip.AddrPort
	err  error
}

// dial connects to one address within the time limit.
func (op *opening) dial(ctx context.Context, addr netip.AddrPort) dialled {
	ctx, cancel := context.WithTimeout(ctx, op.o.ConnectTimeout.D())
	defer cancel()
	conn, err := op.dialer.Dial(ctx, op.route, addr)
	if err != nil && ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("no answer within %v", op.o.ConnectTimeout)
	}
	return dialled{conn: conn, addr: addr, err: err}
}

// race connects to the first address that answers. A next address is tried
// when one fails, or beside it when it stays silent for FallbackDelay (RFC
// 8305 §5). It returns the addresses it did not get to. failed is told each failure.
func (op *opening) race(ctx context.Context, addrs []netip.AddrPort, failed func(dialled)) (won dialled, rest []netip.AddrPort) {
	if len(addrs) == 1 || op.serial {
		return op.inTurn(ctx, addrs, failed)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan dialled, len(addrs))
	timer := time.NewTimer(0) // the first starts at once
	defer timer.Stop()
	var running sync.WaitGroup
	pending := 0
	for next := 0; ; {
		select {
		case <-timer.C:
			if next == len(addrs) {
				continue
			}
			addr := addrs[next]
			next++
			pending++
			running.Go(func() { results <- op.dial(ctx, addr) })
			timer.Reset(op.o.FallbackDelay.D())
			continue
		case r := <-results:
			pending--
			if r.err == nil {
				cancel()
				closeLosers(&running, results)
				return r, addrs[next:]
			}
			failed(r)
			won = r
		}
		if pending == 0 && (next == len(addrs) || ctx.Err() != nil) {
			return won, nil
		}
		timer.Reset(0) // after a failure the next need not wait
	}
}

// inTurn connects to the first address that answers, one after the other.
func (op *opening) inTurn(ctx context.Context, addrs []netip.AddrPort, failed func(dialled)) (won dialled, rest []netip.AddrPort) {
	for i, addr := range addrs {
		won = op.dial(ctx, addr)
		if won.err == nil {
			return won, addrs[i+1:]
		}
		failed(won)
		if op.notTried != nil || ctx.Err() != nil {
			break
		}
	}
	return won, nil
}

// closeLosers waits for the dials that lost, which a cancelled context ends, and closes what they made.
func closeLosers(running *sync.WaitGroup, results chan dialled) {
	running.Wait()
	close(results)
	for r := range results {
		if r.conn != nil {
			_ = r.conn.Close()
		}
	}
}
