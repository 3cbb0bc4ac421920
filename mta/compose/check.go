package compose

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Checker finds what is wrong with a template source without its variables; html
// as in Renderer. An error may have a method Position() (line, column int).
type Checker interface {
	Check(src string, html bool) error
}

// TemplateError tells in which part of a body a template is faulty, and where.
type TemplateError struct {
	Part         string // subject, text, html, amp, from, …, the message header, the message body
	Line, Column int    // counted from 1; 0 if they are not known
	Text         string
}

// Error implements error.
func (e *TemplateError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("template error in %s: %s", e.Part, e.Text)
	}
	return fmt.Sprintf("template error in %s, line %d, column %d: %s", e.Part, e.Line, e.Column, e.Text)
}

// CheckBody checks every template of a body with its data in memory, cut and
// rendered as Compose would, so that a mistake can be refused at accept instead of bounced
// later. The error is a *TemplateError, or tells that the body cannot be read.
func CheckBody(c Checker, body *mail.Body) error {
	switch body.Kind {
	case mail.BodyRawTemplate:
		return checkRaw(c, body.Data)
	case mail.BodyContent:
		return checkContent(c, body.Data)
	}
	return nil
}

func checkRaw(c Checker, data []byte) error {
	p, err := prepareRaw(data, mail.ID{})
	if err != nil {
		return err
	}
	err = check(c, "the message header", p.source.header, false, func(_, column int) (int, int) {
		return markedPlace(p.source.header, column)
	})
	if err != nil {
		return err
	}
	return check(c, "the message body", p.source.body, false, func(line, column int) (int, int) {
		return line + p.source.lines, column
	})
}

func checkContent(c Checker, data []byte) error {
	var content mail.Content
	if err := json.Unmarshal(data, &content); err != nil {
		return fmt.Errorf("compose: read content: %w", err)
	}
	if !content.Templates {
		return nil
	}
	type part struct {
		name, source string
		html         bool
	}
	parts := []part{
		{"from", content.From, false}, {"reply_to", content.ReplyTo, false}, {"to", content.To, false},
		{"subject", content.Subject, false}, {"text", content.Text, false}, {"amp", content.AMP, true}, {"html", content.HTML, true},
	}
	for _, h := range content.Headers {
		parts = append(parts, part{headerPart(h.Name), h.Value, false})
	}
	for _, p := range parts {
		if err := check(c, p.name, p.source, p.html, nil); err != nil {
			return err
		}
	}
	return nil
}

// headerPart names an extra header field in errors.
func headerPart(name string) string { return "header " + oneLine(name) }

func check(c Checker, part, source string, html bool, move func(line, column int) (int, int)) error {
	if !hasTags(source) {
		return nil
	}
	if err := c.Check(source, html); err != nil {
		return templateError(part, move, err)
	}
	return nil
}

// templateError gives a renderer's error its part and its place in the body.
func templateError(part string, move func(line, column int) (int, int), err error) *TemplateError {
	var at interface{ Position() (line, column int) }
	if !errors.As(err, &at) {
		return &TemplateError{Part: part, Text: oneLine(err.Error())}
	}
	line, column := at.Position()
	text := oneLine(withoutPlace(err.Error(), line, column))
	if move != nil {
		line, column = move(line, column)
	}
	return &TemplateError{Part: part, Line: line, Column: column, Text: text}
}
