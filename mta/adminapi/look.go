package adminapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
)

// headerKind tells what the bytes of a stored body are.
const headerKind = "Godwit-Body-Kind"

// params reads the query strictly: a misspelt name would otherwise widen the list.
type params struct {
	filter        Filter
	state, cursor string
	limit         int
	header        bool
}

func (c *call) params(known ...string) (p params, problem *wire.Problem) {
	p.limit = 100
	for name, values := range c.r.URL.Query() {
		if len(values) != 1 || !slices.Contains(known, name) {
			return p, badQuery(name, "is not a parameter here, or given twice; known: "+strings.Join(known, ", "))
		}
		if err := p.set(name, values[0]); err != nil {
			return p, badQuery(name, err.Error())
		}
	}
	if err := p.filter.patterns(); err != nil {
		return p, badQuery("", err.Error())
	}
	return p, nil
}

func badQuery(name, detail string) *wire.Problem {
	return wire.NewProblem(http.StatusBadRequest, wire.CodeInvalidValue, detail).At("", name)
}

func (p *params) set(name, value string) (err error) {
	switch name {
	case "tenant":
		p.filter.Tenant = value
	case "stream":
		p.filter.Stream = value
	case "domain":
		p.filter.Domain = value
	case "site":
		p.filter.Site = value
	case "recipient":
		p.filter.Recipient = value
	case "state":
		p.state = value
	case "cursor":
		p.cursor = value
	case "header":
		p.header, err = strconv.ParseBool(value)
	case "limit":
		if p.limit, err = strconv.Atoi(value); err == nil && (p.limit < 1 || p.limit > 1000) {
			err = errors.New("must be between 1 and 1000")
		}
	}
	return err
}

func (s *Server) getQueues(c *call) *wire.Problem {
	p, problem := c.params("tenant", "stream", "domain", "site", "state", "limit")
	if problem != nil {
		return problem
	}
	list, err := s.deps.Inspector.Queues(c.r.Context(), p.filter)
	if err != nil {
		return s.failed(c, err)
	}
	out := QueuesResponse{Queues: []QueueInfo{}}
	now := time.Now()
	for i := range list {
		list[i].State = list[i].state(now)
		if p.state != "" && list[i].State != p.state {
			continue
		}
		out.Total++
		out.Messages += list[i].Messages
		if len(out.Queues) < p.limit {
			out.Queues = append(out.Queues, list[i])
		}
	}
	wire.Write(c.w, http.StatusOK, out)
	return nil
}

func (s *Server) getMessages(c *call) *wire.Problem {
	p, problem := c.params("tenant", "stream", "domain", "site", "recipient", "state", "limit", "cursor")
	if problem != nil {
		return problem
	}
	skip := 0
	if p.cursor != "" {
		var err error
		if skip, err = strconv.Atoi(p.cursor); err != nil || skip < 0 {
			return badQuery("cursor", "is not one that a page gave out")
		}
	}
	out := MessagesResponse{Messages: []Message{}}
	at := 0
	err := s.deps.Inspector.Messages(c.r.Context(), p.filter, func(w Waiting) bool {
		if p.state != "" && w.State != p.state {
			return true
		}
		if at++; at <= skip {
			return true
		}
		if len(out.Messages) == p.limit {
			out.Next = strconv.Itoa(skip + p.limit)
			return false
		}
		out.Messages = append(out.Messages, wireMessage(&w))
		return true
	})
	if err != nil {
		return s.failed(c, err)
	}
	wire.Write(c.w, http.StatusOK, out)
	return nil
}

func noMessage() *wire.Problem {
	return wire.NewProblem(http.StatusNotFound, wire.CodeNotFound, "no such message").At("", "id")
}

func (s *Server) getMessage(c *call) *wire.Problem {
	p, problem := c.params("header")
	if problem != nil {
		return problem
	}
	id, err := mail.ParseID(c.r.PathValue("id"))
	if err != nil {
		return noMessage()
	}
	detail, err := s.deps.Inspector.Message(c.r.Context(), id)
	if errors.Is(err, mail.ErrNotFound) {
		return noMessage()
	}
	if err != nil {
		return s.failed(c, err)
	}
	out := WireDetail(&detail)
	if p.header && detail.Waiting != nil {
		kind, body, err := s.deps.Inspector.Body(c.r.Context(), id)
		switch {
		case errors.Is(err, mail.ErrNotFound): // delivered meanwhile
		case err != nil:
			return s.failed(c, err)
		default:
			out.Header = headerOf(kind, body)
		}
	}
	wire.Write(c.w, http.StatusOK, out)
	return nil
}

// headerOf is what of a stored body comes before the texts.
func headerOf(kind mail.BodyKind, body []byte) string {
	if kind == mail.BodyContent {
		var content mail.Content
		if err := json.Unmarshal(body, &content); err != nil {
			return fmt.Sprintf("(content cannot be read: %v)", err)
		}
		var b strings.Builder
		fmt.Fprintf(&b, "From: %s\nSubject: %s\n", content.From, content.Subject)
		for _, h := range content.Headers {
			fmt.Fprintf(&b, "%s: %s\n", h.Name, h.Value)
		}
		for _, a := range content.Attachments {
			fmt.Fprintf(&b, "(attachment %q, %s, %d bytes)\n", a.Name, a.Type, len(a.Data))
		}
		return b.String()
	}
	header, _, _ := bytes.Cut(body, []byte("\r\n\r\n"))
	return strings.ToValidUTF8(string(header), "\ufffd")
}

func (s *Server) getBody(c *call) *wire.Problem {
	if _, problem := c.params(); problem != nil {
		return problem
	}
	id, err := mail.ParseID(c.r.PathValue("id"))
	if err != nil {
		return noMessage()
	}
	kind, body, err := s.deps.Inspector.Body(c.r.Context(), id)
	if errors.Is(err, mail.ErrNotFound) {
		return noMessage()
	}
	if err != nil {
		return s.failed(c, err)
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(headerKind, kindName(kind))
	w := &rolling{c: c}
	_, _ = w.Write(body) // a client that went away is not our error
	return nil
}

func kindName(k mail.BodyKind) string {
	switch k {
	case mail.BodyRawTemplate:
		return "raw_template"
	case mail.BodyContent:
		return "content"
	}
	return "raw"
}

func (s *Server) getSuspensions(c *call) *wire.Problem {
	list, err := s.deps.Suspender.Suspensions(c.r.Context())
	if err != nil {
		return s.failed(c, err)
	}
	slices.SortFunc(list, func(a, b Suspension) int { return a.Created.Compare(b.Created) })
	wire.Write(c.w, http.StatusOK, SuspensionsResponse{Suspensions: append([]Suspension{}, list...)})
	return nil
}

func (s *Server) getStats(c *call) *wire.Problem {
	stats, err := s.deps.Node.Stats(c.r.Context())
	if err != nil {
		return s.failed(c, err)
	}
	wire.Write(c.w, http.StatusOK, stats)
	return nil
}

func (s *Server) getInfo(c *call) *wire.Problem {
	info, err := s.deps.Node.Info(c.r.Context())
	if err != nil {
		return s.failed(c, err)
	}
	wire.Write(c.w, http.StatusOK, info)
	return nil
}

func (s *Server) getLogLevel(c *call) *wire.Problem {
	wire.Write(c.w, http.StatusOK, LogLevel{Level: strings.ToLower(s.deps.Level.Level().String())})
	return nil
}

func (s *Server) getOpenAPI(c *call) *wire.Problem {
	wire.WriteBytes(c.w, http.StatusOK, s.doc.JSON())
	return nil
}
