package load

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
)

// The wire forms of the injection API, as far as they are used here. The full
// ones are in mta/injectapi, which this package must not know: it talks to the
// engine from outside, as anybody else does.
type (
	contentJSON struct {
		From      string `json:"from,omitempty"`
		Subject   string `json:"subject,omitempty"`
		Text      string `json:"text,omitempty"`
		Raw       string `json:"raw,omitempty"`
		Templates *bool  `json:"templates,omitempty"`
	}
	recipientJSON struct {
		Address       string            `json:"address"`
		Substitutions map[string]string `json:"substitutions,omitempty"`
	}
	messagesJSON struct {
		ContentID   string          `json:"content_id,omitempty"`
		Content     *contentJSON    `json:"content,omitempty"`
		Recipients  []recipientJSON `json:"recipients"`
		ReversePath string          `json:"reverse_path"`
		Stream      string          `json:"stream,omitempty"`
		Pool        string          `json:"pool,omitempty"`
	}
	answerJSON struct {
		ID       string `json:"id"` // of stored content
		Messages []struct {
			ID        string `json:"id"`
			Recipient string `json:"recipient"`
		} `json:"messages"`
		Rejected []struct {
			Code string `json:"code"`
		} `json:"rejected"`
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
)

const maxAnswer = 64 << 20 // bytes of an answer: ten thousand ids are one megabyte

// httpShared is what all workers use together.
type httpShared struct{ client *http.Client }

// newHTTP makes the client and, if the run is to, stores the content.
func (l *Load) newHTTP(ctx context.Context) (*httpShared, error) {
	h := &httpShared{client: &http.Client{
		Timeout: l.opts.Timeout.D(),
		Transport: &http.Transport{
			MaxConnsPerHost: l.opts.Connections, MaxIdleConnsPerHost: l.opts.Connections, DisableCompression: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		},
	}}
	if l.opts.HTTP.Content != ContentStored {
		return h, nil
	}
	status, answer, err := h.post(ctx, l, "/v1/contents", l.parts(l.base))
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("%s", answer.code(status))
	}
	if err != nil {
		h.close()
		return nil, fmt.Errorf("load: storing the content: %w", err)
	}
	l.stored = answer.ID
	return h, nil
}

func (h *httpShared) close() { h.client.CloseIdleConnections() }

// post sends one request and reads its answer.
func (h *httpShared) post(ctx context.Context, l *Load, path string, in any) (int, *answerJSON, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return 0, nil, err
	}
	if l.opts.HTTP.Gzip {
		body = compress(body)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(l.opts.Target, "/")+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if l.opts.HTTP.Key != "" {
		r.Header.Set("Authorization", "Bearer "+l.opts.HTTP.Key)
	}
	if l.opts.HTTP.Gzip {
		r.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := h.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, nil, err
	}
	answer := &answerJSON{}
	if err := json.Unmarshal(raw, answer); err != nil && resp.StatusCode/100 == 2 {
		return 0, nil, fmt.Errorf("answer: %w", err)
	}
	return resp.StatusCode, answer, nil
}

func compress(b []byte) []byte {
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed) // the level is a valid one
	_, _ = w.Write(b)                                 // memory does not fail
	_ = w.Close()
	return out.Bytes()
}

// code is what to count a refusal by.
func (a *answerJSON) code(status int) string {
	s := "http " + strconv.Itoa(status)
	if a != nil && len(a.Errors) > 0 {
		s += " " + a.Errors[0].Code
	}
	return s
}

// httpSender injects batches.
type httpSender struct {
	load     *Load
	shared   *httpShared
	tally    *tally
	template *template
}

func (s *httpSender) close() {}

// send injects one batch. It is sent again only while no connection could be made, since then the server cannot have it.
func (s *httpSender) send(ctx context.Context, n int64, copies int) error {
	id, sum, request := s.request(n, copies)
	giveUp := time.Now().Add(s.load.opts.GiveUp.D())
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		began := s.tally.begin()
		status, answer, err := s.shared.post(ctx, s.load, "/v1/messages", request)
		switch {
		case err == nil && status/100 == 2:
			s.done(began, answer, id, sum)
			return nil
		case err == nil:
			s.load.fail(s.tally, answer.code(status), copies)
			return nil
		case !notConnected(err):
			s.load.lose(s.tally, err, copies)
			return nil
		}
		s.tally.connectErrors++
		s.tally.errors["connect: "+brief(err)]++
		if s.load.pace.over(ctx) || time.Now().Add(pause).After(giveUp) {
			return fmt.Errorf("load: connect: %w", err)
		}
		sleep(ctx, pause)
	}
}

// done counts and records an accepted batch. Raw content is recognised by the
// load id in its Message-ID; where the engine composes the message, by the
// message id, and the body's sum cannot be known.
func (s *httpSender) done(began ledger.Nanos, answer *answerJSON, id string, sum ledger.Sum) {
	a := ledger.Ack{At: s.tally.done(began), Began: began, Key: id, Sum: sum, Size: int64(len(s.template.plain))}
	for _, m := range answer.Messages {
		a.ID, a.Recipient = m.ID, m.Recipient
		if s.load.opts.HTTP.Content != ContentRaw {
			a.Key, a.Sum = m.ID, ledger.Sum{}
		}
		s.load.acknowledge(s.tally, &a)
	}
	for _, r := range answer.Rejected {
		s.load.fail(s.tally, "rejected "+r.Code, 1)
	}
}

// request makes the batch whose first copy has number n.
func (s *httpSender) request(n int64, copies int) (id string, sum ledger.Sum, m *messagesJSON) {
	o := &s.load.opts
	m = &messagesJSON{ContentID: s.load.stored, ReversePath: o.From, Stream: o.Stream, Pool: o.Pool}
	switch o.HTTP.Content {
	case ContentRaw:
		id, sum = s.template.set(n, true)
		m.Content = &contentJSON{Raw: string(s.template.plain)}
	case ContentParts:
		id, _ = s.template.set(n, true)
		m.Content = s.load.parts(s.template)
	}
	m.Recipients = make([]recipientJSON, copies)
	for i := range m.Recipients {
		number := n + int64(i)
		m.Recipients[i].Address = string(s.load.targets.address(nil, number))
		if o.HTTP.Substitute {
			m.Recipients[i].Substitutions = map[string]string{"name": "Reader " + strconv.FormatInt(number, 10), "number": strconv.FormatInt(number, 10)}
		}
	}
	return id, sum, m
}

// parts is the present message of t as subject and text.
func (l *Load) parts(t *template) *contentJSON {
	text := string(t.plain[t.plainBody:])
	c := &contentJSON{From: l.opts.From, Subject: "Load test " + l.run, Text: text}
	substitute := l.opts.HTTP.Substitute
	c.Templates = &substitute
	if substitute {
		c.Subject += " for {{ name }}"
		c.Text = "Dear {{ name }}, this is number {{ number }}.\r\n" + text
	}
	return c
}
