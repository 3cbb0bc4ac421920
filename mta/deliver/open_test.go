package deliver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

func hosts(names ...string) mail.Route {
	r := route
	r.Hosts = nil
	for i, n := range names {
		r.Hosts = append(r.Hosts, mail.Host{Name: n, Preference: uint16(i)})
	}
	return r
}

var ips = addresses{
	"a.example": {"192.0.2.1"}, "b.example": {"192.0.2.2"}, "c.example": {"192.0.2.3"},
	"dead.example": {"192.0.2.99"}, "none.example": {}, "temp.example": {"fail"}, "us.example": {"192.0.2.50"}, "zero.example": {"0.0.0.0"},
	"two.example": {"192.0.2.99", "192.0.2.1"},
}

func TestOpen(t *testing.T) {
	banner := func(s string) *peer { return &peer{replies: map[string]string{"banner": s}} }
	for name, c := range map[string]struct {
		hosts []string
		peers map[string]*peer // by last octet
		edit  func(*Options)
		want  string // host of the session, or the outcome
	}{
		"first":                       {[]string{"a.example", "b.example"}, map[string]*peer{"1": {}, "2": {}}, nil, "a.example"},
		"next after 4xx banner":       {[]string{"a.example", "b.example"}, map[string]*peer{"1": banner("421 busy"), "2": {}}, nil, "b.example"},
		"next after 5xx banner":       {[]string{"a.example", "b.example"}, map[string]*peer{"1": banner("554 5.7.1 blocked"), "2": {}}, nil, "b.example"},
		"next after drop":             {[]string{"a.example", "b.example"}, map[string]*peer{"1": banner(drop), "2": {}}, nil, "b.example"},
		"next after silence":          {[]string{"a.example", "b.example"}, map[string]*peer{"1": banner(hang), "2": {}}, nil, "b.example"},
		"next after garbage":          {[]string{"a.example", "b.example"}, map[string]*peer{"1": banner("SSH-2.0"), "2": {}}, nil, "b.example"},
		"next after refused":          {[]string{"dead.example", "b.example"}, map[string]*peer{"2": {}}, nil, "b.example"},
		"next after no address":       {[]string{"none.example", "gone.example", "b.example"}, map[string]*peer{"2": {}}, nil, "b.example"},
		"next address":                {[]string{"two.example"}, map[string]*peer{"1": {}}, nil, "two.example"},
		"address as host":             {[]string{"192.0.2.1"}, map[string]*peer{"1": {}}, nil, "192.0.2.1"},
		"helo":                        {[]string{"a.example"}, map[string]*peer{"1": {replies: map[string]string{"EHLO": "502 5.5.1 what"}}}, nil, "a.example"},
		"helo refused":                {[]string{"a.example"}, map[string]*peer{"1": {replies: map[string]string{"EHLO": "502 what", "HELO": "550 go away"}}}, nil, "deferred smtp 550 HELO a.example"},
		"ehlo 4xx":                    {[]string{"a.example"}, map[string]*peer{"1": {replies: map[string]string{"EHLO": "450 busy"}}}, nil, "deferred smtp 450 EHLO a.example"},
		"4xx everywhere":              {[]string{"a.example", "b.example"}, map[string]*peer{"1": banner("421 4.3.2 one"), "2": banner("450 two")}, nil, "deferred smtp 421 banner a.example"},
		"5xx everywhere":              {[]string{"a.example"}, map[string]*peer{"1": banner("554 5.7.1 blocked")}, nil, "deferred smtp 554 banner a.example"},
		"5xx everywhere, bounce":      {[]string{"a.example", "b.example"}, map[string]*peer{"1": banner("554 5.7.1 blocked"), "2": banner("550 no")}, func(o *Options) { o.Greeting5xx = Bounce }, "bounced smtp 554 banner a.example"},
		"5xx and dead, bounce":        {[]string{"a.example", "dead.example"}, map[string]*peer{"1": banner("554 5.7.1 blocked")}, func(o *Options) { o.Greeting5xx = Bounce }, "deferred connect 451 connect dead.example"},
		"no mail here":                {[]string{"a.example"}, map[string]*peer{"1": banner("521 no mail")}, nil, "bounced smtp 521 banner a.example"},
		"all refused":                 {[]string{"dead.example"}, nil, nil, "deferred connect 451 connect dead.example"},
		"no address at all":           {[]string{"none.example", "gone.example"}, nil, nil, "bounced dns 550 connect none.example"},
		"no address, one unknown":     {[]string{"gone.example", "temp.example"}, nil, nil, "deferred dns 451 connect temp.example"},
		"ourselves":                   {[]string{"us.example"}, map[string]*peer{"50": {}}, nil, "bounced policy 554 connect us.example"},
		"ourselves skipped":           {[]string{"us.example", "b.example"}, map[string]*peer{"50": {}, "2": {}}, nil, "b.example"},
		"unspecified address":         {[]string{"zero.example"}, map[string]*peer{"": {}}, nil, "bounced dns 550 connect zero.example"},
		"hosts bounded":               {[]string{"dead.example", "a.example", "b.example"}, map[string]*peer{"1": banner("450 x"), "2": {}}, func(o *Options) { o.MaxHosts = 2 }, "deferred smtp 450 banner a.example"},
		"addresses bounded":           {[]string{"two.example", "b.example"}, map[string]*peer{"1": banner("450 x"), "2": {}}, func(o *Options) { o.MaxAddresses = 2 }, "deferred smtp 450 banner two.example"},
		"no hosts":                    {nil, nil, nil, "deferred connect 451  "},
		"a reply outweighs a connect": {[]string{"dead.example", "a.example"}, map[string]*peer{"1": banner("450 x")}, nil, "deferred smtp 450 banner a.example"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &pipes{peers: map[string]*peer{}}
				for octet, p := range c.peers {
					if octet != "" {
						octet = "192.0.2." + octet
					}
					n.peers[octet] = p
				}
				d := deliverer(t, n, func(o *Options, d *Deps) {
					d.Resolver = ips
					d.Own = func(a netip.AddrPort) bool { return a.String() == "192.0.2.50:25" }
					if c.edit != nil {
						c.edit(o)
					}
				})
				s, err := d.Open(t.Context(), hosts(c.hosts...), nil)
				got := ""
				if err != nil {
					var oe *mail.OutcomeError
					if !errors.As(err, &oe) {
						t.Fatalf("%T", err)
					}
					got = brief(oe.Outcome) + " " + oe.Outcome.Host
				} else {
					got = s.host
					if out := s.Deliver(t.Context(), to("x@x.example"), nil); out[0].Kind != mail.Delivered {
						t.Error(brief(out[0]))
					}
					s.Close()
				}
				n.running.Wait()
				if got != c.want {
					t.Errorf("got %s, want %s", got, c.want)
				}
			})
		})
	}
}

func TestPortOfHost(t *testing.T) {
	var dialled []string
	d := deliverer(t, dialFunc(func(_ context.Context, a netip.AddrPort) (net.Conn, error) {
		dialled = append(dialled, a.String())
		return nil, syscall.ECONNREFUSED
	}), func(_ *Options, d *Deps) { d.Resolver = ips })
	r := hosts("a.example", "b.example")
	r.Port = 2525
	r.Hosts[1].Port = 26
	_, _ = d.Open(context.Background(), r, nil)
	if got := strings.Join(dialled, " "); got != "192.0.2.1:2525 192.0.2.2:26" {
		t.Error(got)
	}
}

func TestEqualPreferencesAreShuffled(t *testing.T) {
	d := deliverer(t, &pipes{}, func(_ *Options, d *Deps) {
		d.Shuffle = func(n int, swap func(i, j int)) { swap(0, n-1) }
	})
	r := hosts("a", "b", "c", "d")
	r.Hosts[1].Preference, r.Hosts[2].Preference, r.Hosts[3].Preference = 5, 5, 5
	op := &opening{d: d}
	var got []string
	for _, h := range op.order(r.Hosts) {
		got = append(got, h.Name)
	}
	if !slices.Equal(got, []string{"a", "d", "c", "b"}) || r.Hosts[1].Name != "b" {
		t.Errorf("%v, the route's own %v", got, r.Hosts)
	}
}

// network is a Dialer whose addresses answer after a time, or not.
type network struct {
	mu      sync.Mutex
	dialled []string
	delay   map[string]time.Duration // 0: never; missing: refused at once
	open    int
	errs    map[string]error
	running sync.WaitGroup
}

type counted struct {
	net.Conn
	n    *network
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.n.mu.Lock(); c.n.open--; c.n.mu.Unlock() })
	return c.Conn.Close()
}

func (n *network) Dial(ctx context.Context, _ mail.Route, a netip.AddrPort) (net.Conn, error) {
	ip := a.Addr().String()
	n.mu.Lock()
	n.dialled = append(n.dialled, ip)
	delay, ok := n.delay[ip]
	err := n.errs[ip]
	n.mu.Unlock()
	if err != nil {
		return nil, &net.OpError{Op: "dial", Err: err}
	}
	if !ok {
		return nil, syscall.ECONNREFUSED
	}
	if delay == 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	// A slow network answers even after the caller gave up: such a connection must not leak.
	time.Sleep(delay)
	ours, theirs := net.Pipe()
	n.mu.Lock()
	n.open++
	n.mu.Unlock()
	n.running.Go(func() { (&peer{}).serve(theirs) })
	return &counted{Conn: ours, n: n}, nil
}

func TestHappyEyeballs(t *testing.T) {
	const ms = time.Millisecond
	v6a, v6b, v4a, v4b := "2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"
	for name, c := range map[string]struct {
		delay map[string]time.Duration
		want  string
		after time.Duration
		tried int
	}{
		"first answers":           {map[string]time.Duration{v6a: 50 * ms, v4a: 1 * ms}, v6a, 50 * ms, 1},
		"first slow, second wins": {map[string]time.Duration{v6a: 1000 * ms, v4a: 10 * ms}, v4a, 1000 * ms, 2}, // waits for the loser to close it
		"first silent":            {map[string]time.Duration{v6a: 0, v4a: 10 * ms}, v4a, 260 * ms, 2},
		"first refuses":           {map[string]time.Duration{v4a: 10 * ms}, v4a, 10 * ms, 2},
		"three refuse":            {map[string]time.Duration{v4b: 10 * ms}, v4b, 10 * ms, 4},
		"all silent but the last": {map[string]time.Duration{v6a: 0, v4a: 0, v6b: 0, v4b: 10 * ms}, v4b, 760 * ms, 4},
		"all silent":              {map[string]time.Duration{v6a: 0, v4a: 0, v6b: 0, v4b: 0}, "", 30*time.Second + 750*ms, 4},
		"all refuse":              {nil, "", 0, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{delay: c.delay}
				d := deliverer(t, n, func(_ *Options, d *Deps) { d.Resolver = addresses{"mx.example": {v6a, v6b, v4a, v4b}} })
				started := time.Now()
				s, err := d.Open(t.Context(), route, nil)
				if took := time.Since(started); took != c.after {
					t.Errorf("took %v", took)
				}
				if got := len(n.dialled); got != c.tried {
					t.Errorf("dialled %v", n.dialled)
				}
				if err != nil {
					if c.want != "" {
						t.Error(err)
					}
					return
				}
				if host, _, _ := net.SplitHostPort(s.address); host != c.want {
					t.Errorf("got %s", s.address)
				}
				s.Close()
				n.running.Wait()
				if n.open != 0 {
					t.Errorf("%d connections left open", n.open)
				}
			})
		})
	}
}

func TestNoIPv6RouteIsRemembered(t *testing.T) {
	for _, errno := range []error{syscall.ENETUNREACH, syscall.EADDRNOTAVAIL} {
		synctest.Test(t, func(t *testing.T) {
			n := &network{delay: map[string]time.Duration{"192.0.2.1": time.Millisecond, "::1": time.Millisecond}, errs: map[string]error{"2001:db8::1": errno}}
			d := deliverer(t, n, func(_ *Options, d *Deps) {
				d.Resolver = addresses{"mx.example": {"2001:db8::1", "192.0.2.1"}, "six.example": {"2001:db8::1"}, "local.example": {"::1"}}
			})
			tried := func(r mail.Route) string {
				n.dialled = nil
				if s, err := d.Open(t.Context(), r, nil); err == nil {
					s.Close()
				}
				n.running.Wait()
				return fmt.Sprint(n.dialled)
			}
			for i, want := range []string{"[2001:db8::1 192.0.2.1]", "[192.0.2.1]"} {
				if got := tried(route); got != want {
					t.Errorf("%d: dialled %s", i, got)
				}
			}
			if got := tried(hosts("six.example")); got != "[]" {
				t.Errorf("dialled %s", got)
			}
			if got := tried(hosts("local.example")); got != "[::1]" {
				t.Errorf("dialled %s", got)
			}
			other := route
			other.Source = "another"
			if got := tried(other); got != "[2001:db8::1 192.0.2.1]" {
				t.Errorf("another source: dialled %s", got)
			}
			time.Sleep(unreachableFor)
			if got := tried(route); got != "[2001:db8::1 192.0.2.1]" {
				t.Errorf("later: dialled %s", got)
			}
		})
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n := &pipes{peers: map[string]*peer{"": {replies: map[string]string{"banner": hang}}}}
		started := time.Now()
		_, err := deliverer(t, n, nil).Open(ctx, route, nil)
		if took := time.Since(started); took != time.Second || err == nil || !strings.Contains(err.Error(), "interrupted") {
			t.Errorf("%v, %v", took, err)
		}
		n.running.Wait()
	})
}
