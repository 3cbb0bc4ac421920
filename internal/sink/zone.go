package sink

import (
	"fmt"
	"net"
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
	domains map[string]*provider
	records map[string][]dns.RR // by name in lower case
}

func newZone(o Options, domains map[string]*provider, providers []*provider) (*zone, error) {
	z := &zone{
		ttl: uint32(o.TTL.D().Seconds()), suffix: dns.Fqdn(o.Zone),
		domains: domains, records: map[string][]dns.RR{},
	}
	for _, p := range providers {
		if !p.OwnMX {
			for _, h := range p.hosts {
				z.add(&dns.A{Hdr: z.header(h, dns.TypeA), A: p.ip()})
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
	if p := z.domains[strings.TrimSuffix(name, ".")]; p != nil {
		if t == dns.TypeMX {
			answers = z.providerMX(p, name)
		}
		return answers, true
	}
	if host, domain, ok := strings.Cut(name, "."); ok && strings.HasPrefix(host, "mx") {
		if p := z.domains[strings.TrimSuffix(domain, ".")]; p != nil && p.OwnMX {
			if t == dns.TypeA {
				answers = []dns.RR{&dns.A{Hdr: z.header(name, t), A: p.ip()}}
			}
			return answers, true
		}
	}
	return nil, exists || name == z.suffix
}

func (z *zone) isDomain(name string) bool { return z.domains[strings.TrimSuffix(name, ".")] != nil }

// providerMX makes the MX records of one of a provider's domains.
func (z *zone) providerMX(p *provider, name string) []dns.RR {
	var out []dns.RR
	if p.DeadMX {
		out = append(out, &dns.MX{Hdr: z.header(name, dns.TypeMX), Preference: 1, Mx: "dead." + z.suffix})
	}
	for i, h := range p.hosts {
		if p.OwnMX {
			h = fmt.Sprintf("mx%d.%s", i+1, name)
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
