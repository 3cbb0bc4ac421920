package accept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Door is the way in. It is safe for concurrent use.
type Door struct {
	opts    Options
	deps    Deps
	log     *slog.Logger
	memory  *memory
	metrics *metrics
}

// New checks the options and returns a Door.
func New(o Options, d Deps) (*Door, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if d.Queue == nil || d.IDs == nil {
		return nil, errors.New("accept: queue and ids are needed")
	}
	if why := badDomain(d.Hostname); why != "" || !isASCII(d.Hostname) {
		return nil, fmt.Errorf("accept: hostname %q is not a domain name", d.Hostname)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(d.Registerer)
	if err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	return &Door{opts: o, deps: d, log: d.Logger, memory: newMemory(int64(o.Memory)), metrics: m}, nil
}

// Message reads one raw message to the end of r and stores it for every
// recipient of inj, all or none. Line ends must be CR LF, as the SMTP connection loop
// guarantees. The error is an *Error; after a failed read it wraps r's error and nothing is stored.
func (d *Door) Message(ctx context.Context, inj *Injection, r io.Reader) (Accepted, error) {
	d.metrics.inFlight.Add(1)
	defer d.metrics.inFlight.Add(-1)
	acc, refusal := d.message(ctx, inj, r)
	if refusal != nil {
		return Accepted{}, d.refused(refusal, inj.Tenant, inj.AuthID)
	}
	return acc, nil
}

func (d *Door) message(ctx context.Context, inj *Injection, r io.Reader) (Accepted, *Error) {
	if inj.SizeHint > int64(d.opts.MaxSize) {
		return Accepted{}, tooLarge(d.opts.MaxSize.String())
	}
	reversePath, err := CheckReversePath(inj.ReversePath, inj.SMTPUTF8)
	if err != nil {
		return Accepted{}, failed(err)
	}
	rows, refusal := d.checkRecipients(inj.Recipients, inj.SMTPUTF8)
	if refusal != nil {
		return Accepted{}, refusal
	}
	in, refusal := d.open(ctx, r)
	if refusal != nil {
		return Accepted{}, refusal
	}
	defer in.close()
	h, refusal := in.header()
	if refusal != nil {
		return Accepted{}, refusal
	}
	now := d.deps.Now()
	dir, refusal := d.steer(inj, h, in.first, now)
	if refusal != nil {
		return Accepted{}, refusal
	}
	id := d.deps.IDs.Reserve(now, len(rows)+1)
	fields := d.fields(inj, h, id, rows, dir.template, now)
	body, refusal := in.body(ctx, h, fields, inj.SizeHint)
	if refusal != nil {
		return Accepted{}, refusal
	}
	body.ID = id.Add(len(rows))
	if refusal := d.asTemplate(ctx, body, dir.template); refusal != nil {
		return Accepted{}, refusal
	}
	base := mail.Message{
		Batch: id, Accepted: now, Tenant: dir.tenant, Tags: dir.tags, ReversePath: reversePath,
		SMTPUTF8: inj.SMTPUTF8, Body: refOf(body), Substitutions: dir.substitutions,
	}
	batch := &mail.Batch{Body: body, Messages: d.messages(base, dir.Labels, rows),
		Origin: mail.Origin{Protocol: inj.Protocol, Peer: peerText(inj.Peer), AuthID: inj.AuthID}}
	acc, refusal := d.put(ctx, batch)
	if refusal == nil {
		in.file = nil // the queue's now
	}
	return acc, refusal
}

func peerText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().String()
}

// steer looks for loops and, from a trusted injector, for what the message asks of us.
func (d *Door) steer(inj *Injection, h *header, b []byte, now time.Time) (directives, *Error) {
	if h.received > d.opts.MaxReceived {
		return directives{}, refuse(554, 5, 4, 6, "Received", "Mail loop: too many Received fields ("+strconv.Itoa(h.received)+")")
	}
	if !inj.Trusted || len(h.ours) == 0 {
		return directives{tenant: inj.Tenant}, nil
	}
	dir, refusal := d.directives(inj, h, b, now)
	if refusal != nil {
		return dir, refusal
	}
	if name, why := d.checkTimes(&dir.Labels, now); why != "" {
		return dir, invalid(pick(name == "deadline", "X-Godwit-Deadline", "X-Godwit-Send-At"), why)
	}
	return dir, nil
}

// fields makes the header fields that go on top of the message.
func (d *Door) fields(inj *Injection, h *header, id mail.ID, rows []Recipient, template bool, now time.Time) []byte {
	t := trace{
		peerName: inj.PeerName, peer: inj.Peer, hostname: d.deps.Hostname,
		protocol: protocolName(inj.Protocol, inj.SMTPUTF8), tls: inj.TLS, id: id, at: now.UTC(),
	}
	if len(rows) == 1 && !template { // an address may look like a template tag
		t.rcpt = rows[0].Address
	}
	return t.appendFields(make([]byte, 0, 512), h)
}

// asTemplate sets the body's kind and checks a template's size and syntax.
func (d *Door) asTemplate(ctx context.Context, body *mail.Body, template bool) *Error {
	if !template {
		return nil
	}
	body.Kind = mail.BodyRawTemplate
	return d.checkTemplate(ctx, body)
}

func (d *Door) checkTemplate(ctx context.Context, body *mail.Body) *Error {
	if body.Kind == mail.BodyRawTemplate && body.Size > int64(d.opts.MaxTemplate) {
		return refuse(552, 5, 3, 4, "", "Message with template tags too large, at most "+d.opts.MaxTemplate.String())
	}
	if d.deps.Templates == nil || body.Kind == mail.BodyRaw || body.Data == nil {
		return nil
	}
	if err := d.deps.Templates.CheckBody(ctx, body); err != nil {
		return failed(err)
	}
	return nil
}

// put makes batch durable and counts it. Afterwards it is the queue's, so what
// is wanted of it is taken before.
func (d *Door) put(ctx context.Context, batch *mail.Batch) (Accepted, *Error) {
	acc, size := accepted(batch), int64(0)
	if batch.Body != nil {
		size = batch.Body.Size
	}
	protocol := pick(batch.Origin.Protocol == "http", "http", "smtp")
	begin := time.Now()
	if err := d.deps.Queue.Put(ctx, batch); err != nil {
		return Accepted{}, failed(err)
	}
	d.metrics.store.Observe(time.Since(begin).Seconds())
	d.metrics.bytes.Add(float64(size))
	d.metrics.messages[protocol].Add(float64(len(acc.IDs)))
	return acc, nil
}

// refused counts a refusal, and logs one that is our own fault.
func (d *Door) refused(e *Error, tenant, auth string) *Error {
	d.metrics.refused.WithLabelValues(e.Status()).Inc()
	if e.Temporary() && e.Enhanced != [3]int{4, 4, 2} {
		d.log.Warn("injection put off", "status", e.Status(), "tenant", tenant, "auth", auth, "error", e)
	}
	return e
}

// messages makes one message per row from what they have in common.
func (d *Door) messages(base mail.Message, common Labels, rows []Recipient) []*mail.Message {
	all := make([]*mail.Message, len(rows))
	for i := range rows {
		m := new(mail.Message)
		*m = base
		m.ID = base.Batch.Add(i)
		m.Recipient = rows[i].Address
		m.DSN = rows[i].DSN
		if rows[i].Substitutions != nil {
			m.Substitutions = rows[i].Substitutions
		}
		if extra := rows[i].Tags; len(extra) > 0 {
			m.Tags = append(append(make([]mail.Tag, 0, len(base.Tags)+len(extra)), base.Tags...), extra...)
		}
		labels := rows[i].over(common)
		m.Stream, m.Pool = labels.Stream, labels.Pool
		m.Priority = mail.Normal
		if labels.Priority != nil {
			m.Priority = *labels.Priority
		}
		m.NotBefore, m.Deadline = labels.NotBefore, labels.Deadline
		m.Expires = m.Accepted.Add(d.opts.Life.D())
		if m.NotBefore.After(m.Accepted) {
			m.Expires = m.NotBefore.Add(d.opts.Life.D())
		}
		all[i] = m
	}
	return all
}

// over fills the labels that r does not set from common.
func (l Labels) over(common Labels) Labels {
	if l.Stream == "" {
		l.Stream = common.Stream
	}
	if l.Pool == "" {
		l.Pool = common.Pool
	}
	if l.Priority == nil {
		l.Priority = common.Priority
	}
	if l.NotBefore.IsZero() {
		l.NotBefore = common.NotBefore
	}
	if l.Deadline.IsZero() {
		l.Deadline = common.Deadline
	}
	return l
}

func refOf(b *mail.Body) mail.BodyRef {
	return mail.BodyRef{ID: b.ID, Kind: b.Kind, Size: b.Size, EightBit: b.EightBit}
}

// Reserve takes n bytes of the memory budget for a caller that holds request
// data of its own; it waits until they are free, half a minute at most. A quarter of the
// budget is the most one caller can take, more counts as that.
func (d *Door) Reserve(ctx context.Context, n int64) (release func(), err error) {
	n = min(max(n, 0), d.memory.size/4)
	if refusal := d.memory.wait(ctx, n); refusal != nil {
		return nil, refusal
	}
	var once atomic.Bool
	return func() {
		if once.CompareAndSwap(false, true) {
			d.memory.budget.Release(n)
		}
	}, nil
}

// Recipient is CheckAddress for RCPT TO: postmaster without a domain, in any
// case, becomes the configured address (RFC 5321 §4.5.1).
func (d *Door) Recipient(address string, smtputf8 bool) (string, error) {
	if d.IsPostmaster(address) {
		return d.postmaster(), nil
	}
	return CheckAddress(address, smtputf8)
}

// IsPostmaster reports whether address is our own postmaster, to whom anybody may write.
func (d *Door) IsPostmaster(address string) bool {
	local, domain, _ := strings.Cut(address, "@")
	return strings.EqualFold(local, "postmaster") &&
		(domain == "" && !strings.Contains(address, "@") || strings.EqualFold(domain, d.deps.Hostname))
}

func (d *Door) postmaster() string {
	if d.opts.Postmaster != "" {
		return d.opts.Postmaster
	}
	return "postmaster@" + strings.ToLower(d.deps.Hostname)
}
