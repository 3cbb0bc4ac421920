package httpd

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/accept"
	"github.com/godwit-mta/godwit/mta/injectapi"
)

// postMessages serves POST /v1/messages.
func (s *Server) postMessages(c *call) *wire.Problem {
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
	in, err := s.messages.Decode(body.Bytes)
	if err != nil {
		return wire.BadJSON(err)
	}
	if once.before != nil {
		return s.replayMessages(c, in, once.before)
	}
	req, rows, p := s.prepare(c, in)
	if p != nil {
		return p
	}
	done, p := s.inject(c, once, in, req, rows)
	if p != nil {
		return p
	}
	s.metrics.recipients.WithLabelValues("accepted").Add(float64(len(rows.kept)))
	s.metrics.recipients.WithLabelValues("rejected").Add(float64(len(rows.rejected)))
	wire.WriteBytes(c.w, http.StatusAccepted, appendAnswer(nil, done, rows.addresses(), rows.rejected))
	return nil
}

// prepare checks the request and turns it into the Injector's.
func (s *Server) prepare(c *call, in *injectapi.MessagesRequest) (*accept.Request, *rows, *wire.Problem) {
	var f faults
	req := &accept.Request{Tenant: c.key.Tenant, AuthID: c.key.Name, Peer: c.peer(), TLS: c.tls()}
	limit := c.state.opts.MaxRecipients
	switch {
	case len(in.Recipients) == 0:
		f.add("/recipients", injectapi.CodeRequired, "at least one recipient is needed")
	case len(in.Recipients) > limit:
		f.add("/recipients", injectapi.CodeTooManyRecipients, "at most "+strconv.Itoa(limit)+" recipients")
	}
	s.labels(&f, in, req)
	made, p := s.contentOf(c, &f, in, req)
	if p != nil {
		return nil, nil, p
	}
	reversePath(&f, in, made, req)
	if len(in.Substitutions) > 0 {
		reserved(&f, "/substitutions", in.Substitutions)
		if made.body.Kind == mail.BodyRaw && len(f) == 0 {
			f.add("/substitutions", injectapi.CodeConflictingFields, "the content is raw and has no templates")
		}
	}
	if p := f.problem(); p != nil {
		return nil, nil, p
	}
	r := newRows(in, made)
	if p := r.refused(in.Strict); p != nil {
		return nil, nil, p
	}
	return req, r, nil
}

// labels checks what concerns every message alike.
func (s *Server) labels(f *faults, in *injectapi.MessagesRequest, req *accept.Request) {
	f.line("/stream", in.Stream, maxName)
	f.line("/pool", in.Pool, maxName)
	req.Stream, req.Pool = in.Stream, in.Pool
	if in.Priority != "" {
		priority, ok := mail.ParsePriority(in.Priority)
		if !ok || priority.String() != in.Priority {
			f.add("/priority", wire.CodeInvalidValue, "must be bulk, normal or urgent")
		}
		req.Priority = &priority
	}
	if in.SendAt != nil {
		req.NotBefore = *in.SendAt
	}
	if in.Deadline != nil {
		req.Deadline = *in.Deadline
		if !in.Deadline.After(s.now()) {
			f.add("/deadline", wire.CodeInvalidValue, "is over")
		}
	}
	for _, t := range sortedTags(in.Tags) {
		f.line("/tags/"+t.Name, t.Name, maxName)
		f.line("/tags/"+t.Name, t.Value, maxName)
	}
}

// contentOf finds or makes the content of the request.
func (s *Server) contentOf(c *call, f *faults, in *injectapi.MessagesRequest, req *accept.Request) (content, *wire.Problem) {
	if (in.ContentID == "") == (in.Content == nil) {
		code := injectapi.CodeRequired
		if in.Content != nil {
			code = injectapi.CodeConflictingFields
		}
		f.add("/content", code, "exactly one of content and content_id is needed")
		return content{}, nil
	}
	if in.Content != nil {
		to := ""
		if len(in.Recipients) == 1 && !hasTags(in.Recipients[0].Name) {
			to = display(in.Recipients[0]) // in the content, where it would be rendered
		}
		made := s.content(f, "/content", in.Content, to)
		req.Body = &made.body
		return made, nil
	}
	id, err := mail.ParseID(in.ContentID)
	var ref mail.BodyRef
	if err == nil {
		ref, err = s.deps.Store.Content(c.r.Context(), c.key.Tenant, id)
	}
	switch {
	case errors.Is(err, mail.ErrNotFound), errors.Is(err, mail.ErrBadID):
		f.add("/content_id", injectapi.CodeUnknownContent, "there is no such content, or it has expired")
		return content{}, nil
	case err != nil:
		return content{}, s.internal(c, err)
	}
	req.Content = &ref
	return content{body: mail.Body{Kind: ref.Kind}, templates: ref.Kind != mail.BodyRaw, toName: ref.Kind == mail.BodyContent}, nil
}

// reversePath is the given one, else the address in From. Stored content does
// not tell its From without being read, so there it must be given.
func reversePath(f *faults, in *injectapi.MessagesRequest, made content, req *accept.Request) {
	switch {
	case in.ReversePath == nil && in.ContentID != "":
		f.add("/reverse_path", injectapi.CodeRequired, "is needed with content_id; an empty string is the null reverse path")
	case in.ReversePath == nil:
		req.ReversePath = made.from
	case f.line("/reverse_path", *in.ReversePath, maxLine):
		checked, err := accept.CheckReversePath(*in.ReversePath, true)
		if err != nil {
			f.add("/reverse_path", injectapi.CodeInvalidAddress, peerText(err))
		}
		req.ReversePath = checked
	}
}

// inject calls the Injector. What it refuses for the sake of single recipients
// is left out and tried once more, unless the request is strict; the second
// round can differ since addresses are looked at before the rest.
func (s *Server) inject(c *call, once *once, in *injectapi.MessagesRequest, req *accept.Request, r *rows) (accept.Accepted, *wire.Problem) {
	const rounds = 4
	ctx, cancel := c.patient(once)
	defer cancel()
	for round := 1; ; round++ {
		req.Recipients = r.kept
		req.Receipt = once.request(func(done accept.Accepted) []byte { return encodeReceipt(done, r.rejected) })
		done, err := s.deps.Injector.Batch(ctx, req)
		if err == nil {
			return done, nil
		}
		refusal := refusalOf(err)
		if refusal == nil || len(refusal.Rows) == 0 || round == rounds {
			return done, s.refused(c, err, r)
		}
		r.drop(refusal.Rows)
		if p := r.refused(in.Strict); p != nil {
			return done, p
		}
	}
}
