package accept

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Batch stores one HTTP injection, all or nothing. The error is an *Error whose
// Field is a path in the terms of the API: reverse_path, stream, send_at, body,
// recipients[3].address; Rows lists every refused recipient.
func (d *Door) Batch(ctx context.Context, req *Request) (Accepted, error) {
	d.metrics.inFlight.Add(1)
	defer d.metrics.inFlight.Add(-1)
	acc, refusal := d.batch(ctx, req)
	if refusal != nil {
		return Accepted{}, d.refused(refusal, req.Tenant, req.AuthID)
	}
	return acc, nil
}

func (d *Door) batch(ctx context.Context, req *Request) (Accepted, *Error) {
	now := d.deps.Now()
	reversePath, rows, refusal := d.checkRequest(req, now)
	if refusal != nil {
		return Accepted{}, refusal
	}
	id := d.deps.IDs.Reserve(now, len(rows)+1)
	batch := &mail.Batch{Origin: mail.Origin{Protocol: "http", Peer: peerText(req.Peer), AuthID: req.AuthID}}
	stored := &storedBody{}
	var ref mail.BodyRef
	if req.Content != nil {
		ref = *req.Content
		ref.Content = true
	} else {
		inj := &Injection{Protocol: "http", Peer: req.Peer, TLS: req.TLS}
		if stored, refusal = d.store(ctx, req.Body, inj, id, id.Add(len(rows)), rows, now); refusal != nil {
			return Accepted{}, refusal
		}
		batch.Body, ref = stored.body, refOf(stored.body)
	}
	defer stored.close()
	base := mail.Message{Batch: id, Accepted: now, Tenant: req.Tenant, Tags: req.Tags, ReversePath: reversePath, Body: ref}
	batch.Messages = d.messages(base, req.Labels, rows)
	for _, m := range batch.Messages {
		m.SMTPUTF8 = !isASCII(m.Recipient) || !isASCII(reversePath)
	}
	batch.Receipt = req.receipt(batch, now)
	acc, refusal := d.put(ctx, batch)
	if refusal == nil {
		stored.file = nil // the queue's now
	}
	return acc, refusal
}

// receipt makes what is stored under the idempotency key; nil when none is asked for.
func (req *Request) receipt(batch *mail.Batch, now time.Time) *mail.Receipt {
	if req.Receipt == nil {
		return nil
	}
	return &mail.Receipt{Tenant: req.Tenant, Key: req.Receipt.Key, Digest: req.Receipt.Digest,
		Answer: req.Receipt.Answer(accepted(batch)), At: now}
}

// accepted is the promise that a batch stands for once it is durable.
func accepted(b *mail.Batch) Accepted {
	if len(b.Messages) == 0 {
		return Accepted{}
	}
	acc := Accepted{Batch: b.Messages[0].Batch, IDs: make([]mail.ID, len(b.Messages))}
	for i, m := range b.Messages {
		acc.IDs[i] = m.ID
	}
	return acc
}

// checkRequest checks all that can be wrong with req but its body.
func (d *Door) checkRequest(req *Request, now time.Time) (reversePath string, rows []Recipient, refusal *Error) {
	if (req.Body == nil) == (req.Content == nil) {
		return "", nil, refuse(550, 5, 6, 0, "body", "Exactly one of content and content id must be given")
	}
	reversePath, err := CheckReversePath(req.ReversePath, true)
	if err != nil {
		refusal := failed(err)
		refusal.Field = "reverse_path"
		return "", nil, refusal
	}
	if field, why := d.badLabels(&req.Labels, req.Tags, now); why != "" {
		return "", nil, refuse(550, 5, 6, 0, field, field+" "+why)
	}
	if why := badLabel(req.Tenant); req.Tenant != "" && why != "" {
		return "", nil, refuse(550, 5, 6, 0, "tenant", "tenant "+why)
	}
	if rows, refusal = d.checkRecipients(req.Recipients, true); refusal != nil {
		return "", nil, refusal
	}
	raw := req.Body != nil && req.Body.Kind == mail.BodyRaw || req.Content != nil && req.Content.Kind == mail.BodyRaw
	return reversePath, rows, d.checkRows(req, rows, raw, now)
}

// checkRows checks what is each recipient's own.
func (d *Door) checkRows(req *Request, rows []Recipient, raw bool, now time.Time) *Error {
	var bad rowErrors
	for i := range rows {
		r := &rows[i]
		if r.Substitutions != nil {
			if raw {
				bad.add(i, "substitutions", refuse(550, 5, 6, 0, "", "substitutions need a body with templates"))
			} else if why := d.badSubstitutions(r.Substitutions); why != "" {
				bad.add(i, "substitutions", refuse(550, 5, 6, 0, "", "substitutions "+why))
			}
		}
		labels := r.over(req.Labels)
		if field, why := d.badLabels(&labels, r.Tags, now); why != "" {
			bad.add(i, field, refuse(550, 5, 6, 0, "", field+" "+why))
		}
		if len(req.Tags)+len(r.Tags) > maxTags {
			bad.add(i, "tags", refuse(550, 5, 6, 0, "", "tags must not be more than "+strconv.Itoa(maxTags)))
		}
	}
	return bad.refusal()
}

// badLabels checks labels and tags; the answer names the field as the API does.
func (d *Door) badLabels(l *Labels, tags []mail.Tag, now time.Time) (field, why string) {
	if l.Stream != "" && badLabel(l.Stream) != "" {
		return "stream", badLabel(l.Stream)
	}
	if l.Pool != "" && badLabel(l.Pool) != "" {
		return "pool", badLabel(l.Pool)
	}
	if field, why := d.checkTimes(l, now); why != "" {
		return field, why
	}
	for _, t := range tags {
		if why := badTag(t); why != "" {
			return "tags", why
		}
	}
	return "", ""
}

// checkRecipients returns the recipients with their addresses as they are stored.
func (d *Door) checkRecipients(rcpts []Recipient, smtputf8 bool) ([]Recipient, *Error) {
	if len(rcpts) == 0 {
		return nil, refuse(554, 5, 5, 1, "recipients", "No valid recipients")
	}
	if len(rcpts) > d.opts.MaxRecipients {
		return nil, refuse(552, 5, 5, 3, "recipients", "Too many recipients, at most "+strconv.Itoa(d.opts.MaxRecipients))
	}
	rows := make([]Recipient, len(rcpts))
	var bad rowErrors
	for i := range rcpts {
		rows[i] = rcpts[i]
		address, err := d.Recipient(rcpts[i].Address, smtputf8)
		if err != nil {
			bad.add(i, "address", failed(err))
			continue
		}
		rows[i].Address = address
	}
	return rows, bad.refusal()
}

// rowErrors collects refused recipients.
type rowErrors []RowError

func (r *rowErrors) add(i int, field string, e *Error) {
	e.Field = fmt.Sprintf("recipients[%d].%s", i, field)
	*r = append(*r, RowError{Index: i, Error: e})
}

func (r rowErrors) refusal() *Error {
	if len(r) == 0 {
		return nil
	}
	first := *r[0].Error
	first.Rows = r
	return &first
}
