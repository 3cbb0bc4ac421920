package httpd

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/accept"
	"github.com/godwit-mta/godwit/mta/injectapi"
)

// once is what the idempotency key of a request means for it. Without a key
// it is empty and means nothing.
type once struct {
	key    string
	digest [sha256.Size]byte
	before *mail.Receipt // of the same request, answered earlier
	leave  func()        // lets the next request with this key go on
}

// once reads the idempotency key, waits for a request with the same one that
// is under way, and looks for its receipt.
func (s *Server) once(c *call, body []byte) (*once, *wire.Problem) {
	o := &once{leave: func() {}}
	values := c.r.Header.Values(injectapi.HeaderIdempotencyKey)
	if len(values) == 0 {
		return o, nil
	}
	o.key = values[0]
	if len(values) > 1 || !printable(o.key) {
		return nil, wire.NewProblem(http.StatusBadRequest, wire.CodeInvalidValue,
			"must be one value of 1 to 255 printable ASCII characters").At("", injectapi.HeaderIdempotencyKey)
	}
	// The path belongs to the request: a key of one operation is not one of another.
	h := sha256.New()
	h.Write([]byte(c.r.URL.Path + "\x00"))
	h.Write(body)
	h.Sum(o.digest[:0])

	leave, err := s.flights.Enter(c.r.Context(), c.key.Tenant+"\x00"+o.key)
	if err != nil {
		return nil, s.internal(c, err)
	}
	receipt, err := s.deps.Store.Receipt(c.r.Context(), c.key.Tenant, o.key)
	switch {
	case err != nil:
		leave()
		return nil, s.internal(c, err)
	case receipt != nil && receipt.Digest != o.digest:
		leave()
		return nil, conflict()
	}
	o.before, o.leave = receipt, leave
	return o, nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

// request asks the Injector for a receipt; nil without a key.
func (o *once) request(answer func(accept.Accepted) []byte) *accept.ReceiptRequest {
	if o.key == "" {
		return nil
	}
	return &accept.ReceiptRequest{Key: o.key, Digest: o.digest, Answer: answer}
}

// patient is the context of a durable write. With an idempotency key the write
// goes on when the client goes away: otherwise its repeat could find neither
// the receipt nor a write under way, and send twice.
func (c *call) patient(o *once) (context.Context, context.CancelFunc) {
	ctx := c.r.Context()
	if o.key == "" {
		return ctx, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), c.state.opts.WriteTimeout.D())
}

// storeContent calls the Injector, with a receipt when there is a key.
func (s *Server) storeContent(c *call, o *once, body *mail.Body) (*injectapi.ContentResponse, *wire.Problem) {
	ctx, cancel := c.patient(o)
	defer cancel()
	var id mail.ID
	var until time.Time
	var err error
	if o.key != "" {
		id, until, err = s.deps.Injector.ContentOnce(ctx, c.key.Tenant, body, o.key, o.digest, func(id mail.ID, until time.Time) []byte {
			b, _ := json.Marshal(contentAnswer(id, until)) // strings only
			return b
		})
	} else {
		id, until, err = s.deps.Injector.Content(ctx, c.key.Tenant, body)
	}
	if err != nil {
		return nil, s.refused(c, err, nil)
	}
	return contentAnswer(id, until), nil
}

func contentAnswer(id mail.ID, until time.Time) *injectapi.ContentResponse {
	return &injectapi.ContentResponse{ID: id.String(), ExpiresAt: until.UTC().Truncate(time.Second)}
}
