package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// plan is a body prepared for the messages that share it.
type plan struct {
	size int64 // for the cache

	// Of a BodyContent.
	content *mail.Content // without its attachments' data, which root holds encoded
	root    *node
	static  bool   // no part of the MIME body varies: the next two hold it
	head    []byte // MIME-Version, Content-Type, …
	body    []byte

	// Of a BodyRawTemplate.
	source rawSource

	mu     sync.Mutex
	digest [2][32]byte // of body, as far as the signer has needed it
}

// known returns what is known of the body's hashes.
func (p *plan) known() [2][32]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.digest
}

// learn remembers hashes the signer has computed.
func (p *plan) learn(digest [2][32]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.digest = digest
}

// plan returns the prepared body of a message, from the cache if it is there.
func (c *Composer) plan(ctx context.Context, m *mail.Message, prepare func(data []byte, id mail.ID) (*plan, error)) (*plan, error) {
	p, hit, err := c.cache.get(m.Body.ID, func() (*plan, error) {
		data, release, err := c.deps.Bodies.Body(ctx, m)
		if err != nil {
			return nil, deferred("the body cannot be read now", err)
		}
		if release != nil {
			defer release()
		}
		return prepare(data, m.Body.ID)
	})
	if err != nil {
		return nil, err
	}
	if hit {
		c.metrics.cache.WithLabelValues("hit").Inc()
	} else {
		c.metrics.cache.WithLabelValues("miss").Inc()
	}
	return p, nil
}

// composeContent makes the MIME message of a content and a row.
func (c *Composer) composeContent(ctx context.Context, m *mail.Message) (*mail.Composed, error) {
	p, err := c.plan(ctx, m, prepareContent)
	if err != nil {
		return nil, err
	}
	w := c.get()
	composed, err := c.finishContent(ctx, m, w, p)
	if err != nil {
		c.put(w)
		return nil, err
	}
	return composed, nil
}

func (c *Composer) finishContent(ctx context.Context, m *mail.Message, w *work, p *plan) (*mail.Composed, error) {
	r := &rendering{ctx: ctx, c: c, m: m, plain: !p.content.Templates}
	head, err := r.contentHeader(w.head[:0], p.content)
	if err != nil {
		return nil, err
	}
	var body [][]byte
	if p.static {
		head = append(head, p.head...)
		body = [][]byte{p.body}
		w.digest = p.known()
	} else {
		mime := mimeWriter{head: head, out: &w.body, text: r.part}
		if err := mime.node(p.root, true); err != nil {
			return nil, err
		}
		head = mime.head
		body = w.body.segments()
	}
	w.head = append(head, '\r', '\n')
	composed, err := c.finish(m, w, !ascii(w.head), w.head, &w.digest, nil, body...)
	if err == nil && p.static {
		p.learn(w.digest)
	}
	return composed, err
}

// part renders a text part in the form its encoding starts from.
func (r *rendering) part(p *textPart) ([]byte, error) {
	text, err := r.text(p.name, p.source, p.html)
	if err != nil {
		return nil, err
	}
	return crlfLines(text), nil
}

// contentHeader appends all fields that are not about MIME.
func (r *rendering) contentHeader(dst []byte, content *mail.Content) ([]byte, error) {
	from := len(dst)
	dst, err := r.field(dst, "From", "from", content.From)
	if err != nil {
		return nil, err
	}
	domain := fromDomain(dst[from:])
	if content.ReplyTo != "" {
		if dst, err = r.field(dst, "Reply-To", "reply_to", content.ReplyTo); err != nil {
			return nil, err
		}
	}
	if named := r.named(); named != "" {
		dst, err = appendAddresses(dst, "To", named)
	} else if content.To != "" {
		dst, err = r.field(dst, "To", "to", content.To)
	} else {
		dst, err = recipientField(dst, r.m.Recipient)
	}
	if err != nil {
		return nil, err
	}
	if dst, err = r.field(dst, "Subject", "subject", content.Subject); err != nil {
		return nil, err
	}
	if !has(content.Headers, "Date") {
		dst = appendDate(dst, r.m.Accepted)
	}
	if !has(content.Headers, "Message-ID") {
		dst = r.c.appendMessageID(dst, r.m, domain)
	}
	for _, h := range content.Headers {
		if isReserved(h.Name) {
			continue
		}
		if dst, err = r.field(dst, h.Name, headerPart(h.Name), h.Value); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// named is the To field of a recipient that the HTTP API was given with a
// name: it comes beside the substitutions, which clients cannot name so.
func (r *rendering) named() string {
	if !bytes.Contains(r.m.Substitutions, []byte(`"_to":`)) {
		return ""
	}
	var own struct {
		To string `json:"_to"`
	}
	if err := json.Unmarshal(r.m.Substitutions, &own); err != nil {
		return ""
	}
	return own.To
}

// field renders and appends one field.
func (r *rendering) field(dst []byte, name, part, src string) ([]byte, error) {
	value, err := r.text(part, src, false)
	if err != nil {
		return nil, err
	}
	out, err := appendHeader(dst, name, value)
	if err != nil {
		return nil, unrenderable("%s: %s", part, oneLine(err.Error()))
	}
	return out, nil
}

// recipientField is the To of a content that has none.
func recipientField(dst []byte, recipient string) ([]byte, error) {
	if out, err := appendAddresses(dst, "To", recipient); err == nil {
		return out, nil
	}
	// The envelope took it, net/mail does not: such as a domain literal.
	if strings.ContainsAny(recipient, "\r\n\x00") {
		return nil, unrenderable("to: %s", errFieldBreak)
	}
	dst = append(dst, "To: <"...)
	dst = append(dst, recipient...)
	return append(dst, ">\r\n"...), nil
}

func has(headers []mail.Header, name string) bool {
	for _, h := range headers {
		if strings.EqualFold(h.Name, name) {
			return true
		}
	}
	return false
}

// isReserved reports whether a field is compose's own, or must not go out at all.
func isReserved(name string) bool {
	switch name = strings.ToLower(name); name {
	case "from", "to", "reply-to", "subject", "mime-version", "content-type", "content-transfer-encoding",
		"content-disposition", "content-id", "bcc", "resent-bcc", "return-path":
		return true
	}
	return strings.HasPrefix(name, "x-godwit-")
}

// appendDate writes Date in UTC: a reloaded row may have another location.
func appendDate(dst []byte, at time.Time) []byte {
	dst = append(dst, "Date: "...)
	dst = at.UTC().AppendFormat(dst, "Mon, 02 Jan 2006 15:04:05 -0700")
	return append(dst, '\r', '\n')
}

// appendMessageID names the message by its id, which is unique.
func (c *Composer) appendMessageID(dst []byte, m *mail.Message, fromDomain string) []byte {
	domain := c.opts.MessageIDDomain
	if domain == "" && asciiString(fromDomain) {
		domain = fromDomain
	}
	if domain == "" {
		domain = c.deps.Hostname
	}
	dst = append(dst, "Message-ID: <"...)
	dst, _ = m.ID.AppendText(dst) // it never fails
	dst = append(dst, '@')
	dst = append(dst, domain...)
	return append(dst, ">\r\n"...)
}

// prepareContent parses a content and encodes what does not vary.
func prepareContent(data []byte, id mail.ID) (*plan, error) {
	content := new(mail.Content)
	if err := json.Unmarshal(data, content); err != nil {
		return nil, deferred("the stored content cannot be read", err)
	}
	p := &plan{content: content}
	var err error
	if p.root, err = tree(content, id); err != nil {
		return nil, err
	}
	content.Attachments, content.Text, content.HTML, content.AMP = nil, "", "", ""
	p.size = int64(len(content.Subject)+len(content.From)+64*len(content.Headers)) + p.root.size() + 1024
	if p.root.varies() {
		return p, nil
	}
	var out builder
	mime := mimeWriter{out: &out}
	if err := mime.node(p.root, true); err != nil {
		return nil, err
	}
	p.static, p.head, p.body = true, mime.head, bytes.Join(out.segments(), nil)
	p.root = nil
	p.size += int64(len(p.body))
	return p, nil
}
