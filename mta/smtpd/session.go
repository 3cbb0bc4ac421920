package smtpd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"strconv"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/accept"
	"github.com/godwit-mta/godwit/mta/smtp"
)

// session is the policy for one connection between two EHLO or STARTTLS. Its
// methods are called one after the other.
type session struct {
	srv    *Server
	state  *state // of the listener, as it was when the connection came in
	conn   smtp.Conn
	client *client

	tls string // version and cipher, "" in clear

	user string // who is logged in
	inj  accept.Injection
	dsn  mail.DSN // what MAIL asked for
}

// text makes a reply. Every word in it is meant for the peer.
func text(code int, enhanced gosmtp.EnhancedCode, message string) *gosmtp.SMTPError {
	return &gosmtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: message}
}

// Mail begins a transaction: RFC 5321 §4.1.1.2.
func (s *session) Mail(from string, opts *gosmtp.MailOptions) error {
	policy := s.srv.policy.Load()
	r := policy.rights(s.client.addr, s.user)
	if s.state.Submission && (s.user == "" || !r.relay) {
		return text(530, gosmtp.EnhancedCode{5, 7, 0}, "Authentication required")
	}
	path, err := accept.CheckReversePath(from, opts.UTF8)
	if err != nil {
		return s.refusal("MAIL", err)
	}
	recipients := s.inj.Recipients[:0]
	s.inj = accept.Injection{
		Protocol: s.protocol(), Tenant: r.tenant, AuthID: s.user, Trusted: r.relay, AnyTenant: r.anyTenant,
		Peer: s.client.addr, PeerName: s.conn.Hostname(), ReversePath: path, Recipients: recipients,
		SMTPUTF8: opts.UTF8, EightBit: opts.Body == gosmtp.Body8BitMIME, SizeHint: opts.Size,
		TLS: s.tls,
	}
	s.dsn = mail.DSN{Ret: string(opts.Return), EnvelopeID: opts.EnvelopeID}
	return nil
}

// protocol is the with clause of the Received field, RFC 3848.
func (s *session) protocol() string {
	if !s.conn.ESMTP() || s.client.helo {
		return "smtp"
	}
	p := "esmtp"
	if s.tls != "" {
		p += "s"
	}
	if s.user != "" {
		p += "a"
	}
	return p
}

func describeTLS(state tls.ConnectionState) string {
	return tls.VersionName(state.Version) + " " + tls.CipherSuiteName(state.CipherSuite)
}

// Rcpt adds a recipient. Relay control is here: without rights only our own postmaster can be written to.
func (s *session) Rcpt(to string, opts *gosmtp.RcptOptions) error {
	if !s.inj.Trusted && !s.srv.deps.Door.IsPostmaster(to) {
		s.srv.metrics.denied.Inc()
		s.srv.log.LogAttrs(s.conn.Context(), slog.LevelInfo, "relaying denied", slog.Any("peer", s.client.addr), slog.String("recipient", to))
		return text(550, gosmtp.EnhancedCode{5, 7, 1}, "Relaying denied")
	}
	if len(s.inj.Recipients) >= s.srv.policy.Load().opts.MaxRecipients {
		return text(452, gosmtp.EnhancedCode{4, 5, 3}, "Too many recipients, send the rest in another transaction")
	}
	address, err := s.srv.deps.Door.Recipient(to, s.inj.SMTPUTF8)
	if err != nil {
		return s.refusal("RCPT", err)
	}
	s.inj.Recipients = append(s.inj.Recipients, accept.Recipient{Address: address, DSN: recipientDSN(s.dsn, opts)})
	return nil
}

// recipientDSN adds what RCPT asked (RFC 3461 §4) to what MAIL asked.
func recipientDSN(d mail.DSN, opts *gosmtp.RcptOptions) mail.DSN {
	for _, n := range opts.Notify {
		switch n {
		case gosmtp.DSNNotifyNever:
			d.Notify |= mail.NotifyNever
		case gosmtp.DSNNotifySuccess:
			d.Notify |= mail.NotifySuccess
		case gosmtp.DSNNotifyFailure:
			d.Notify |= mail.NotifyFailure
		case gosmtp.DSNNotifyDelayed:
			d.Notify |= mail.NotifyDelay
		}
	}
	if opts.OriginalRecipient != "" {
		d.OriginalRecipient = string(opts.OriginalRecipientType) + ";" + opts.OriginalRecipient
	}
	return d
}

// Data takes the message. Its success carries the id, so it is an *SMTPError too.
func (s *session) Data(r io.Reader) error {
	acc, err := s.srv.deps.Door.Message(s.conn.Context(), &s.inj, r)
	if err != nil {
		return s.refusal("DATA", err)
	}
	return text(250, gosmtp.EnhancedCode{2, 0, 0}, queued(acc))
}

// queued is the text after DATA; see the package comment.
func queued(acc accept.Accepted) string {
	s := "Ok: queued as " + acc.Batch.String()
	if n := len(acc.IDs); n > 1 {
		s += " (" + strconv.Itoa(n) + " messages)"
	}
	return s
}

// refusal turns the Door's answer into a reply and logs it.
func (s *session) refusal(command string, err error) error {
	var reply *gosmtp.SMTPError
	if errors.As(err, &reply) { // what the connection loop found wrong with the data
		return reply
	}
	var refused *accept.Error
	if !errors.As(err, &refused) {
		return err
	}
	s.srv.log.LogAttrs(context.Background(), slog.LevelInfo, "injection refused", slog.String("command", command),
		slog.Any("peer", s.client.addr), slog.String("user", s.user), slog.Any("error", err))
	return &gosmtp.SMTPError{Code: refused.Code, EnhancedCode: refused.Enhanced, Message: refused.Message}
}

// Reset forgets the transaction.
func (s *session) Reset() {
	keep := s.inj.Recipients[:0]
	if cap(keep) > 64 {
		keep = nil
	}
	clear(s.inj.Recipients)
	s.inj = accept.Injection{Recipients: keep}
}

// Logout ends the session.
func (s *session) Logout() error { return nil }
