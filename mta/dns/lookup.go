package dns

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/idna"
)

// MX is one mail exchanger.
type MX struct {
	Host       string // lower case A-labels without trailing dot; "" is the null MX (RFC 7505)
	Preference uint16
}

// Exchangers is the answer to an MX lookup.
type Exchangers struct {
	MX      []MX // by preference, equal ones in random order (RFC 5321 §5.1)
	Expires time.Time
}

// Null reports whether the domain says that it takes no mail (RFC 7505 §3).
func (x Exchangers) Null() bool { return len(x.MX) == 1 && x.MX[0].Host == "" }

// Addresses is the answer to an address lookup, the preferred family first.
type Addresses struct {
	IPs     []netip.Addr
	Expires time.Time
}

// MX returns the mail exchangers of domain. Without any it is ErrNoData: the
// implicit MX of RFC 5321 §5.1 is the caller's decision.
func (r *Resolver) MX(ctx context.Context, domain string) (Exchangers, error) {
	e, err := r.lookup(ctx, domain, dns.TypeMX)
	if err != nil {
		return Exchangers{}, err
	}
	mx := slices.Clone(e.mx)
	for from := 0; from < len(mx); {
		to := from + 1
		for to < len(mx) && mx[to].Preference == mx[from].Preference {
			to++
		}
		if equal := mx[from:to]; len(equal) > 1 {
			r.shuffle(len(equal), func(i, j int) { equal[i], equal[j] = equal[j], equal[i] })
		}
		from = to
	}
	return Exchangers{MX: mx, Expires: e.expires}, nil
}

// A returns the IPv4 addresses of host, CNAMEs followed. The slice is shared: do not change it.
func (r *Resolver) A(ctx context.Context, host string) ([]netip.Addr, error) {
	e, err := r.lookup(ctx, host, dns.TypeA)
	if err != nil {
		return nil, err
	}
	return e.ips, nil
}

// AAAA returns the IPv6 addresses of host, CNAMEs followed. The slice is shared: do not change it.
func (r *Resolver) AAAA(ctx context.Context, host string) ([]netip.Addr, error) {
	e, err := r.lookup(ctx, host, dns.TypeAAAA)
	if err != nil {
		return nil, err
	}
	return e.ips, nil
}

// Addresses returns the addresses of host of all families that Options.Prefer
// allows, the preferred family first. One family's failure is an error only
// when the other has no address.
func (r *Resolver) Addresses(ctx context.Context, host string) (Addresses, error) {
	var a, aaaa *entry
	var errA, errAAAA error
	switch r.o.Prefer {
	case OnlyIPv4:
		a, errA = r.lookup(ctx, host, dns.TypeA)
		return joinAddresses(a, errA, nil, nil)
	case OnlyIPv6:
		aaaa, errAAAA = r.lookup(ctx, host, dns.TypeAAAA)
		return joinAddresses(aaaa, errAAAA, nil, nil)
	}
	if a, aaaa = r.peek(host, dns.TypeA), r.peek(host, dns.TypeAAAA); a != nil && aaaa != nil {
		errA, errAAAA = a.failure(), aaaa.failure()
	} else {
		done := make(chan struct{})
		go func() {
			defer close(done)
			aaaa, errAAAA = r.lookup(ctx, host, dns.TypeAAAA)
		}()
		a, errA = r.lookup(ctx, host, dns.TypeA)
		<-done
	}
	if r.o.Prefer == PreferIPv4 {
		return joinAddresses(a, errA, aaaa, errAAAA)
	}
	return joinAddresses(aaaa, errAAAA, a, errA)
}

// joinAddresses merges the first choice and the second (nil and nil: there is none).
func joinAddresses(first *entry, err1 error, second *entry, err2 error) (Addresses, error) {
	var out Addresses
	for _, e := range []*entry{first, second} {
		if e == nil || !e.positive() {
			continue
		}
		out.IPs = append(out.IPs, e.ips...)
		if out.Expires.IsZero() || e.expires.Before(out.Expires) {
			out.Expires = e.expires
		}
	}
	if len(out.IPs) > 0 {
		return out, nil
	}
	// A temporary failure of either family outweighs the other's "no such record".
	if err2 != nil && (err1 == nil || isTemporary(err2)) {
		return Addresses{}, err2
	}
	return Addresses{}, err1
}

// TXT returns the TXT records of name, the strings of each joined (RFC 7208 §3.3).
func (r *Resolver) TXT(ctx context.Context, name string) ([]string, error) {
	e, err := r.lookup(ctx, name, dns.TypeTXT)
	if err != nil {
		return nil, err
	}
	return slices.Clone(e.texts), nil
}

// LookupTXT is TXT under the name that *net.Resolver and what is written against it use.
func (r *Resolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	return r.TXT(ctx, name)
}

// PTR returns the names of an address, lower case without trailing dot.
func (r *Resolver) PTR(ctx context.Context, ip netip.Addr) ([]string, error) {
	name, err := dns.ReverseAddr(ip.Unmap().WithZone("").String())
	if err != nil {
		return nil, &Error{Kind: ErrNotFound, Name: ip.String(), Type: "PTR", Cause: err}
	}
	e, err := r.lookup(ctx, name, dns.TypePTR)
	if err != nil {
		return nil, err
	}
	return slices.Clone(e.texts), nil
}

// ASCII returns domain as lower case A-labels without trailing dot (RFC 5891
// §4.4). The error says why it can be no domain name.
func ASCII(domain string) (string, error) {
	domain = strings.TrimSuffix(domain, ".")
	for i := range len(domain) {
		if domain[i] >= 0x80 {
			return idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false)).ToASCII(domain)
		}
	}
	return strings.ToLower(domain), nil
}

// question is the cache key for a name as the caller wrote it.
func question(name string, qtype uint16) (key, *Error) {
	ascii, err := ASCII(name)
	if err != nil {
		return key{}, &Error{Kind: ErrNotFound, Name: name, Type: dns.TypeToString[qtype], Cause: err}
	}
	if _, ok := dns.IsDomainName(ascii); !ok || ascii == "" || strings.HasPrefix(ascii, ".") {
		return key{}, &Error{Kind: ErrNotFound, Name: name, Type: dns.TypeToString[qtype]}
	}
	return key{name: ascii + ".", qtype: qtype}, nil
}

// record is what one answer section says about a question.
type record struct {
	entry
	ttl    uint32
	target string // where a CNAME chain led without reaching a record; "" if it did
}

// read collects the records of type qtype at name, following CNAMEs inside answer.
func read(answer []dns.RR, name string, qtype uint16) record {
	rec := record{ttl: ^uint32(0)}
	const maxChain = 16
	for range maxChain {
		next := ""
		found := false
		for _, rr := range answer {
			h := rr.Header()
			if !strings.EqualFold(h.Name, name) {
				continue
			}
			if h.Rrtype == qtype && rec.add(rr) {
				found = true
				rec.ttl = min(rec.ttl, h.Ttl)
			} else if c, ok := rr.(*dns.CNAME); ok && next == "" {
				next = dns.CanonicalName(c.Target)
				rec.ttl = min(rec.ttl, h.Ttl)
			}
		}
		if found || next == "" {
			break
		}
		name, rec.target = next, next
	}
	if rec.filled() {
		rec.target = ""
	}
	slices.SortStableFunc(rec.mx, func(a, b MX) int { return cmp.Compare(a.Preference, b.Preference) })
	return rec
}

func (rec *record) filled() bool { return len(rec.mx)+len(rec.ips)+len(rec.texts) > 0 }

// add takes the data of one record; false for a type that is not kept or bad data.
func (rec *record) add(rr dns.RR) bool {
	switch rr := rr.(type) {
	case *dns.MX:
		rec.mx = append(rec.mx, MX{Host: hostName(rr.Mx), Preference: rr.Preference})
	case *dns.A:
		ip, ok := netip.AddrFromSlice(rr.A)
		if !ok {
			return false
		}
		rec.ips = append(rec.ips, ip.Unmap())
	case *dns.AAAA:
		ip, ok := netip.AddrFromSlice(rr.AAAA)
		if !ok {
			return false
		}
		rec.ips = append(rec.ips, ip)
	case *dns.TXT:
		rec.texts = append(rec.texts, strings.Join(rr.Txt, ""))
	case *dns.PTR:
		rec.texts = append(rec.texts, hostName(rr.Ptr))
	default:
		return false
	}
	return true
}

func hostName(fqdn string) string { return strings.TrimSuffix(dns.CanonicalName(fqdn), ".") }
