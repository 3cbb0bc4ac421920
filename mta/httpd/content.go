package httpd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	netmail "net/mail"
	"strings"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/injectapi"
)

// Limits of what a content may hold beside its size.
const (
	maxHeaders     = 100
	maxAttachments = 200
	maxLine        = 8 << 10 // bytes of one header value
	maxName        = 256     // bytes of a file name or display name
)

// content is a checked content on its way to the Injector.
type content struct {
	body mail.Body
	from string // address that From gives, the default reverse path
	// templates tells whether something is rendered per recipient.
	templates bool
	// toName says that the To field can carry a display name of ours.
	toName bool
}

// postContents serves POST /v1/contents.
func (s *Server) postContents(c *call) *wire.Problem {
	body, p := c.state.bodies.Read(c.w, c.r)
	if p != nil {
		return p
	}
	defer body.Release()
	once, p := s.once(c, body.Bytes)
	if p != nil {
		return p
	}
	defer once.leave()
	if once.before != nil {
		return s.replayContent(c, once)
	}
	in, err := s.contents.Decode(body.Bytes)
	if err != nil {
		return wire.BadJSON(err)
	}
	var f faults
	made := s.content(&f, "", in, "")
	if p := f.problem(); p != nil {
		return p
	}
	answer, p := s.storeContent(c, once, &made.body)
	if p != nil {
		return p
	}
	wire.Write(c.w, http.StatusCreated, answer)
	return nil
}

// content checks in and makes the body of it; pointer is where it stands in the
// request, to the display form of the only recipient, if there is only one.
func (s *Server) content(f *faults, pointer string, in *injectapi.Content, to string) content {
	switch {
	case in.Raw != "" && len(in.RawBase64) > 0:
		f.add(pointer+"/raw", injectapi.CodeConflictingFields, "give either raw or raw_base64")
	case in.Raw != "":
		return s.rawContent(f, pointer, "/raw", []byte(in.Raw), in)
	case len(in.RawBase64) > 0:
		return s.rawContent(f, pointer, "/raw_base64", in.RawBase64, in)
	default:
		return s.parts(f, pointer, in, to)
	}
	return content{}
}

func (s *Server) rawContent(f *faults, pointer, field string, raw []byte, in *injectapi.Content) content {
	if in.From+in.ReplyTo+in.Subject+in.Text+in.HTML+in.AMP != "" || len(in.Headers)+len(in.Attachments) > 0 {
		f.add(pointer+field, injectapi.CodeConflictingFields, "a raw message has no other parts: give only it and templates")
	}
	c := content{templates: in.Templates != nil && *in.Templates}
	var err error
	if c.from, err = rawFrom(raw, c.templates); err != nil {
		f.add(pointer+field, injectapi.CodeInvalidHeader, err.Error())
	}
	c.body = mail.Body{Kind: mail.BodyRaw, Data: raw}
	if c.templates {
		c.body.Kind = mail.BodyRawTemplate
		s.template(f, pointer+field, string(raw), false)
	}
	return c
}

// rawFrom is the first address of a raw message's From field.
func rawFrom(raw []byte, templates bool) (string, error) {
	// The reader takes up the header only; the body is not looked at.
	m, err := netmail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return "", errors.New("is not a message: its header cannot be read")
	}
	value := m.Header.Get("From")
	if value == "" {
		return "", errors.New("has no From header field")
	}
	if templates && hasTags(value) {
		return fromAddress(value, true)
	}
	list, err := anyCharset().ParseList(value)
	if err != nil || len(list) == 0 {
		return "", errors.New("its From header field is not an address")
	}
	return fromAddress("<"+list[0].Address+">", false)
}

func passCharset(_ string, r io.Reader) (io.Reader, error) { return r, nil }

// parts checks a content in parts.
func (s *Server) parts(f *faults, pointer string, in *injectapi.Content, to string) content {
	c := content{toName: true}
	wanted := in.Templates == nil || *in.Templates
	s.fields(f, pointer, in, wanted, &c)
	if in.Text == "" && in.HTML == "" {
		f.add(pointer+"/text", injectapi.CodeRequired, "text, html or raw is needed")
	}
	stored := mail.Content{From: in.From, ReplyTo: in.ReplyTo, To: to, Subject: in.Subject,
		Text: in.Text, HTML: in.HTML, AMP: in.AMP}
	tagged := hasTags(in.From) || hasTags(in.ReplyTo)
	for _, part := range []struct {
		field, text string
		html        bool
	}{{"/subject", in.Subject, false}, {"/text", in.Text, false}, {"/html", in.HTML, true}, {"/amp", in.AMP, true}} {
		if wanted && hasTags(part.text) {
			tagged = true
			s.template(f, pointer+part.field, part.text, part.html)
		}
	}
	tagged = s.headers(f, pointer, in.Headers, wanted, &stored) || tagged
	attachments(f, pointer, in.Attachments, &stored)
	c.templates = wanted && tagged
	stored.Templates = c.templates
	if len(*f) == 0 {
		c.body = mail.Body{Kind: mail.BodyContent, Data: encodeContent(&stored)}
	}
	return c
}

// fields checks the fields that have a name of their own in the API.
func (s *Server) fields(f *faults, pointer string, in *injectapi.Content, templates bool, c *content) {
	f.line(pointer+"/subject", in.Subject, maxLine)
	switch {
	case in.From == "":
		f.add(pointer+"/from", injectapi.CodeRequired, "from is needed")
	case f.line(pointer+"/from", in.From, maxLine):
		var err error
		if c.from, err = fromAddress(in.From, templates); err != nil {
			f.add(pointer+"/from", injectapi.CodeInvalidAddress, err.Error())
		}
		s.headerTemplate(f, pointer+"/from", in.From, templates)
	}
	if in.ReplyTo != "" && f.line(pointer+"/reply_to", in.ReplyTo, maxLine) {
		if err := checkReplyTo(in.ReplyTo, templates); err != nil {
			f.add(pointer+"/reply_to", injectapi.CodeInvalidAddress, err.Error())
		}
		s.headerTemplate(f, pointer+"/reply_to", in.ReplyTo, templates)
	}
}

func (s *Server) headerTemplate(f *faults, pointer, text string, templates bool) {
	if templates && hasTags(text) {
		s.template(f, pointer, text, false)
	}
}

// ours are the fields that the engine writes itself or that have a field of the API.
func ours(name string) bool {
	switch lower := strings.ToLower(name); lower {
	case "from", "reply-to", "to", "subject", "bcc", "resent-bcc", "mime-version", "content-type",
		"content-transfer-encoding", "content-disposition", "content-id", "return-path", "received", "dkim-signature":
		return true
	default:
		return strings.HasPrefix(lower, "x-godwit-")
	}
}

func (s *Server) headers(f *faults, pointer string, in []injectapi.Header, templates bool, out *mail.Content) (tagged bool) {
	if len(in) > maxHeaders {
		f.add(pointer+"/headers", injectapi.CodeTooLong, fmt.Sprintf("at most %d header fields", maxHeaders))
		return false
	}
	for i, h := range in {
		at := fmt.Sprintf("%s/headers/%d", pointer, i)
		if f.line(at+"/name", h.Name, 76) {
			switch {
			case !fieldName(h.Name):
				f.add(at+"/name", injectapi.CodeInvalidHeader, fmt.Sprintf("%q is not a header field name", h.Name))
			case ours(h.Name):
				f.add(at+"/name", injectapi.CodeInvalidHeader, h.Name+" cannot be set here: it has a field of its own or is written by the server")
			}
		}
		if f.line(at+"/value", h.Value, maxLine) && templates && hasTags(h.Value) {
			tagged = true
			s.template(f, at+"/value", h.Value, false)
		}
		out.Headers = append(out.Headers, mail.Header{Name: h.Name, Value: h.Value})
	}
	return tagged
}

// fieldName holds for printable ASCII without colon (RFC 5322 §2.2).
func fieldName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == ':' {
			return false
		}
	}
	return s != ""
}

func attachments(f *faults, pointer string, in []injectapi.Attachment, out *mail.Content) {
	if len(in) > maxAttachments {
		f.add(pointer+"/attachments", injectapi.CodeTooLong, fmt.Sprintf("at most %d attachments", maxAttachments))
		return
	}
	for i, a := range in {
		at := fmt.Sprintf("%s/attachments/%d", pointer, i)
		if a.Name == "" {
			f.add(at+"/name", injectapi.CodeRequired, "name is needed")
		}
		f.line(at+"/name", a.Name, maxName)
		if f.line(at+"/content_id", a.ContentID, maxName) && strings.ContainsAny(a.ContentID, "<> \t") {
			f.add(at+"/content_id", wire.CodeInvalidValue, "must not contain < > or spaces")
		}
		if f.line(at+"/type", a.Type, maxName) {
			kind, _, err := mime.ParseMediaType(a.Type)
			if err != nil || !strings.Contains(kind, "/") || strings.HasPrefix(kind, "multipart/") {
				f.add(at+"/type", wire.CodeInvalidValue, fmt.Sprintf("%q is not the media type of a file", a.Type))
			}
		}
		out.Attachments = append(out.Attachments, mail.Attachment{Name: a.Name, Type: a.Type, ContentID: a.ContentID, Data: a.Data})
	}
}

// template has the Checker look at src.
func (s *Server) template(f *faults, pointer, src string, html bool) {
	if s.deps.Checker == nil {
		return
	}
	err := s.deps.Checker.Check(src, html)
	if err == nil {
		return
	}
	n := len(*f)
	f.add(pointer, injectapi.CodeTemplate, err.Error())
	var place interface{ Position() (line, column int) }
	if errors.As(err, &place) && len(*f) > n {
		(*f)[n].Line, (*f)[n].Column = place.Position()
	}
}

// encodeContent writes HTML as it is: escaping < and > would make it a fifth longer.
func encodeContent(c *mail.Content) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	// It cannot fail: strings, bytes and bools only.
	_ = enc.Encode(c)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
