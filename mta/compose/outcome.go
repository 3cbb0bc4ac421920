package compose

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/godwit-mta/godwit/internal/mail"
)

// deferred is the outcome of trouble on our side: it may be over at the next
// attempt. text is for the event log; the cause stays internal.
func deferred(text string, cause error) error {
	return &mail.OutcomeError{Outcome: mail.Outcome{
		Kind: mail.Deferred, Class: mail.ClassPolicy,
		Reply: mail.Reply{Enhanced: "4.3.0", Text: text}, Error: cause.Error(),
	}}
}

// unrenderable is the outcome of a message that cannot be made at all.
func unrenderable(format string, args ...any) error {
	return &mail.OutcomeError{Outcome: mail.Outcome{
		Kind: mail.Bounced, Class: mail.ClassRender,
		Reply: mail.Reply{Enhanced: "5.6.0", Text: fmt.Sprintf(format, args...)},
	}}
}

// outcome gives every error the form Compose promises, and logs those that an
// operator has to look at.
func (c *Composer) outcome(ctx context.Context, m *mail.Message, err error) *mail.OutcomeError {
	failure, ok := errors.AsType[*mail.OutcomeError](err)
	if !ok {
		failure, _ = errors.AsType[*mail.OutcomeError](deferred("the message cannot be composed now", err))
	}
	if failure.Outcome.Kind == mail.Deferred && ctx.Err() == nil {
		c.log.Error("cannot compose message", "message", m.ID.String(), "body", m.Body.ID.String(), "error", err)
	}
	return failure
}

// renderError names the part, line and column of a template's error. A time that
// ran out and an error that calls itself temporary do not end the message.
func renderError(ctx context.Context, part string, moved func(line, column int) (int, int), err error) error {
	var temporary interface{ Temporary() bool }
	if ctx.Err() != nil || errors.As(err, &temporary) && temporary.Temporary() {
		return deferred("the template cannot be rendered now", err)
	}
	return unrenderable("%s", templateError(part, moved, err))
}

// withoutPlace removes the place a renderer's text begins with; it is told apart.
func withoutPlace(text string, line, column int) string {
	return strings.TrimPrefix(text, fmt.Sprintf("line %d, column %d: ", line, column))
}

// oneLine makes a text fit for a reply: one line of at most 512 bytes.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > 512 {
		s = strings.ToValidUTF8(s[:512], "")
	}
	return s
}
