package sink

import (
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
)

// visit is what a provider knows about one connection: the part of a session
// that is the same whoever reads the commands.
type visit struct {
	sink   *Sink
	owner  *provider // of the listener
	conn   *countedConn
	peer   string
	secure bool

	from  string
	utf8  bool // MAIL had SMTPUTF8
	rcpts []destination
}

// destination is an accepted RCPT.
type destination struct {
	address string
	p       *provider
}

func (v *visit) reset() { v.from, v.utf8, v.rcpts = "", false, v.rcpts[:0] }

// mail decides about MAIL and, if it is accepted, begins a transaction.
func (v *visit) mail(from string, utf8 bool) verdict {
	p := v.owner
	p.counts.firstMail.CompareAndSwap(0, time.Now().UnixNano())
	b := &p.Behaviour
	d := verdict{delay: b.ReplyDelay.D()}
	switch {
	case b.RequireTLS && !v.secure:
		d.reply = reply{530, "5.7.0", "Must issue a STARTTLS command first"}
	case b.MaxMessages > 0 && v.conn.done >= b.MaxMessages:
		d.reply = reply{b.limitCode(), "4.7.0", "Too many messages on this connection, please reconnect"}
		d.close = d.reply.code == 421
	case utf8 && !p.has(capSMTPUTF8):
		d.reply = reply{555, "5.5.4", "SMTPUTF8 is not supported"}
	case !utf8 && !ascii(from):
		d.reply = reply{553, "5.6.7", "Address needs SMTPUTF8"}
	default:
		v.reset()
		v.from, v.utf8 = from, utf8
	}
	return d
}

func (b *Behaviour) limitCode() int {
	if b.LimitCode == 0 {
		return 421
	}
	return b.LimitCode
}

// rcpt decides about RCPT and, if it is accepted, adds the recipient.
func (v *visit) rcpt(to string) verdict {
	p := v.sink.providerOf(to, v.owner)
	b := &v.owner.Behaviour
	var d verdict
	switch {
	case !v.utf8 && !ascii(to):
		d.reply = reply{553, "5.6.7", "Address needs SMTPUTF8"}
	case b.MaxRecipients > 0 && len(v.rcpts) >= b.MaxRecipients:
		d.reply = reply{452, "4.5.3", "Too many recipients"}
	default:
		d = p.policy.rcpt(v.from, to, v.secure)
	}
	d.delay += b.ReplyDelay.D()
	if d.ok() {
		v.rcpts = append(v.rcpts, destination{to, p})
	} else {
		p.judged(d, 1)
	}
	return d
}

// finish decides about a complete message. Where it is accepted, every copy
// is on record when finish returns, that is before the reply. The transaction
// is over in any case.
func (v *visit) finish(m *digest) verdict {
	var d verdict
	defer v.reset()
	for _, r := range v.rcpts {
		one := r.p.policy.dot(v.from, r.address)
		d.delay = max(d.delay, one.delay)
		if !one.ok() && d.ok() {
			d.reply, d.drop, d.close = one.reply, one.drop, one.close
		}
	}
	if d.ok() {
		d.reply = m.fault(v)
	}
	if !d.ok() {
		for _, r := range v.rcpts {
			r.p.judged(d, 1)
		}
		return d
	}
	v.sink.pause(d.delay) // first wait, then record: the time of the record is that of the reply
	d.delay = 0
	v.record(m)
	v.conn.done++
	d.reply = reply{250, "2.0.0", "Ok: queued as " + v.sink.queueID()}
	return d
}

// record writes down every copy.
func (v *visit) record(m *digest) {
	now := ledger.Now()
	d := ledger.Delivery{At: now, ReversePath: v.from, Peer: v.peer, Size: m.size}
	if v.sink.book != nil {
		d.Key, d.Sum = m.key(), m.bodySum()
	}
	v.owner.counts.transactions.Add(1)
	for _, r := range v.rcpts {
		r.p.accepted(int64(now), m.size)
		if v.sink.book == nil {
			continue
		}
		d.Recipient, d.Provider = r.address, r.p.Name
		v.sink.book.AddDelivery(&d)
	}
}

func ascii[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] > 127 {
			return false
		}
	}
	return true
}

// providerOf finds the provider of a recipient; otherwise is the listener's owner.
func (s *Sink) providerOf(to string, otherwise *provider) *provider {
	at := strings.LastIndexByte(to, '@')
	if p, ok := s.domains[to[at+1:]]; ok {
		return p
	}
	if p, ok := s.domains[strings.ToLower(to[at+1:])]; ok {
		return p
	}
	return otherwise
}

// queueID is a short name for the reply to the final dot.
func (s *Sink) queueID() string { return "S" + strconv.FormatInt(s.queued.Add(1), 36) }

// pause waits, or less when the sink stops.
func (s *Sink) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.stopping:
	}
}

// countedConn is a connection that the provider counts.
type countedConn struct {
	net.Conn
	sink   *Sink
	owner  *provider
	banner time.Duration // before the first write
	done   int           // messages so far, over all sessions of the connection
	closed atomic.Bool
}

// Write waits before the banner, which is the first thing that a server writes.
func (c *countedConn) Write(p []byte) (int, error) {
	if c.banner > 0 {
		d := c.banner
		c.banner = 0
		c.sink.pause(d)
	}
	return c.Conn.Write(p)
}

// Close counts the connection out.
func (c *countedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.owner.leave()
		c.sink.forget(c)
	}
	return c.Conn.Close()
}
