package smtpd

import (
	"context"
	"log/slog"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"
)

func errLogin() *gosmtp.SMTPError {
	return text(535, gosmtp.EnhancedCode{5, 7, 8}, "Authentication credentials invalid")
}

func errBlocked() *gosmtp.SMTPError {
	return text(421, gosmtp.EnhancedCode{4, 7, 0}, tooManyFailures)
}

const tooManyFailures = "Too many authentication failures, try again later"

// AuthMechanisms are offered when there is anybody who can log in. The
// connection loop keeps them back until TLS where the listener asks for it.
func (s *session) AuthMechanisms() []string {
	if len(s.srv.policy.Load().users) == 0 {
		return nil
	}
	return []string{sasl.Plain, sasl.Login}
}

// Auth begins an exchange, RFC 4954.
func (s *session) Auth(mech string) (sasl.Server, error) {
	if s.srv.blocked(s.client.addr) {
		s.srv.metrics.auth.WithLabelValues("blocked").Inc()
		return nil, errBlocked()
	}
	switch mech {
	case sasl.Plain:
		return sasl.NewPlainServer(func(identity, user, password string) error {
			if identity != "" && identity != user { // nobody may act for another
				return s.failed(user)
			}
			return s.login(user, password)
		}), nil
	case sasl.Login:
		return &loginServer{login: s.login}, nil
	}
	return nil, text(504, gosmtp.EnhancedCode{5, 5, 4}, "Mechanism not available")
}

// login verifies a password. An unknown user costs as much time as a wrong password.
func (s *session) login(user, password string) error {
	hash := s.srv.policy.Load().users[user].PasswordHash
	ctx, cancel := context.WithTimeout(s.conn.Context(), time.Minute)
	defer cancel()
	ok, err := s.srv.deps.Passwords.Verify(ctx, user, hash, password)
	if err != nil {
		s.srv.metrics.auth.WithLabelValues("error").Inc()
		s.srv.log.LogAttrs(ctx, slog.LevelWarn, "login could not be verified", slog.String("user", user), slog.Any("peer", s.client.addr), slog.Any("error", err))
		return text(454, gosmtp.EnhancedCode{4, 7, 0}, "Temporary authentication failure")
	}
	if !ok {
		return s.failed(user)
	}
	s.srv.metrics.auth.WithLabelValues("ok").Inc()
	s.user = user
	return nil
}

// failed counts a failed login; the one that reaches the limit closes the connection.
func (s *session) failed(user string) error {
	o := &s.srv.policy.Load().opts
	n := s.srv.failures.add(clientKey(s.client.addr), s.srv.deps.Now(), o.AuthWindow.D(), o.AuthFailures)
	s.srv.metrics.auth.WithLabelValues("wrong").Inc()
	s.srv.log.LogAttrs(context.Background(), slog.LevelWarn, "login failed",
		slog.String("user", user), slog.Any("peer", s.client.addr), slog.Int("failures", n))
	if n >= o.AuthFailures {
		return errBlocked()
	}
	return errLogin()
}

// loginServer is the LOGIN mechanism (draft-murchison-sasl-login): user name and
// password, asked for one after the other.
type loginServer struct {
	login func(user, password string) error
	asked int
	user  string
}

// Next implements sasl.Server.
func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	if response == nil && l.asked == 0 {
		l.asked = 1
		return []byte("Username:"), false, nil
	}
	switch l.asked {
	case 0, 1: // as an initial response, or as the first answer
		l.user, l.asked = string(response), 2
		return []byte("Password:"), false, nil
	case 2:
		l.asked = 3
		return nil, true, l.login(l.user, string(response))
	}
	return nil, false, sasl.ErrUnexpectedClientResponse
}
