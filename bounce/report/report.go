// Package report writes delivery status notifications: the multipart/report of
// RFC 3462 with the message/delivery-status part of RFC 3464, for RFC 3461
// senders. A report goes to the reverse path of the message, from the null
// reverse path, so that no report is ever about a report.
package report

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
)

// Options are the configurable parts.
type Options struct {
	From        string         `toml:"from" doc:"From address of reports; empty is mailer-daemon@ the hostname."`
	Life        units.Duration `toml:"life" doc:"How long delivery of a report is tried."`
	MaxReturned units.Size     `toml:"max_returned" doc:"Largest message that is returned whole when RET=FULL asks for it; above it only the header is."`
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	return Options{Life: units.Duration(72 * time.Hour), MaxReturned: 100 << 10}
}

// Validate names the first key that cannot be used.
func (o Options) Validate() error {
	if o.Life.D() <= 0 {
		return errors.New("life: must be positive")
	}
	if o.From != "" && mail.DomainOf(o.From) == "" {
		return fmt.Errorf("from: %q is not an address", o.From)
	}
	return nil
}

// Deps are what a writer works with.
type Deps struct {
	Hostname string // the Reporting-MTA
	IDs      *mail.IDs
	Now      func() time.Time // nil: time.Now
}

// Writer writes reports.
type Writer struct {
	o Options
	d Deps
}

// New checks the options and returns a writer.
func New(o Options, d Deps) (*Writer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if d.Hostname == "" || d.IDs == nil {
		return nil, errors.New("report: hostname and ids are needed")
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if o.From == "" {
		o.From = "mailer-daemon@" + d.Hostname
	}
	return &Writer{o: o, d: d}, nil
}

// Report makes the report about one outcome of a message, ready to be put
// into the queue. The original is asked for only when it is needed; if it
// cannot be read the report goes without it.
func (w *Writer) Report(m *mail.Message, out *mail.Outcome, original func() ([]byte, error)) (*mail.Batch, error) {
	if m.ReversePath == "" {
		return nil, nil
	}
	now := w.d.Now()
	id := w.d.IDs.Reserve(now, 2)
	data := w.compose(id, now, m, out, w.returned(m, out, original))
	report := &mail.Message{
		ID: id, Batch: id, Accepted: now, Expires: now.Add(w.o.Life.D()),
		Tenant: m.Tenant, Stream: m.Stream, Pool: m.Pool, Priority: mail.Bulk,
		Recipient: m.ReversePath, DSN: mail.DSN{Notify: mail.NotifyNever}, SMTPUTF8: !ascii(m.ReversePath),
		Body: mail.BodyRef{ID: id.Add(1), Size: int64(len(data))},
	}
	return &mail.Batch{Messages: []*mail.Message{report}, Origin: mail.Origin{Protocol: "local"},
		Body: &mail.Body{ID: id.Add(1), Size: int64(len(data)), Data: data}}, nil
}

// part is the returned message: its header, or all of it.
type part struct {
	mediaType string
	data      []byte
}

// returned chooses what of the original goes back (RFC 3461 §4.3): a success
// report carries the header only; so does anything that is not 7-bit clean.
func (w *Writer) returned(m *mail.Message, out *mail.Outcome, original func() ([]byte, error)) *part {
	if m.Body.Kind != mail.BodyRaw || original == nil {
		return nil
	}
	data, err := original()
	if err != nil {
		return nil
	}
	if m.DSN.Ret == "FULL" && out.Kind != mail.Delivered && int64(len(data)) <= int64(w.o.MaxReturned) && ascii(string(data)) {
		return &part{"message/rfc822", data}
	}
	header := data
	if end := bytes.Index(data, []byte("\r\n\r\n")); end >= 0 {
		header = data[:end+2]
	}
	return &part{"text/rfc822-headers", []byte(strings.Map(toASCII, string(header)))}
}

func toASCII(r rune) rune {
	if r > 126 {
		return '?'
	}
	return r
}

func (w *Writer) compose(id mail.ID, now time.Time, m *mail.Message, out *mail.Outcome, returned *part) []byte {
	var b bytes.Buffer
	boundary := "report-" + id.String()
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	line("From: Mail Delivery System <%s>", w.o.From)
	line("To: <%s>", m.ReversePath)
	line("Subject: %s", subject(out))
	line("Date: %s", now.Format(time.RFC1123Z))
	line("Message-ID: <%v@%s>", id, w.d.Hostname)
	line("Auto-Submitted: auto-replied")
	line("MIME-Version: 1.0")
	line("Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"%s\"", boundary)
	line("")
	line("--%s", boundary)
	line("Content-Type: text/plain; charset=us-ascii")
	line("")
	w.explain(line, m, out)
	line("--%s", boundary)
	line("Content-Type: message/delivery-status")
	line("")
	w.status(line, m, out)
	if returned != nil {
		line("--%s", boundary)
		line("Content-Type: %s", returned.mediaType)
		line("")
		b.Write(returned.data)
		line("")
	}
	line("--%s--", boundary)
	return b.Bytes()
}

func subject(out *mail.Outcome) string {
	if out.Kind == mail.Delivered {
		return "Delivered: your message"
	}
	return "Undeliverable: your message could not be delivered"
}

// explain is the part for people.
func (w *Writer) explain(line func(string, ...any), m *mail.Message, out *mail.Outcome) {
	line("This is the mail system at %s.", w.d.Hostname)
	line("")
	switch {
	case out.Kind == mail.Delivered:
		line("Your message was delivered to the mail server of")
	case out.Class == mail.ClassExpired:
		line("Your message was given up after %d attempts. It was for", m.Attempts)
	default:
		line("Your message could not be delivered and will not be tried again. It was for")
	}
	line("")
	line("    %s", printable(m.Recipient))
	line("")
	if out.Host != "" {
		line("The server %s said:", printable(out.Host))
	} else {
		line("The reason:")
	}
	line("")
	for _, part := range wrap(printable(out.Reply.String()), 72) {
		line("    %s", part)
	}
	line("")
}

// status is the part for programs, RFC 3464 §2.
func (w *Writer) status(line func(string, ...any), m *mail.Message, out *mail.Outcome) {
	line("Reporting-MTA: dns; %s", w.d.Hostname)
	if m.DSN.EnvelopeID != "" {
		line("Original-Envelope-Id: %s", printable(m.DSN.EnvelopeID))
	}
	line("Arrival-Date: %s", m.Accepted.Format(time.RFC1123Z))
	line("")
	if m.DSN.OriginalRecipient != "" {
		line("Original-Recipient: %s", original(m.DSN.OriginalRecipient))
	}
	line("Final-Recipient: %s", typed(m.Recipient))
	if out.Kind == mail.Delivered {
		line("Action: relayed") // the peer offered no DSN, RFC 3461 §5.2.2
	} else {
		line("Action: failed")
	}
	line("Status: %s", statusCode(out))
	if out.Host != "" {
		line("Remote-MTA: dns; %s", printable(out.Host))
	}
	if out.Class == mail.ClassSMTP && out.Reply.Code != 0 {
		line("Diagnostic-Code: smtp; %s", strings.Join(wrap(printable(out.Reply.String()), 900), "\r\n "))
	}
	if !out.Started.IsZero() {
		line("Last-Attempt-Date: %s", out.Started.Format(time.RFC1123Z))
	}
	line("")
}

// statusCode is the enhanced code of the reply, or what its class says (RFC 3463).
func statusCode(out *mail.Outcome) string {
	if out.Reply.Enhanced != "" {
		return out.Reply.Enhanced
	}
	if out.Kind == mail.Delivered {
		return "2.0.0"
	}
	return "5.0.0"
}

// original is what ORCPT told, type;address; non-ASCII ones in the 7-bit form of RFC 6533 §3.
func original(s string) string {
	kind, address, ok := strings.Cut(s, ";")
	if ok && strings.EqualFold(kind, "utf-8") && !ascii(address) {
		return typed(address)
	}
	return printable(s)
}

// typed is an address with its type; non-ASCII ones in the 7-bit form of RFC 6533 §3.
func typed(address string) string {
	if ascii(address) {
		return "rfc822; " + printable(address)
	}
	var b strings.Builder
	b.WriteString("utf-8; ")
	for _, r := range address {
		if r > 126 || r < 33 || r == '\\' || r == '+' || r == '=' {
			fmt.Fprintf(&b, "\\x{%X}", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// printable replaces what may not stand in a header or a 7-bit text.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > 126 {
			return '?'
		}
		return r
	}, s)
}

// wrap breaks s into lines of at most n bytes, at spaces where there are any.
func wrap(s string, n int) []string {
	var lines []string
	for len(s) > n {
		cut := strings.LastIndexByte(s[:n], ' ')
		if cut <= 0 {
			cut = n
		}
		lines = append(lines, s[:cut])
		s = strings.TrimPrefix(s[cut:], " ")
	}
	return append(lines, s)
}
