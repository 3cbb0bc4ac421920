package httpd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/accept"
	"github.com/godwit-mta/godwit/mta/injectapi"
)

// appendAnswer appends the JSON of an injectapi.MessagesResponse. Ten thousand
// rows are common, so it is written by hand; a test holds it equal to the type.
func appendAnswer(b []byte, done accept.Accepted, addresses []string, rejected []injectapi.Rejected) []byte {
	b = slices.Grow(b, 128+len(addresses)*96)
	b = append(b, `{"batch":"`...)
	b, _ = done.Batch.AppendText(b)
	b = append(b, `","messages":[`...)
	for i, address := range addresses {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"id":"`...)
		b, _ = done.IDs[i].AppendText(b)
		b = append(b, `","recipient":`...)
		b = append(appendString(b, address), '}')
	}
	b = append(b, `],"rejected":`...)
	list, err := json.Marshal(rejected)
	if err != nil || len(rejected) == 0 {
		list = []byte("[]")
	}
	return append(append(b, list...), "}\n"...)
}

// appendString appends s, which is UTF-8, as a JSON string.
func appendString(b []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// receipt is the answer to POST /v1/messages as it is remembered. The ids are
// consecutive and the recipients stand in the repeated request, so only the
// first id and the refused rows are kept; equal reasons are kept once.
type receipt struct {
	First    string       `json:"first"`
	Count    int          `json:"n"`
	Reasons  []reason     `json:"reasons,omitempty"`
	Rejected []refusedRow `json:"rejected,omitempty"`
}

type reason struct {
	Field   string `json:"f,omitempty"`
	Code    string `json:"c"`
	Message string `json:"m"`
}

// refusedRow is an index into recipients and one into reasons.
type refusedRow [2]int

func encodeReceipt(done accept.Accepted, rejected []injectapi.Rejected) []byte {
	out := receipt{First: done.Batch.String(), Count: len(done.IDs)}
	known := map[reason]int{}
	for _, r := range rejected {
		why := reason{Field: r.Field, Code: r.Code, Message: r.Message}
		at, seen := known[why]
		if !seen {
			at = len(out.Reasons)
			known[why] = at
			out.Reasons = append(out.Reasons, why)
		}
		out.Rejected = append(out.Rejected, refusedRow{r.Index, at})
	}
	b, _ := json.Marshal(out) // strings and numbers only
	return b
}

// replayMessages gives the answer that an earlier request with the same body got.
func (s *Server) replayMessages(c *call, in *injectapi.MessagesRequest, before *mail.Receipt) *wire.Problem {
	done, rejected, err := decodeReceipt(before.Answer, in.Recipients)
	if err != nil {
		return s.internal(c, err)
	}
	refused := make(map[int]bool, len(rejected))
	for _, r := range rejected {
		refused[r.Index] = true
	}
	addresses := make([]string, 0, len(done.IDs))
	for i := range in.Recipients {
		if local, domain, ok := cutAddress(in.Recipients[i].Address); ok && !refused[i] {
			addresses = append(addresses, local+"@"+domain)
		}
	}
	if len(addresses) != len(done.IDs) {
		return s.internal(c, fmt.Errorf("receipt %q is of %d messages, the request of %d", before.Key, len(done.IDs), len(addresses)))
	}
	s.replayed(c)
	wire.WriteBytes(c.w, http.StatusAccepted, appendAnswer(nil, done, addresses, rejected))
	return nil
}

func decodeReceipt(b []byte, recipients []injectapi.Recipient) (done accept.Accepted, rejected []injectapi.Rejected, err error) {
	var in receipt
	if err := json.Unmarshal(b, &in); err != nil {
		return done, nil, fmt.Errorf("receipt: %w", err)
	}
	if done.Batch, err = mail.ParseID(in.First); err != nil {
		return done, nil, fmt.Errorf("receipt: %w", err)
	}
	if in.Count < 0 || in.Count > len(recipients) {
		return done, nil, fmt.Errorf("receipt: of %d messages", in.Count)
	}
	done.IDs = make([]mail.ID, in.Count)
	for i := range done.IDs {
		done.IDs[i] = done.Batch.Add(i)
	}
	for _, row := range in.Rejected {
		if row[0] < 0 || row[0] >= len(recipients) || row[1] < 0 || row[1] >= len(in.Reasons) {
			return done, nil, fmt.Errorf("receipt: refused row %s", strconv.Itoa(row[0]))
		}
		why := in.Reasons[row[1]]
		rejected = append(rejected, injectapi.Rejected{Index: row[0], Recipient: recipients[row[0]].Address,
			Field: why.Field, Code: why.Code, Message: why.Message})
	}
	return done, rejected, nil
}

// replayContent gives the answer that an earlier POST /v1/contents with the same body got.
func (s *Server) replayContent(c *call, o *once) *wire.Problem {
	var in injectapi.ContentResponse
	if err := json.Unmarshal(o.before.Answer, &in); err != nil || strings.TrimSpace(in.ID) == "" {
		return s.internal(c, fmt.Errorf("receipt %q is not of a content", o.key))
	}
	s.replayed(c)
	wire.Write(c.w, http.StatusCreated, in)
	return nil
}

func (s *Server) replayed(c *call) {
	s.metrics.replayed.Inc()
	c.w.Header().Set(injectapi.HeaderIdempotencyReplayed, "true")
}
