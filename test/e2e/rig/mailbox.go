package rig

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/mail"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Mail is one copy that a Mailbox took.
type Mail struct {
	ReversePath string
	Recipient   string
	TLS         bool
	UTF8        bool   // MAIL came with SMTPUTF8
	Original    string // RCPT's ORCPT, type;address
	Data        []byte
}

// Header is the message's header; a message that cannot be parsed has none.
func (m *Mail) Header() mail.Header {
	parsed, err := mail.ReadMessage(bytes.NewReader(m.Data))
	if err != nil {
		return mail.Header{}
	}
	return parsed.Header
}

// Body is what follows the blank line, exactly as it came.
func (m *Mail) Body() []byte {
	_, body, _ := bytes.Cut(m.Data, []byte("\r\n\r\n"))
	return body
}

// Mailbox is a mail exchanger that keeps what it takes. It is go-smtp's
// server, so that somebody else's reading of the protocol is at the other end.
type Mailbox struct {
	server   *smtp.Server
	listener net.Listener
	done     chan struct{}

	mu    sync.Mutex
	mails []*Mail
}

// NewMailbox listens at address; a certificate makes it offer STARTTLS.
func NewMailbox(address string, cert *tls.Certificate) (*Mailbox, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("rig: %w", err)
	}
	b := &Mailbox{listener: l, done: make(chan struct{})}
	b.server = smtp.NewServer(b)
	b.server.Domain = "mailbox.test"
	b.server.ErrorLog = log.New(io.Discard, "", 0) // a client that is killed resets its connections
	b.server.EnableSMTPUTF8 = true
	b.server.EnableDSN = true
	b.server.MaxMessageBytes = 64 << 20
	b.server.ReadTimeout = time.Minute
	b.server.WriteTimeout = time.Minute
	if cert != nil {
		b.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*cert}}
	}
	go func() {
		defer close(b.done)
		_ = b.server.Serve(l) // ends by Close
	}()
	return b, nil
}

// Addr is where it listens.
func (b *Mailbox) Addr() string { return b.listener.Addr().String() }

// Close ends it and its connections.
func (b *Mailbox) Close() {
	_ = b.server.Close()
	<-b.done
}

// Mails are the copies so far, in order of arrival.
func (b *Mailbox) Mails() []*Mail {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]*Mail(nil), b.mails...)
}

// To are the copies for one recipient.
func (b *Mailbox) To(recipient string) []*Mail {
	var out []*Mail
	for _, m := range b.Mails() {
		if strings.EqualFold(m.Recipient, recipient) {
			out = append(out, m)
		}
	}
	return out
}

// NewSession implements smtp.Backend.
func (b *Mailbox) NewSession(c *smtp.Conn) (smtp.Session, error) {
	return &visit{box: b, conn: c}, nil
}

// visit is one session at a Mailbox.
type visit struct {
	box  *Mailbox
	conn *smtp.Conn
	from string
	utf8 bool
	to   []recipient
}

type recipient struct{ address, original string }

func (v *visit) Mail(from string, o *smtp.MailOptions) error {
	v.from, v.utf8 = from, o.UTF8
	return nil
}

func (v *visit) Rcpt(to string, o *smtp.RcptOptions) error {
	r := recipient{address: to}
	if o.OriginalRecipient != "" {
		r.original = string(o.OriginalRecipientType) + ";" + o.OriginalRecipient
	}
	v.to = append(v.to, r)
	return nil
}

func (v *visit) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	_, secure := v.conn.TLSConnectionState()
	v.box.mu.Lock()
	defer v.box.mu.Unlock()
	for _, to := range v.to {
		v.box.mails = append(v.box.mails, &Mail{ReversePath: v.from, Recipient: to.address, Original: to.original,
			TLS: secure, UTF8: v.utf8, Data: data})
	}
	return nil
}

func (v *visit) Reset() { v.from, v.utf8, v.to = "", false, nil }

func (v *visit) Logout() error { return nil }
