package sink

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// The special domains, all below Options.Zone. Each is one way in which
// finding a mail exchanger goes other than usual.
const (
	nameNullMX   = "nullmx"   // a null MX (RFC 7505): takes no mail
	nameNX       = "nxdomain" // does not exist
	nameServFail = "servfail" // SERVFAIL
	nameNoAnswer = "noanswer" // the name server stays silent
	nameNoData   = "nodata"   // exists, without MX or address
	nameAOnly    = "aonly"    // no MX, an A record: the implicit MX of RFC 5321 §5.1
	nameIPv6Only = "ipv6only" // its MX has only an IPv6 address, to which no route leads
	nameLoopMX   = "loopmx"   // its MX is localhost: a loop for whoever looks for a remote one
	nameDeadMX   = "deadmx"   // its MX refuses connections
)

// deadAddress is a loopback address at which nothing of ours listens.
const deadAddress = "127.255.255.254"

// zone answers questions. It is built once and then only read.
type zone struct {
	ttl     uint32
	suffix  string // fully qualified
	domains *domainSet
	records map[string][]dns.RR // by name in lower case
}

func newZone(o Options, domains *domainSet, providers []*provider) (*zone, error) {
	z := &zone{
		ttl: uint32(o.TTL.D().Seconds()), suffix: dns.Fqdn(o.Zone),
		domains: domains, records: map[string][]dns.RR{},
	}
	for _, p := range providers {
		if !p.OwnMX {
			for _, h := range p.hosts {
				z.add(&dns.A{Hdr: z.header(h, dns.TypeA), A: p.ip()})
				if p.Swallow > 0 {
					z.add(&dns.A{Hdr: z.header(swallowLabel+h, dns.TypeA), A: swallowAddress(0)})
				}
			}
		}
	}
	first := providers[0]
	z.mx(nameNullMX, 0, ".")
	z.mx(nameIPv6Only, 10, "mx6."+z.suffix)
	z.mx(nameLoopMX, 10, "localhost.")
	z.mx(nameDeadMX, 10, "dead."+z.suffix)
	z.add(&dns.A{Hdr: z.header(nameAOnly+"."+z.suffix, dns.TypeA), A: first.ip()})
	z.add(&dns.AAAA{Hdr: z.header("mx6."+z.suffix, dns.TypeAAAA), AAAA: net.ParseIP("2001:db8::25")}) // documentation prefix, RFC 3849
	z.add(&dns.A{Hdr: z.header("localhost.", dns.TypeA), A: net.IPv4(127, 0, 0, 1)})
	z.add(&dns.A{Hdr: z.header("dead."+z.suffix, dns.TypeA), A: net.ParseIP(deadAddress)})
	z.records[nameNoData+"."+z.suffix] = nil
	for _, line := range o.Records {
		rr, err := dns.NewRR(line)
		if err != nil {
			return nil, fmt.Errorf("records: %q: %w", line, err)
		}
		if rr != nil { // nil for an empty line
			z.add(rr)
		}
	}
	return z, nil
}

func (z *zone) header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: dns.Fqdn(name), Rrtype: t, Class: dns.ClassINET, Ttl: z.ttl}
}

func (z *zone) add(rr dns.RR) {
	name := strings.ToLower(rr.Header().Name)
	z.records[name] = append(z.records[name], rr)
}

func (z *zone) mx(label string, preference uint16, host string) {
	z.add(&dns.MX{Hdr: z.header(label+"."+z.suffix, dns.TypeMX), Preference: preference, Mx: host})
}

// lookup returns the answers of a type; exists tells NODATA from NXDOMAIN.
func (z *zone) lookup(name string, t uint16) (answers []dns.RR, exists bool) {
	name = strings.ToLower(dns.Fqdn(name))
	all, exists := z.records[name]
	for _, rr := range all {
		if rr.Header().Rrtype == t || rr.Header().Rrtype == dns.TypeCNAME {
			answers = append(answers, rr)
		}
	}
	if len(answers) > 0 || exists && !z.isDomain(name) {
		return answers, true
	}
	if d, ok := z.domain(name); ok {
		if t == dns.TypeMX {
			answers = z.providerMX(d, name)
		}
		return answers, true
	}
	if d, ok := z.ownHost(name); ok {
		if t == dns.TypeA {
			ip := d.p.ip()
			if d.swallowed() {
				ip = swallowAddress(d.n)
			}
			answers = []dns.RR{&dns.A{Hdr: z.header(name, t), A: ip}}
		}
		return answers, true
	}
	return nil, exists || name == z.suffix
}

// swallowLabel stands before the name of an MX host to make that of its deaf twin.
const swallowLabel = "swallow."

// domain finds a provider's domain; name is in lower case and ends in a dot.
func (z *zone) domain(name string) (domain, bool) {
	return z.domains.find(strings.TrimSuffix(name, "."))
}

func (z *zone) isDomain(name string) bool {
	_, ok := z.domain(name)
	return ok
}

// ownHost finds the domain whose own MX host the name is: mx1.domain and so on.
func (z *zone) ownHost(name string) (domain, bool) {
	host, rest, _ := strings.Cut(name, ".")
	number, ok := strings.CutPrefix(host, "mx")
	if !ok {
		return domain{}, false
	}
	d, ok := z.domain(rest)
	if !ok || !d.p.OwnMX {
		return domain{}, false
	}
	n, err := strconv.Atoi(number)
	return d, err == nil && n >= 1 && n <= len(d.p.hosts) && strconv.Itoa(n) == number
}

// providerMX makes the MX records of one of a provider's domains.
func (z *zone) providerMX(d domain, name string) []dns.RR {
	var out []dns.RR
	if d.p.DeadMX {
		out = append(out, &dns.MX{Hdr: z.header(name, dns.TypeMX), Preference: 1, Mx: "dead." + z.suffix})
	}
	for i, h := range d.p.hosts {
		switch {
		case d.p.OwnMX:
			h = "mx" + strconv.Itoa(i+1) + "." + name
		case d.swallowed():
			h = swallowLabel + h
		}
		out = append(out, &dns.MX{Hdr: z.header(name, dns.TypeMX), Preference: uint16(10 * (i + 1)), Mx: dns.Fqdn(h)})
	}
	return out
}

// soa is what negative answers carry (RFC 2308 §3).
func (z *zone) soa() dns.RR {
	return &dns.SOA{Hdr: z.header(".", dns.TypeSOA), Ns: "ns." + z.suffix, Mbox: "postmaster." + z.suffix,
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: z.ttl}
}
