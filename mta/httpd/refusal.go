package httpd

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/accept"
	"github.com/godwit-mta/godwit/mta/injectapi"
)

// refusalOf is the *accept.Error in err, nil when there is none.
func refusalOf(err error) *accept.Error {
	var refusal *accept.Error
	if errors.As(err, &refusal) {
		return refusal
	}
	return nil
}

// peerText is what of err a client may read.
func peerText(err error) string {
	if refusal := refusalOf(err); refusal != nil {
		return refusal.Message
	}
	return "is not valid"
}

// common are the causes that do not depend on the request's content.
func (c *call) common(err error) *wire.Problem {
	wait := c.state.opts.RetryAfter.D()
	switch {
	case errors.Is(err, mail.ErrQueueFull):
		return wire.NewProblem(http.StatusServiceUnavailable, injectapi.CodeQueueFull, "the queue is full, try again later").After(wait)
	case errors.Is(err, mail.ErrDiskFull):
		return wire.NewProblem(http.StatusServiceUnavailable, injectapi.CodeDiskFull, "the disk is nearly full, try again later").After(wait)
	case errors.Is(err, mail.ErrDraining):
		return wire.NewProblem(http.StatusServiceUnavailable, injectapi.CodeDraining, "the server is shutting down, try again later").After(wait)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return wire.NewProblem(http.StatusServiceUnavailable, wire.CodeOverloaded, "the request took too long, try again later").After(wait)
	case errors.Is(err, mail.ErrTooLarge):
		return wire.NewProblem(http.StatusRequestEntityTooLarge, wire.CodeTooLarge, "too large to store")
	case errors.Is(err, mail.ErrReceiptConflict):
		return conflict()
	}
	return nil
}

func conflict() *wire.Problem {
	return wire.NewProblem(http.StatusUnprocessableEntity, injectapi.CodeIdempotencyConflict,
		"this idempotency key was used with another request within 24 hours").At("", injectapi.HeaderIdempotencyKey)
}

// storeProblem turns an error of the Store into a problem; missing is the one for mail.ErrNotFound.
func (s *Server) storeProblem(c *call, err error, missing *wire.Problem) *wire.Problem {
	if errors.Is(err, mail.ErrNotFound) {
		return missing
	}
	return s.internal(c, err)
}

// internal logs an error that is ours and says no more than that to the client.
func (s *Server) internal(c *call, err error) *wire.Problem {
	if p := c.common(err); p != nil {
		return p
	}
	s.log.Error("HTTP injection failed", "method", c.r.Method, "path", c.r.URL.Path, "key", c.key.Name, "error", err)
	return wire.NewProblem(http.StatusInternalServerError, wire.CodeInternal, "the server failed; its log says why")
}

// refused turns an error of the Injector into a problem; r (may be nil) maps its rows to the request's.
func (s *Server) refused(c *call, err error, r *rows) *wire.Problem {
	if p := c.common(err); p != nil {
		return p
	}
	refusal := refusalOf(err)
	if refusal == nil || refusal.Temporary() {
		return s.internal(c, err)
	}
	pointer := pointerOf(refusal.Field, r)
	code := codeOf(refusal)
	status := http.StatusUnprocessableEntity
	switch {
	case errors.Is(err, mail.ErrNotFound):
		code, pointer = injectapi.CodeUnknownContent, "/content_id"
	case refusal.Enhanced == [3]int{5, 3, 4}:
		status, code = http.StatusRequestEntityTooLarge, wire.CodeTooLarge
	}
	return wire.NewProblem(status, code, refusal.Message).At(pointer, lastToken(pointer))
}

// pointerOf turns a path in the Injector's terms, such as recipients[3].address,
// into a pointer into the request.
func pointerOf(field string, r *rows) string {
	list, rest, row := strings.Cut(field, "[")
	number, below, _ := strings.Cut(rest, "]")
	if i, err := strconv.Atoi(number); row && err == nil {
		if r != nil && i >= 0 && i < len(r.index) {
			i = r.index[i]
		}
		return "/" + list + "/" + strconv.Itoa(i) + strings.ReplaceAll(below, ".", "/")
	}
	switch field {
	case "":
		return ""
	case "body":
		if r == nil {
			return "" // POST /v1/contents: the document itself
		}
		return "/content"
	}
	return "/" + strings.ReplaceAll(field, ".", "/")
}

// codeOf is the API's code for a refusal, by its enhanced status (RFC 3463).
func codeOf(e *accept.Error) string {
	switch {
	case e.Enhanced[1] == 1, e.Enhanced == [3]int{5, 6, 7}:
		return injectapi.CodeInvalidAddress
	case e.Enhanced[1] == 7:
		return injectapi.CodeRejected
	case e.Enhanced == [3]int{5, 5, 3}:
		return injectapi.CodeTooManyRecipients
	case e.Field == "body":
		return injectapi.CodeRejected
	}
	return wire.CodeInvalidValue
}
