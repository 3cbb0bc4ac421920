// Package dnstest runs a DNS server on loopback that answers from a zone
// written as text, UDP and TCP on one port, and misbehaves when told to.
//
//	srv, err := dnstest.Start(`
//		example.com.      300 IN MX 10 mx.example.com.
//		mx.example.com.   300 IN A 127.0.0.1
//	`)
//	defer srv.Close()
//	srv.Fail("example.com", dnstest.ServFail)
//
// It answers like a resolver: CNAMEs are followed inside the zone, "*.name" is
// a wildcard, a name without records is NXDOMAIN, and negative answers carry
// the nearest SOA of the zone, or one of ours with a minimum of 60 seconds.
package dnstest

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"

	"github.com/miekg/dns"
)

// Failure is a way to misbehave.
type Failure int

// The failures. None ends a failure set before.
const (
	None     Failure = iota
	ServFail         // answer SERVFAIL
	Refuse           // answer REFUSED
	Timeout          // do not answer
	Truncate         // by UDP, answer with TC set and no records; by TCP, properly
	Spoof            // by UDP, send two wrong packets (other id, other question) before the answer
	NoEDNS           // answer FORMERR to a query with EDNS
)

// Server is a running server. It is safe for concurrent use.
type Server struct {
	udp, tcp *dns.Server
	addr     string
	done     sync.WaitGroup

	mu      sync.Mutex
	zone    map[string][]dns.RR // by canonical name
	fail    map[string]Failure  // by canonical name; "" is every name
	queries map[string]int      // by "name TYPE"
}

// Start runs a server for zone, in master file format (RFC 1035 §5), origin ".".
func Start(zone string) (*Server, error) {
	s := &Server{fail: make(map[string]Failure), queries: make(map[string]int)}
	if err := s.Set(zone); err != nil {
		return nil, err
	}
	packet, listener, err := listen()
	if err != nil {
		return nil, err
	}
	s.addr = packet.LocalAddr().String()
	handler := dns.HandlerFunc(s.serve)
	s.udp = &dns.Server{PacketConn: packet, Handler: handler}
	s.tcp = &dns.Server{Listener: listener, Handler: handler}
	for _, srv := range []*dns.Server{s.udp, s.tcp} {
		up := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(up) }
		s.done.Go(func() { _ = srv.ActivateAndServe() })
		<-up
	}
	return s, nil
}

// listen opens UDP and TCP on one free port.
func listen() (net.PacketConn, net.Listener, error) {
	var err error
	for range 20 {
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, nil, err
		}
		var p net.PacketConn
		if p, err = net.ListenPacket("udp", l.Addr().String()); err == nil {
			return p, l, nil
		}
		l.Close()
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return nil, nil, err
}

// Addr is the server's ip:port.
func (s *Server) Addr() string { return s.addr }

// Close stops the server and waits for it.
func (s *Server) Close() {
	_ = s.udp.Shutdown()
	_ = s.tcp.Shutdown()
	s.done.Wait()
}

// Set replaces the zone.
func (s *Server) Set(zone string) error {
	records := make(map[string][]dns.RR)
	p := dns.NewZoneParser(strings.NewReader(dedent(zone)), ".", "zone")
	p.SetDefaultTTL(300)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		name := dns.CanonicalName(rr.Header().Name)
		records[name] = append(records[name], rr)
	}
	if err := p.Err(); err != nil {
		return fmt.Errorf("dnstest: zone: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone = records
	return nil
}

// dedent removes what indents a literal: in a master file it means "same name as above".
func dedent(zone string) string {
	lines := strings.Split(zone, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimLeft(l, " \t")
	}
	return strings.Join(lines, "\n")
}

// Fail makes queries for name misbehave; "" means every name without a failure of its own.
func (s *Server) Fail(name string, f Failure) {
	if name != "" {
		name = dns.CanonicalName(dns.Fqdn(name))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail[name] = f
}

// Queries is how often name was asked for a type such as "MX", by UDP and TCP.
func (s *Server) Queries(name, qtype string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queries[dns.CanonicalName(dns.Fqdn(name))+" "+qtype]
}

func (s *Server) serve(w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 {
		reply(w, q, dns.RcodeFormatError)
		return
	}
	name, qtype := dns.CanonicalName(q.Question[0].Name), q.Question[0].Qtype
	s.mu.Lock()
	s.queries[name+" "+dns.TypeToString[qtype]]++
	failure, ok := s.fail[name]
	if !ok {
		failure = s.fail[""]
	}
	m := s.answer(q, name, qtype)
	s.mu.Unlock()

	_, byUDP := w.RemoteAddr().(*net.UDPAddr)
	switch {
	case failure == ServFail:
		reply(w, q, dns.RcodeServerFailure)
	case failure == Refuse:
		reply(w, q, dns.RcodeRefused)
	case failure == Timeout:
	case failure == NoEDNS && q.IsEdns0() != nil:
		reply(w, q, dns.RcodeFormatError)
	case failure == Truncate && byUDP:
		m.Truncated, m.Answer, m.Ns = true, nil, nil
		_ = w.WriteMsg(m)
	default:
		if failure == Spoof && byUDP {
			spoof(w, m)
		}
		if edns := q.IsEdns0(); byUDP && edns != nil {
			m.Truncate(int(edns.UDPSize()))
		} else if byUDP {
			m.Truncate(dns.MinMsgSize)
		}
		_ = w.WriteMsg(m)
	}
}

func reply(w dns.ResponseWriter, q *dns.Msg, rcode int) {
	_ = w.WriteMsg(new(dns.Msg).SetRcode(q, rcode))
}

// spoof sends what an attacker might: NXDOMAIN with a wrong id, and with another question.
func spoof(w dns.ResponseWriter, m *dns.Msg) {
	wrong := m.Copy()
	wrong.Answer, wrong.Rcode, wrong.Id = nil, dns.RcodeNameError, m.Id+1
	_ = w.WriteMsg(wrong)
	wrong.Id, wrong.Question[0].Name = m.Id, "other.invalid."
	_ = w.WriteMsg(wrong)
}

// answer looks name up, following CNAMEs. The caller holds mu.
func (s *Server) answer(q *dns.Msg, name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	const maxChain = 8
	for range maxChain {
		rrs, exists := s.find(name)
		if !exists {
			m.Rcode = dns.RcodeNameError
			break
		}
		next := ""
		for _, rr := range rrs {
			rr = dns.Copy(rr)
			rr.Header().Name = name
			c, isCNAME := rr.(*dns.CNAME)
			switch {
			case rr.Header().Rrtype == qtype || qtype == dns.TypeANY:
				m.Answer = append(m.Answer, rr)
			case isCNAME:
				m.Answer = append(m.Answer, rr)
				next = dns.CanonicalName(c.Target)
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if len(m.Answer) == 0 || m.Rcode == dns.RcodeNameError {
		m.Ns = append(m.Ns, s.soa(name))
	}
	return m
}

// find returns the records of name, or of the wildcard that covers it (RFC 4592).
func (s *Server) find(name string) (rrs []dns.RR, exists bool) {
	if rrs, ok := s.zone[name]; ok {
		return rrs, true
	}
	for other := range s.zone { // an empty non-terminal exists without records
		if strings.HasSuffix(other, "."+name) && !strings.HasPrefix(other, "*.") {
			return nil, true
		}
	}
	for parent := name; ; {
		_, rest, ok := strings.Cut(parent, ".")
		if !ok || rest == "" {
			return nil, false
		}
		if rrs, ok := s.zone["*."+rest]; ok {
			return rrs, true
		}
		parent = rest
	}
}

func (s *Server) soa(name string) dns.RR {
	for parent := name; parent != ""; _, parent, _ = strings.Cut(parent, ".") {
		for _, rr := range s.zone[parent] {
			if rr.Header().Rrtype == dns.TypeSOA {
				return dns.Copy(rr)
			}
		}
	}
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60},
		Ns:  "ns.invalid.", Mbox: "hostmaster.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 60,
	}
}
