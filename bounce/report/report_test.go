package report

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-message"

	"github.com/godwit-mta/godwit/internal/mail"
)

func writer(t *testing.T) *Writer {
	t.Helper()
	w, err := New(DefaultOptions(), Deps{Hostname: "mta.example", IDs: new(mail.IDs),
		Now: func() time.Time { return time.Unix(1_700_000_000, 0).UTC() }})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func bounced() (*mail.Message, *mail.Outcome) {
	m := &mail.Message{Recipient: "who@example.org", ReversePath: "sender@example.com", Accepted: time.Unix(1_699_999_000, 0).UTC(),
		DSN: mail.DSN{EnvelopeID: "env-7", OriginalRecipient: "rfc822;alias@example.net"}, Attempts: 1}
	return m, &mail.Outcome{Kind: mail.Bounced, Class: mail.ClassSMTP, Host: "mx.example.org", Started: m.Accepted,
		Reply: mail.Reply{Code: 550, Enhanced: "5.1.1", Text: "no such user\r\nInjected: yes " + strings.Repeat("long ", 300)}}
}

// parse reads a report with another library and returns its parts by type.
func parse(t *testing.T, data []byte) (header message.Header, parts map[string]string) {
	t.Helper()
	e, err := message.Read(strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	parts = map[string]string{}
	mr := e.MultipartReader()
	if mr == nil {
		t.Fatal("not multipart")
	}
	for {
		p, err := mr.NextPart()
		if err == io.EOF {
			return e.Header, parts
		}
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := p.Header.ContentType()
		b, err := io.ReadAll(p.Body)
		if err != nil {
			t.Fatal(err)
		}
		parts[kind] = string(b)
	}
}

func TestBounceReport(t *testing.T) {
	m, out := bounced()
	original := "Subject: hi\r\nX: \xc3\xa9\r\n\r\nbody secret\r\n"
	b, err := writer(t).Report(m, out, func() ([]byte, error) { return []byte(original), nil })
	if err != nil {
		t.Fatal(err)
	}
	r := b.Messages[0]
	if r.ReversePath != "" || r.Recipient != "sender@example.com" || r.DSN.Notify != mail.NotifyNever {
		t.Errorf("envelope: from %q to %q notify %v", r.ReversePath, r.Recipient, r.DSN.Notify)
	}
	header, parts := parse(t, b.Body.Data)
	if kind, params, _ := header.ContentType(); kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Errorf("content type %s %v", kind, params)
	}
	status := parts["message/delivery-status"]
	for _, want := range []string{"Reporting-MTA: dns; mta.example", "Original-Envelope-Id: env-7", "Final-Recipient: rfc822; who@example.org",
		"Original-Recipient: rfc822;alias@example.net", "Action: failed", "Status: 5.1.1", "Remote-MTA: dns; mx.example.org"} {
		if !strings.Contains(status, want) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	if strings.Contains(string(b.Body.Data), "\nInjected:") {
		t.Error("the peer's text became a header line")
	}
	if got := parts["text/rfc822-headers"]; !strings.Contains(got, "Subject: hi") || strings.Contains(got, "secret") {
		t.Errorf("returned header %q", got)
	}
	for _, l := range strings.Split(string(b.Body.Data), "\r\n") {
		if len(l) > 998 || !ascii(l) {
			t.Errorf("line of %d bytes, or not 7-bit", len(l))
		}
	}
}

func TestReturnFull(t *testing.T) {
	m, out := bounced()
	m.DSN.Ret = "FULL"
	b, err := writer(t).Report(m, out, func() ([]byte, error) { return []byte("Subject: hi\r\n\r\nall of it\r\n"), nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, parts := parse(t, b.Body.Data); !strings.Contains(parts["message/rfc822"], "all of it") {
		t.Errorf("parts %v", parts)
	}
}

func TestNoReportAboutReports(t *testing.T) {
	m, out := bounced()
	m.ReversePath = ""
	if b, err := writer(t).Report(m, out, nil); b != nil || err != nil {
		t.Errorf("report to the null reverse path: %v, %v", b, err)
	}
}

func TestUTF8Recipient(t *testing.T) {
	if got, want := typed("ü+x@exämple.org"), `utf-8; \x{FC}\x{2B}x@ex\x{E4}mple.org`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
