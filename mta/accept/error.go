package accept

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Error is a refusal. Code, Enhanced and Message may be shown to the peer;
// Err is the internal cause, for the log and for errors.Is, and may not.
type Error struct {
	Code     int    // SMTP reply code, RFC 5321
	Enhanced [3]int // RFC 3463
	Message  string // safe for the peer, without codes
	Field    string // what is wrong: a header name, or the JSON path over HTTP such as recipients[3].address; may be ""
	Err      error
	Rows     []RowError // over HTTP: every refused recipient; Field is the first one's
}

// RowError is why one recipient of a Request is refused.
type RowError struct {
	Index int // in Request.Recipients
	Error *Error
}

// Error implements error; it includes the internal cause.
func (e *Error) Error() string {
	s := strconv.Itoa(e.Code) + " " + e.Status() + " " + e.Message
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether the same injection may succeed later.
func (e *Error) Temporary() bool { return e.Code/100 == 4 }

// Status is the enhanced code as text, such as 5.6.0.
func (e *Error) Status() string {
	return fmt.Sprintf("%d.%d.%d", e.Enhanced[0], e.Enhanced[1], e.Enhanced[2])
}

func refuse(code, class, subject, detail int, field, message string) *Error {
	return &Error{Code: code, Enhanced: [3]int{class, subject, detail}, Field: field, Message: message}
}

// refusals says how what goes wrong below accept looks from outside.
var refusals = []struct {
	err      error
	code     int
	enhanced [3]int
	message  string
}{
	{mail.ErrQueueFull, 452, [3]int{4, 3, 1}, "Queue is full, try again later"},
	{mail.ErrDiskFull, 452, [3]int{4, 3, 1}, "Insufficient system storage, try again later"},
	{mail.ErrDraining, 421, [3]int{4, 3, 2}, "System is shutting down, try again later"},
	{mail.ErrTooLarge, 552, [3]int{5, 3, 4}, "Message is too large"},
	{mail.ErrReceiptConflict, 550, [3]int{5, 6, 0}, "Idempotency key was used with another request"},
	{mail.ErrNotFound, 550, [3]int{5, 6, 0}, "No such content"},
	{context.DeadlineExceeded, 451, [3]int{4, 4, 7}, "Timed out, try again later"},
	{context.Canceled, 451, [3]int{4, 3, 2}, "Interrupted, try again later"},
}

// failed turns any error of a lower layer into an *Error without leaking its text.
func failed(err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			return &Error{Code: r.code, Enhanced: r.enhanced, Message: r.message, Err: err}
		}
	}
	return &Error{Code: 451, Enhanced: [3]int{4, 3, 0}, Message: "Local error in processing, try again later", Err: err}
}
