package route

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/dns"
)

// table is the options made ready for use, with the routes found under them.
type table struct {
	o         Options
	resolver  Resolver
	statics   matcher[*static]
	modes     matcher[mail.TLSMode]
	mode      mail.TLSMode
	providers []provider
	apart     func(domain string) bool
	names     map[string]bool // ours, lower case
	own       ownAddresses
	cache     *cache
}

// provider is a Provider made ready.
type provider struct {
	Provider
	mode  mail.TLSMode
	fixed bool
}

// static is a Static made ready.
type static struct {
	hosts []mail.Host
	mode  mail.TLSMode
	fixed bool // mode is this route's own
}

func newTable(o Options, d Deps) (*table, error) {
	if err := o.validateNumbers(); err != nil {
		return nil, err
	}
	t := &table{o: o, resolver: d.Resolver, names: make(map[string]bool), cache: newCache(o.CacheEntries), apart: d.Apart}
	var err error
	if t.mode, err = tlsMode(o.TLS); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	for domain, name := range o.TLSDomains {
		mode, err := tlsMode(name)
		if err == nil {
			err = t.modes.add(domain, mode)
		}
		if err != nil {
			return nil, fmt.Errorf("tls_domains: %w", err)
		}
	}
	for i, s := range o.Routes {
		if err := t.addStatic(s); err != nil {
			return nil, fmt.Errorf("routes[%d].%w", i, err)
		}
	}
	for i, p := range o.Providers {
		if err := t.addProvider(p); err != nil {
			return nil, fmt.Errorf("providers[%d].%w", i, err)
		}
	}
	return t, t.addOwn(d)
}

func (t *table) addStatic(s Static) error {
	if len(s.Hosts) == 0 {
		return fmt.Errorf("hosts: must name at least one host")
	}
	st := &static{}
	for i, h := range s.Hosts {
		name, port, err := hostPort(h)
		if err != nil {
			return fmt.Errorf("hosts: %w", err)
		}
		st.hosts = append(st.hosts, mail.Host{Name: name, Preference: uint16(i), Port: port})
	}
	if s.TLS != "" {
		mode, err := tlsMode(s.TLS)
		if err != nil {
			return fmt.Errorf("tls: %w", err)
		}
		st.mode, st.fixed = mode, true
	}
	if err := t.statics.add(s.Domain, st); err != nil {
		return fmt.Errorf("domain: %w", err)
	}
	return nil
}

func (t *table) addProvider(p Provider) error {
	if p.Name == "" {
		return fmt.Errorf("name: must not be empty")
	}
	if len(p.MXSuffix) == 0 {
		return fmt.Errorf("mx_suffix: must hold at least one suffix")
	}
	ready := provider{Provider: Provider{Name: p.Name}}
	if p.TLS != "" {
		mode, err := tlsMode(p.TLS)
		if err != nil {
			return fmt.Errorf("tls: %w", err)
		}
		ready.mode, ready.fixed = mode, true
	}
	for _, s := range p.MXSuffix {
		suffix, err := pattern("." + strings.TrimPrefix(s, "."))
		if err != nil {
			return fmt.Errorf("mx_suffix: %w", err)
		}
		ready.MXSuffix = append(ready.MXSuffix, suffix)
	}
	t.providers = append(t.providers, ready)
	return nil
}

func (t *table) addOwn(d Deps) error {
	for _, n := range append([]string{d.Hostname}, t.o.OwnNames...) {
		ascii, err := dns.ASCII(n)
		if err != nil {
			return fmt.Errorf("own_names: %q is not a domain: %w", n, err)
		}
		if ascii != "" {
			t.names[ascii] = true
		}
	}
	for _, s := range t.o.OwnAddresses {
		if ip, err := netip.ParseAddr(s); err == nil {
			t.own.add(netip.AddrPortFrom(ip, 0))
			continue
		}
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return fmt.Errorf("own_addresses: %q is not ip or ip:port", s)
		}
		t.own.add(ap)
	}
	for _, l := range d.Listeners {
		t.own.add(l)
	}
	return nil
}

// ownAddresses is a set of ip:port; port 0 stands for all ports.
type ownAddresses map[netip.AddrPort]bool

// add takes one address; the unspecified one means all of this machine.
func (o *ownAddresses) add(ap netip.AddrPort) {
	if *o == nil {
		*o = make(ownAddresses)
	}
	if !ap.Addr().IsUnspecified() {
		(*o)[netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())] = true
		return
	}
	machine, _ := net.InterfaceAddrs() // without them, loops are still found by Received fields
	for _, a := range machine {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			(*o)[netip.AddrPortFrom(prefix.Addr().Unmap(), ap.Port())] = true
		}
	}
}

func (o ownAddresses) has(ap netip.AddrPort) bool {
	ip := ap.Addr().Unmap().WithZone("")
	return len(o) > 0 && (o[netip.AddrPortFrom(ip, ap.Port())] || o[netip.AddrPortFrom(ip, 0)])
}

// matcher finds the value for a domain: exact, else longest suffix, else "*".
type matcher[V any] struct {
	byName map[string]V // exact names, and suffixes with their dot
	all    *V
}

func (m *matcher[V]) add(domain string, v V) error {
	if domain == "*" {
		if m.all != nil {
			return fmt.Errorf("%q is there twice", domain)
		}
		m.all = &v
		return nil
	}
	name, err := pattern(domain)
	if err != nil {
		return err
	}
	if m.byName == nil {
		m.byName = make(map[string]V)
	}
	if _, twice := m.byName[name]; twice {
		return fmt.Errorf("%q is there twice", domain)
	}
	m.byName[name] = v
	return nil
}

func (m *matcher[V]) find(domain string) (v V, ok bool) {
	if v, ok = m.byName[domain]; ok {
		return v, true
	}
	for rest := domain; len(m.byName) > 0; {
		dot := strings.IndexByte(rest, '.')
		if dot < 0 {
			break
		}
		if v, ok = m.byName[rest[dot:]]; ok {
			return v, true
		}
		rest = rest[dot+1:]
	}
	if m.all != nil {
		return *m.all, true
	}
	return v, false
}

// provider returns the provider that all hosts belong to; one without a name if there is none.
func (t *table) provider(hosts []mail.Host) *provider {
	for i := range t.providers {
		if t.providers[i].covers(hosts) {
			return &t.providers[i]
		}
	}
	return &provider{}
}

func (p Provider) covers(hosts []mail.Host) bool {
	for _, h := range hosts {
		matched := false
		for _, suffix := range p.MXSuffix {
			if strings.HasSuffix(h.Name, suffix) || h.Name == suffix[1:] {
				matched = true
				break
			}
		}
		if !matched {
			return false
		}
	}
	return true
}
