package sink

import (
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
	"github.com/godwit-mta/godwit/internal/watch"
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

// mail decides about MAIL and, if it is accepted, begins a transaction. Every
// MAIL is on record, with what became of it.
func (v *visit) mail(from string, utf8 bool) verdict {
	now := time.Now()
	v.owner.counts.firstMail.CompareAndSwap(0, now.UnixNano())
	r := v.owner.policy.rules()
	how := v.conn.source.mail(&r.Behaviour, now)
	var d verdict
	switch how {
	case watch.Limited:
		d = refuse(v.owner.policy.pick(r.texts.limited))
	case watch.Blocked:
		d = refuse(v.owner.policy.pick(r.texts.blocked))
	default:
		if d = v.begin(&r.Behaviour, from, utf8); !d.ok() {
			how = watch.Refused
		}
	}
	v.sink.watch.Mail(v.conn.watched, how)
	d.delay = r.ReplyDelay.D()
	d.reply = d.reply.forPeer(v.conn.source.ip)
	return d
}

// begin decides about a MAIL that keeps to the limits of its source.
func (v *visit) begin(b *Behaviour, from string, utf8 bool) (d verdict) {
	p := v.owner
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
	b := v.owner.behaviour()
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
		v.judged(p, d)
	}
	d.reply = d.reply.forPeer(v.conn.source.ip)
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
			v.judged(r.p, d)
		}
		d.reply = d.reply.forPeer(v.conn.source.ip)
		return d
	}
	v.sink.pause(d.delay) // first wait, then record: the time of the record is that of the reply
	d.delay = 0
	v.record(m)
	v.conn.done++
	d.reply = reply{250, "2.0.0", "Ok: queued as " + v.sink.queueID()}
	return d
}

// judged counts a verdict against a recipient of p.
func (v *visit) judged(p *provider, d verdict) {
	p.judged(d, 1)
	switch c := &v.conn.source.counts; {
	case d.reply.temporary():
		c.deferred.Add(1)
	case d.reply.permanent():
		c.bounced.Add(1)
	}
}

// record writes down every copy.
func (v *visit) record(m *digest) {
	now := ledger.Now()
	d := ledger.Delivery{At: now, ReversePath: v.from, Peer: v.peer, Size: m.size}
	if v.sink.book != nil {
		d.Key, d.Sum = m.key(), m.bodySum()
	}
	v.owner.counts.transactions.Add(1)
	v.conn.source.counts.accepted.Add(int64(len(v.rcpts)))
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
	if f, ok := s.domains.find(to[at+1:]); ok {
		return f.p
	}
	if f, ok := s.domains.find(strings.ToLower(to[at+1:])); ok {
		return f.p
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
	sink    *Sink
	owner   *provider
	source  *source
	watched uint64        // its number in the watch record
	banner  time.Duration // before the first write
	done    int           // messages so far, over all sessions of the connection
	closed  atomic.Bool
}

// newConn makes a connection that has been let in.
func (s *Sink) newConn(c net.Conn, owner *provider, from *source, watched uint64) *countedConn {
	return &countedConn{Conn: c, sink: s, owner: owner, source: from, watched: watched, banner: owner.behaviour().BannerDelay.D()}
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

// Close counts the connection out, before the peer can see it closed.
func (c *countedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.sink.watch.Closed(c.watched)
		c.source.leave()
		c.owner.leave()
		c.sink.forget(c)
	}
	return c.Conn.Close()
}
