package sink

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// nameServer answers for every domain of the providers, by UDP and TCP on one port.
type nameServer struct {
	zone     *zone
	udp, tcp *dns.Server
	addr     string
	queries  atomic.Int64
}

// bindTries is how often a free port is looked for that is free for both UDP and TCP.
const bindTries = 20

// dnsBuffer is for questions that wait: a client may ask for thousands of sites at once.
const dnsBuffer = 4 << 20

func startNameServer(addr string, z *zone) (*nameServer, error) {
	n := &nameServer{zone: z}
	pc, l, err := bindBoth(addr)
	if err != nil {
		return nil, err
	}
	n.addr = pc.LocalAddr().String()
	started := make(chan struct{}, 2)
	ready := func() { started <- struct{}{} }
	n.udp = &dns.Server{PacketConn: pc, Handler: n, NotifyStartedFunc: ready}
	n.tcp = &dns.Server{Listener: l, Handler: n, NotifyStartedFunc: ready}
	for _, s := range []*dns.Server{n.udp, n.tcp} {
		go func() { _ = s.ActivateAndServe() }() // ends by stop
	}
	for range 2 {
		select {
		case <-started:
		case <-time.After(10 * time.Second):
			n.stop()
			return nil, errors.New("sink: name server did not start")
		}
	}
	return n, nil
}

// bindBoth takes a UDP and a TCP socket of the same address.
func bindBoth(addr string) (net.PacketConn, net.Listener, error) {
	var last error
	for range bindTries {
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			return nil, nil, fmt.Errorf("dns: %w", err)
		}
		if u, ok := pc.(*net.UDPConn); ok {
			_ = u.SetReadBuffer(dnsBuffer) // as much of it as the system allows
		}
		l, err := net.Listen("tcp", pc.LocalAddr().String())
		if err == nil {
			return pc, l, nil
		}
		pc.Close()
		last = err
		if !strings.HasSuffix(addr, ":0") {
			break
		}
	}
	return nil, nil, fmt.Errorf("dns: %w", last)
}

func (n *nameServer) stop() {
	_ = n.udp.Shutdown()
	_ = n.tcp.Shutdown()
}

// ServeDNS implements dns.Handler.
func (n *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	n.queries.Add(1)
	m := new(dns.Msg).SetReply(q)
	m.Authoritative, m.RecursionAvailable = true, true
	if len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery {
		m.Rcode = dns.RcodeNotImplemented
		_ = w.WriteMsg(m)
		return
	}
	name := strings.ToLower(q.Question[0].Name)
	switch name {
	case nameNoAnswer + "." + n.zone.suffix:
		return
	case nameServFail + "." + n.zone.suffix:
		m.Rcode = dns.RcodeServerFailure
	default:
		n.answer(m, name, q.Question[0].Qtype)
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(max(opt.UDPSize(), dns.MinMsgSize), false)
	}
	if _, ok := w.RemoteAddr().(*net.UDPAddr); ok {
		size := dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
		m.Truncate(size)
	}
	_ = w.WriteMsg(m) // a client that went away needs no answer
}

// answer fills in a reply; a CNAME is followed inside the zone.
func (n *nameServer) answer(m *dns.Msg, name string, t uint16) {
	for range 8 {
		answers, exists := n.zone.lookup(name, t)
		m.Answer = append(m.Answer, answers...)
		if len(answers) == 1 && t != dns.TypeCNAME {
			if c, ok := answers[0].(*dns.CNAME); ok {
				name = c.Target
				continue
			}
		}
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		if len(answers) == 0 {
			m.Ns = []dns.RR{n.zone.soa()}
		}
		return
	}
	m.Rcode = dns.RcodeServerFailure // a CNAME chain without end
}
