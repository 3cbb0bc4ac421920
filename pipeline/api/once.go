package api

import (
	"context"
	"crypto/sha256"
	"net/http"
	"time"

	"github.com/godwit-mta/godwit/pipeline/api/receipts"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// The header fields of idempotency.
const (
	HeaderIdempotencyKey      = "Idempotency-Key"
	HeaderIdempotencyReplayed = "Idempotency-Replayed" // true: the answer is that of an earlier request
)

// Receipts remember requests that came with an idempotency key; *receipts.Store does.
type Receipts interface {
	// Claim returns what is remembered under a tenant's key. If that is nothing, it remembers digest and
	// time, durably when it returns, and fresh is true.
	Claim(tenant, key string, digest [sha256.Size]byte, now time.Time) (r receipts.Receipt, fresh bool, err error)
	// Answer adds the answer to a claim. It need not survive a crash.
	Answer(tenant, key string, r receipts.Receipt) error
}

// once does the work of a POST once for each idempotency key. Requests with one key pass one after the other.
func (s *Server) once(c *call, work func(*call) (answer, error)) (answer, error) {
	values := c.r.Header.Values(HeaderIdempotencyKey)
	if len(values) == 0 {
		return work(c)
	}
	key := values[0]
	if len(values) > 1 || !printable(key) {
		return answer{}, jsonapi.BadParameter(HeaderIdempotencyKey, "must be one value of 1 to 255 printable ASCII characters")
	}
	leave, err := s.requests.Enter(c.r.Context(), c.tenant+"\x00"+key)
	if err != nil {
		return answer{}, err
	}
	defer leave()
	r, fresh, err := s.deps.Receipts.Claim(c.tenant, key, c.digest(), c.at)
	switch {
	case err != nil:
		return answer{}, err
	case r.Digest != c.digest():
		return answer{}, &jsonapi.Error{Status: http.StatusUnprocessableEntity, Code: "idempotency_conflict", Title: "The idempotency key was used before.",
			Parameter: HeaderIdempotencyKey, Detail: "another request came with this key; use a key for one request only"}
	case r.Status != 0:
		s.metrics.replayed.Inc()
		c.w.Header().Set(HeaderIdempotencyReplayed, "true")
		return answer{status: r.Status, raw: r.Body}, nil
	}
	// Not fresh: the first one failed or its answer was lost. The same work with the same seed and time has the same effects.
	c.seed, c.at, c.again = r.Seed, r.At, !fresh
	// The work goes on when the client goes away: otherwise its repeat could meet it under way.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), c.state.opts.WriteTimeout.D())
	defer cancel()
	c.ctx = ctx
	a, err := work(c)
	if err == nil {
		r.Status, r.Body = a.status, a.encode()
		a.raw, a.body = r.Body, nil
		if lost := s.deps.Receipts.Answer(c.tenant, key, r); lost != nil { // what was done is done
			s.log.Warn("API did not keep the answer of a request with an idempotency key", "path", c.r.URL.Path, "key", c.key, "error", lost)
		}
	}
	return a, err
}

// digest is of all that makes a request the same one. The path belongs to it: a key of one operation is not one of another.
func (c *call) digest() (d [sha256.Size]byte) {
	h := sha256.New()
	h.Write([]byte(c.r.URL.Path + "\x00" + c.r.URL.RawQuery + "\x00"))
	h.Write(c.body)
	h.Sum(d[:0])
	return d
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= 255
}
