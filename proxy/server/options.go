package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// Options configure a proxy.
type Options struct {
	Name      string     `toml:"name" doc:"Name under which the nodes know this proxy, as in egress.proxies."`
	Zone      string     `toml:"zone" doc:"Zone it runs in."`
	Listeners []Listener `toml:"listeners" doc:"Addresses for the nodes, each for data and for grant links; none turns the proxy off."`
	Sources   []Source   `toml:"sources" doc:"Sending addresses of this host that this proxy owns."`

	RequireLease bool  `toml:"require_lease" doc:"Connect only with a permit of this proxy's own limits. Without it clients that know no permits, made for HAProxy, may connect too and no limit holds for them."`
	Ports        []int `toml:"ports" doc:"Ports that may be connected to; none means any."`

	ConnectTimeout units.Duration `toml:"connect_timeout" doc:"Longest time to connect to a provider, whatever the node asks for."`
	IdleTimeout    units.Duration `toml:"idle_timeout" doc:"Time without a byte in either direction after which a connection is cut."`
	CloseTimeout   units.Duration `toml:"close_timeout" doc:"How long one side may go on after the other has closed."`
	DrainTimeout   units.Duration `toml:"drain_timeout" doc:"How long sessions may go on after the proxy was told to end."`
	MaxConnections int            `toml:"max_connections" doc:"Most connections from nodes; further ones are closed at once."`
	StateFile      string         `toml:"state_file" doc:"File that keeps the counts of daily limits over a restart; empty keeps none."`
}

// Listener is one address to listen on.
type Listener struct {
	Address  string   `toml:"address" doc:"Address to listen on, host:port."`
	Networks []string `toml:"networks" doc:"Networks of the nodes; others are refused. Needed unless client_ca_file is set."`

	CertFile     string `toml:"cert_file" doc:"PEM file of the certificate chain; without it the listener is in clear."`
	KeyFile      string `toml:"key_file" doc:"PEM file of the certificate's private key."`
	ClientCAFile string `toml:"client_ca_file" doc:"PEM file of the authorities that nodes' certificates must come from (mutual TLS)."`
}

// Source is one sending address, or a pair of them.
type Source struct {
	Name  string `toml:"name" doc:"Name of the source, as in egress.sources."`
	Bind  string `toml:"bind" doc:"Local IPv4 address to connect from."`
	Bind6 string `toml:"bind6" doc:"Local IPv6 address to connect from."`
}

// DefaultOptions returns the defaults: no listener, permits needed.
func DefaultOptions() Options {
	return Options{
		RequireLease:   true,
		ConnectTimeout: units.Duration(30 * time.Second),
		IdleTimeout:    units.Duration(15 * time.Minute), // more than the 10 minutes of RFC 5321 §4.5.3.2.6
		CloseTimeout:   units.Duration(10 * time.Second),
		DrainTimeout:   units.Duration(time.Minute),
		MaxConnections: 20_000,
	}
}

// Validate returns an error that begins with the key it is about. Files are not read.
func (o Options) Validate() error {
	if len(o.Listeners) > 0 && o.Name == "" {
		return errors.New("name: is needed")
	}
	for _, v := range []struct {
		key string
		got int64
	}{
		{"connect_timeout", int64(o.ConnectTimeout)}, {"idle_timeout", int64(o.IdleTimeout)}, {"close_timeout", int64(o.CloseTimeout)},
		{"drain_timeout", int64(o.DrainTimeout)}, {"max_connections", int64(o.MaxConnections)},
	} {
		if v.got <= 0 {
			return fmt.Errorf("%s: must be more than 0", v.key)
		}
	}
	for i, p := range o.Ports {
		if p < 1 || p > 65535 {
			return fmt.Errorf("ports[%d]: must be 1 to 65535", i)
		}
	}
	for i, l := range o.Listeners {
		if err := l.validate(); err != nil {
			return fmt.Errorf("listeners[%d].%w", i, err)
		}
	}
	_, err := newSources(o.Sources)
	return err
}

func (l Listener) validate() error {
	if _, _, err := net.SplitHostPort(l.Address); err != nil {
		return fmt.Errorf("address: %q is not host:port", l.Address)
	}
	switch {
	case (l.CertFile == "") != (l.KeyFile == ""):
		return errors.New("cert_file: must be set together with key_file")
	case l.ClientCAFile != "" && l.CertFile == "":
		return errors.New("client_ca_file: needs cert_file")
	case l.ClientCAFile == "" && len(l.Networks) == 0:
		return errors.New("networks: are needed where nodes show no certificate: anybody could send through this proxy")
	}
	_, err := parseNetworks(l.Networks)
	return err
}

func parseNetworks(list []string) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			out[i] = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Addr().Is4In6() || p != p.Masked() {
			return nil, fmt.Errorf("networks[%d]: %q is not a network such as 10.0.0.0/8 or 2001:db8::/32", i, s)
		}
		out[i] = p
	}
	return out, nil
}

// sources are the addresses we own.
type sources struct {
	list []*source
	by   map[netip.Addr][]*source // several may share an address: they differ in their EHLO name
}

// source is one of our sources and what it did.
type source struct {
	name string
	v4   netip.Addr
	v6   netip.Addr
	counters
}

func newSources(list []Source) (*sources, error) {
	s := &sources{by: map[netip.Addr][]*source{}}
	seen := map[string]bool{}
	for i, c := range list {
		src := &source{name: c.Name}
		switch {
		case c.Name == "" || len(c.Name) > 255 || strings.ContainsAny(c.Name, " \t\r\n"):
			return nil, fmt.Errorf("sources[%d].name: must be 1 to 255 characters without spaces", i)
		case seen[c.Name]:
			return nil, fmt.Errorf("sources[%d].name: %s is listed twice", i, c.Name)
		case c.Bind == "" && c.Bind6 == "":
			return nil, fmt.Errorf("sources[%d].bind: is needed", i)
		}
		seen[c.Name] = true
		for _, f := range []struct {
			key, text string
			v6        bool
			to        *netip.Addr
		}{{"bind", c.Bind, false, &src.v4}, {"bind6", c.Bind6, true, &src.v6}} {
			if f.text == "" {
				continue
			}
			a, err := netip.ParseAddr(f.text)
			if err != nil || a.Is6() != f.v6 || a.Is4In6() || a.IsUnspecified() || a.Zone() != "" {
				return nil, fmt.Errorf("sources[%d].%s: %q is not an address of its family", i, f.key, f.text)
			}
			*f.to = a
			s.by[a] = append(s.by[a], src)
		}
		s.list = append(s.list, src)
	}
	return s, nil
}

// keep takes over the sources that are the same in old, for their counters.
func (s *sources) keep(old *sources) {
	if old == nil {
		return
	}
	for i, src := range s.list {
		for _, o := range old.list {
			if o.name != src.name || o.v4 != src.v4 || o.v6 != src.v6 {
				continue
			}
			s.list[i] = o
			for _, same := range s.by {
				for j := range same {
					if same[j] == src {
						same[j] = o
					}
				}
			}
		}
	}
}

// find returns the source of an address; name tells between several, "" takes the first. Nil: it is not ours.
func (s *sources) find(a netip.Addr, name string) *source {
	for _, src := range s.by[a] {
		if name == "" || name == src.name {
			return src
		}
	}
	return nil
}
