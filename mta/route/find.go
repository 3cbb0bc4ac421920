package route

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/dns"
)

// maxSiteLength bounds the text of a site; a longer MX set is hashed.
const maxSiteLength = 120

// find computes the route of a domain, as the package comment says.
func (t *table) find(ctx context.Context, domain string, now time.Time) (*mail.Route, error) {
	domain = strings.Clone(domain) // it is a part of a recipient that need not stay
	if domain == "" {
		return nil, decide(mail.Bounced, mail.ClassPolicy, mail.Reply{Code: 553, Enhanced: "5.1.3", Text: "recipient address has no domain"}, nil)
	}
	literal := strings.HasPrefix(domain, "[")
	name := domain
	if !literal {
		ascii, err := dns.ASCII(domain)
		if err != nil {
			return nil, noDomain(domain, err)
		}
		name = ascii
	}
	if s, ok := t.statics.find(name); ok {
		return t.route(domain, name, s.hosts, s, now.Add(t.o.MaxAge.D())), nil
	}
	if literal {
		host, err := t.literal(name)
		if err != nil {
			return nil, err
		}
		return t.route(domain, name, host, nil, now.Add(t.o.MaxAge.D())), nil
	}
	hosts, expires, err := t.exchangers(ctx, name)
	if err != nil {
		return nil, err
	}
	expires = clamp(expires, now.Add(t.o.MinAge.D()), now.Add(t.o.MaxAge.D()))
	return t.route(domain, name, hosts, nil, expires), nil
}

func clamp(x, low, high time.Time) time.Time {
	if x.Before(low) {
		return low
	}
	if x.After(high) {
		return high
	}
	return x
}

// modeFor is the first that is set: of the static route, the domain, and then
// the stricter of what the provider needs and what holds in general.
func (t *table) modeFor(domain string, s *static, p *provider) mail.TLSMode {
	if s != nil && s.fixed {
		return s.mode
	}
	if mode, ok := t.modes.find(domain); ok {
		return mode
	}
	if p.fixed && t.mode != mail.TLSNone && p.mode > t.mode {
		return p.mode
	}
	return t.mode
}

// route puts a route together. The site names the TLS mode too where it is not
// the usual one: sites share sessions, and a session in clear must not serve a
// domain that requires TLS. It names the domain where that has limits of its own.
func (t *table) route(domain, name string, hosts []mail.Host, s *static, expires time.Time) *mail.Route {
	site := siteOf(hosts)
	p := t.provider(hosts)
	mode := t.modeFor(name, s, p)
	if usual := t.modeFor("", nil, p); mode != usual {
		site += ";tls=" + tlsName(mode)
	}
	if t.apart != nil && t.apart(name) {
		site += ";domain=" + name
	}
	return &mail.Route{Site: site, Provider: p.Name, Domain: domain, Hosts: hosts,
		Port: uint16(t.o.Port), TLS: mode, Expires: expires}
}

// siteOf is the key that domains with the same MX set share.
func siteOf(hosts []mail.Host) string {
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = h.Name
		if h.Port != 0 {
			names[i] += ":" + strconv.Itoa(int(h.Port))
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	site := strings.Join(names, ",")
	if len(site) <= maxSiteLength {
		return site
	}
	sum := sha256.Sum256([]byte(site))
	first := names[0]
	if len(first) > 64 {
		first = first[:64]
	}
	return first + "+" + strconv.Itoa(len(names)-1) + "-" + hex.EncodeToString(sum[:8])
}

// literal reads [192.0.2.1] or [IPv6:2001:db8::1] (RFC 5321 §4.1.3).
func (t *table) literal(domain string) ([]mail.Host, error) {
	if !t.o.AllowLiterals {
		return nil, decide(mail.Bounced, mail.ClassPolicy, mail.Reply{Code: 550, Enhanced: "5.1.2", Text: "address literals are not accepted"}, nil)
	}
	inner := strings.TrimSuffix(strings.TrimPrefix(domain, "["), "]")
	v6 := false
	if len(inner) > 5 && strings.EqualFold(inner[:5], "IPv6:") {
		inner, v6 = inner[5:], true
	}
	ip, err := netip.ParseAddr(inner)
	if err != nil || !strings.HasSuffix(domain, "]") || ip.Zone() != "" || ip.Is6() != v6 {
		return nil, decide(mail.Bounced, mail.ClassPolicy, mail.Reply{Code: 553, Enhanced: "5.1.3", Text: "bad address literal " + domain}, nil)
	}
	if t.own.has(netip.AddrPortFrom(ip, uint16(t.o.Port))) {
		return nil, looped(domain)
	}
	return []mail.Host{{Name: ip.String()}}, nil
}

// exchangers finds the hosts of a domain by DNS.
func (t *table) exchangers(ctx context.Context, domain string) ([]mail.Host, time.Time, error) {
	x, err := t.resolver.MX(ctx, domain)
	switch {
	case errors.Is(err, dns.ErrNoData):
		return t.implicit(ctx, domain)
	case errors.Is(err, dns.ErrNotFound):
		return nil, time.Time{}, noDomain(domain, err)
	case err != nil:
		return nil, time.Time{}, noAnswer(domain, err)
	}
	hosts := make([]mail.Host, 0, len(x.MX))
	for _, mx := range x.MX {
		if mx.Host != "" { // RFC 7505 §3: a null MX beside others is an error of theirs; the others count
			hosts = append(hosts, mail.Host{Name: mx.Host, Preference: mx.Preference})
		}
	}
	if len(hosts) == 0 {
		return nil, time.Time{}, decide(mail.Bounced, mail.ClassDNS,
			mail.Reply{Code: 556, Enhanced: "5.1.10", Text: "domain " + domain + " does not accept mail (null MX)"}, nil)
	}
	if hosts = t.dropOurselves(ctx, hosts); len(hosts) == 0 {
		return nil, time.Time{}, looped(domain)
	}
	return hosts, x.Expires, nil
}

// implicit is the domain's own address as its MX (RFC 5321 §5.1).
func (t *table) implicit(ctx context.Context, domain string) ([]mail.Host, time.Time, error) {
	a, err := t.resolver.Addresses(ctx, domain)
	switch {
	case errors.Is(err, dns.ErrNotFound), errors.Is(err, dns.ErrNoData):
		return nil, time.Time{}, noDomain(domain, err)
	case err != nil:
		return nil, time.Time{}, noAnswer(domain, err)
	}
	hosts := t.dropOurselves(ctx, []mail.Host{{Name: domain}})
	if len(hosts) == 0 {
		return nil, time.Time{}, looped(domain)
	}
	return hosts, a.Expires, nil
}

// dropOurselves removes us and every host of equal or worse preference (RFC 5321 §5.1).
func (t *table) dropOurselves(ctx context.Context, hosts []mail.Host) []mail.Host {
	ours := t.ours(ctx, hosts)
	limit := -1
	for i, h := range hosts {
		if ours[i] && (limit < 0 || int(h.Preference) < limit) {
			limit = int(h.Preference)
		}
	}
	if limit < 0 {
		return hosts
	}
	return slices.DeleteFunc(hosts, func(h mail.Host) bool { return int(h.Preference) >= limit })
}

// ours tells for each host whether its name or one of its addresses is ours.
// An address that cannot be found out does not count: deliver looks again.
func (t *table) ours(ctx context.Context, hosts []mail.Host) []bool {
	ours := make([]bool, len(hosts))
	const maxLookups = 10
	var lookups sync.WaitGroup
	for i, h := range hosts {
		if ours[i] = t.names[h.Name]; ours[i] || len(t.own) == 0 || i >= maxLookups {
			continue
		}
		lookups.Go(func() {
			a, _ := t.resolver.Addresses(ctx, h.Name)
			for _, ip := range a.IPs {
				if t.own.has(netip.AddrPortFrom(ip, uint16(t.o.Port))) {
					ours[i] = true
				}
			}
		})
	}
	lookups.Wait()
	return ours
}

func noDomain(domain string, cause error) error {
	return decide(mail.Bounced, mail.ClassDNS, mail.Reply{Code: 550, Enhanced: "5.1.2", Text: "domain " + domain + " does not exist or takes no mail"}, cause)
}

func noAnswer(domain string, cause error) error {
	return decide(mail.Deferred, mail.ClassDNS, mail.Reply{Code: 451, Enhanced: "4.4.3", Text: "DNS gave no answer for " + domain}, cause)
}

func looped(domain string) error {
	return decide(mail.Bounced, mail.ClassPolicy, mail.Reply{Code: 554, Enhanced: "5.4.6", Text: "mail for " + domain + " loops back to us"}, nil)
}
