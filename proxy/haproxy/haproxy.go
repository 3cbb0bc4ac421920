// Package haproxy writes a configuration with which a stock HAProxy is a proxy
// for our sources. It needs no privileges.
//
// A node begins each connection with a PROXY v2 header: its source is the
// sending address, its destination the mail exchanger. The configuration takes
// the sending address for what it is by one server per source, that only a
// "use-server" rule chooses (weight 0 keeps it out of the rotation), and
// whose address 0.0.0.0:0 stands for the destination in the header. "source" with a
// client's address (usesrc) would be shorter, but needs CAP_NET_ADMIN and binds the header's port too.
//
// What HAProxy cannot do: tell why a connect failed. The node sees an end before the banner.
package haproxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/proxy"
)

// Options say what the configuration is for.
type Options struct {
	Listen         string         // host:port
	Networks       []string       // the nodes'
	Sources        []proxy.Source // with bind, bind6 or both
	MaxConnections int
	ConnectTimeout units.Duration
	IdleTimeout    units.Duration
}

// FromEgress returns the options for one proxy of kind haproxy. Networks are left to the caller.
func FromEgress(o proxy.Options, name string) (Options, error) {
	out := Options{MaxConnections: 10_000, ConnectTimeout: units.Duration(30 * time.Second), IdleTimeout: units.Duration(15 * time.Minute)}
	for _, p := range o.Proxies {
		if p.Name == name && p.Kind == proxy.KindHAProxy {
			out.Listen = p.Address
		}
	}
	if out.Listen == "" {
		return Options{}, fmt.Errorf("egress.proxies: there is no proxy %q of kind haproxy", name)
	}
	for _, s := range o.Sources {
		if s.Proxy == name {
			out.Sources = append(out.Sources, s)
		}
	}
	if len(out.Sources) == 0 {
		return Options{}, fmt.Errorf("egress.sources: none has the proxy %s", name)
	}
	return out, nil
}

// Write writes the configuration.
func Write(w io.Writer, o Options) error {
	servers, err := serversOf(o.Sources)
	if err != nil {
		return err
	}
	networks, err := o.check()
	if err != nil {
		return err
	}
	var addresses []string
	for _, s := range servers {
		addresses = append(addresses, s.address.String())
	}
	var b strings.Builder
	ms := func(d units.Duration) string { return fmt.Sprintf("%dms", d.D().Milliseconds()) }
	fmt.Fprintf(&b, `# Written by godwit proxy haproxy-config. Tried with HAProxy 2.6; needs no privileges.
# The sending addresses must be addresses of this host.
global
    maxconn %d
    # Where the system allows fewer descriptors: start all the same, with fewer connections.
    no strict-limits
    log stdout format raw local0 notice

defaults
    mode tcp
    log global
    # Probes connect and send nothing.
    option dontlognull
    # Another try would be another connection, which nobody counts.
    retries 0
    timeout connect %s
    # More than a provider may take for the end of a message.
    timeout client %s
    timeout server %s

frontend nodes
    bind %s accept-proxy
    # Before the PROXY header src is who connects: only nodes may.
    tcp-request connection reject unless { src %s }
    # After it src is the sending address: only ours may be asked for.
    tcp-request session reject unless { src %s }
    default_backend sources

backend sources
`, o.MaxConnections, ms(o.ConnectTimeout), ms(o.IdleTimeout), ms(o.IdleTimeout), o.Listen, strings.Join(networks, " "), strings.Join(addresses, " "))
	for _, s := range servers {
		fmt.Fprintf(&b, "    use-server %s if { src %s }\n", s.name, s.address)
	}
	b.WriteString("    # 0.0.0.0:0 is the destination that the header names; weight 0 leaves the choice to use-server.\n")
	for _, s := range servers {
		fmt.Fprintf(&b, "    server %s 0.0.0.0:0 source %s weight 0\n", s.name, s.local())
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// check looks at all but the sources and returns the networks as HAProxy takes them.
func (o *Options) check() ([]string, error) {
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		return nil, fmt.Errorf("listen: %q is not host:port", o.Listen)
	}
	if o.MaxConnections <= 0 || o.ConnectTimeout <= 0 || o.IdleTimeout <= 0 {
		return nil, errors.New("limits and timeouts must be more than 0")
	}
	if len(o.Networks) == 0 {
		return nil, errors.New("networks: are needed, or anybody could send through the proxy")
	}
	var out []string
	for _, n := range o.Networks {
		if a, err := netip.ParseAddr(n); err == nil && a.Zone() == "" {
			out = append(out, a.String())
			continue
		}
		p, err := netip.ParsePrefix(n)
		if err != nil {
			return nil, fmt.Errorf("networks: %q is not a network such as 10.0.0.0/8", n)
		}
		out = append(out, p.String())
	}
	return out, nil
}

// server is one sending address. Sources may share one: they differ in their EHLO name.
type server struct {
	name    string
	address netip.Addr
}

// local is the address as the source keyword takes it.
func (s server) local() string {
	if s.address.Is6() {
		return "[" + s.address.String() + "]"
	}
	return s.address.String()
}

func serversOf(sources []proxy.Source) ([]server, error) {
	var list []server
	taken := map[netip.Addr]bool{}
	names := map[string]bool{}
	for _, s := range sources {
		v4, v6 := s.Addresses()
		if !v4.IsValid() && !v6.IsValid() {
			return nil, fmt.Errorf("source %s: has no address", s.Name)
		}
		for _, a := range []netip.Addr{v4, v6} {
			if !a.IsValid() || taken[a] {
				continue
			}
			name := plain(s.Name)
			if a.Is6() {
				name += "-6"
			}
			if names[name] {
				name = fmt.Sprintf("%s.%d", name, len(list))
			}
			taken[a], names[name] = true, true
			list = append(list, server{name, a})
		}
	}
	return list, nil
}

// plain leaves what HAProxy takes in a name.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.', r == ':':
			return r
		}
		return '_'
	}, s)
}
