package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// udpSize is the largest answer asked for by UDP: it passes every path unfragmented (DNS flag day 2020).
const udpSize = 1232

// errMismatch: a TCP answer that is not to our question.
var errMismatch = errors.New("answer does not match the question")

// network is the Exchanger over UDP and TCP. Each query has a socket, and so
// a random source port, of its own (RFC 5452 §9.2).
type network struct{ timeout time.Duration }

// Exchange implements Exchanger.
func (n *network) Exchange(ctx context.Context, q *dns.Msg, server string) (*dns.Msg, error) {
	msg, err := n.once(ctx, q, "udp", server)
	if err != nil {
		return nil, err
	}
	if msg.Truncated {
		return n.once(ctx, q, "tcp", server)
	}
	return msg, nil
}

func (n *network) once(ctx context.Context, q *dns.Msg, proto, server string) (*dns.Msg, error) {
	dialer := net.Dialer{Timeout: n.timeout}
	conn, err := dialer.DialContext(ctx, proto, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(n.timeout)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	// A cancelled context wakes a read that waits.
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	c := &dns.Conn{Conn: conn, UDPSize: udpSize}
	if err := c.WriteMsg(q); err != nil {
		return nil, fmt.Errorf("sending the query: %w", err)
	}
	for {
		msg, err := c.ReadMsg()
		var broken net.Error
		switch {
		case err == nil && matches(q, msg):
			return msg, nil
		case err != nil && (proto == "tcp" || errors.As(err, &broken)):
			return nil, fmt.Errorf("reading the answer: %w", err)
		case proto == "tcp":
			return nil, errMismatch
		}
		// By UDP anyone may send us anything: wait on for the real answer (RFC 5452 §9.1).
	}
}

// matches reports whether msg answers q: same id, same question.
func matches(q, msg *dns.Msg) bool {
	if msg.Id != q.Id || !msg.Response || msg.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(msg.Question) == 0 { // some servers leave it out of errors
		return msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError
	}
	a, b := q.Question[0], msg.Question[0]
	return len(msg.Question) == 1 && a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
