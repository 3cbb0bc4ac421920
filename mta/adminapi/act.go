package adminapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
)

// The codes of errors, beside those of package wire.
const (
	CodeFilter    = "filter"     // the filter names nothing, or cannot be used here
	CodeLineBreak = "line_break" // a reason of more than one line
	CodeTooLong   = "too_long"
	CodeConfig    = "invalid_config" // the configuration file is refused; the detail says where
	// CodeNothingStored stands beside the error of an import of which no message was stored, now or by an earlier call.
	CodeNothingStored = "nothing_stored"

	CodeImport = "invalid_import" // a line is not what an export writes; those before it are stored
)

// maxReason bounds a reason in bytes: it goes into replies and events.
const maxReason = 500

// failed turns an error of the engine into a problem. Operators may read its text.
func (s *Server) failed(c *call, err error) *wire.Problem {
	for _, put := range []error{mail.ErrQueueFull, mail.ErrDiskFull, mail.ErrDraining, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, put) {
			return wire.NewProblem(http.StatusServiceUnavailable, wire.CodeOverloaded, err.Error()).After(5 * time.Second)
		}
	}
	s.log.Error("admin request failed", "method", c.r.Method, "path", c.r.URL.Path, "by", c.who, "error", err)
	return wire.NewProblem(http.StatusInternalServerError, wire.CodeInternal, err.Error())
}

// read reads a JSON request.
func read[T any](c *call, d *wire.Decoder[T]) (*T, *wire.Problem) {
	body, p := c.state.bodies.Read(c.w, c.r)
	if p != nil {
		return nil, p
	}
	defer body.Release()
	in, err := d.Decode(body.Bytes)
	if err != nil {
		return nil, wire.BadJSON(err)
	}
	return in, nil
}

func invalid(pointer, code, detail string) *wire.Problem {
	return wire.NewProblem(http.StatusUnprocessableEntity, code, detail).At(pointer, strings.TrimPrefix(pointer, "/"))
}

func checkFilter(f Filter) *wire.Problem {
	if err := f.Validate(); err != nil {
		return invalid("/filter", CodeFilter, err.Error())
	}
	return nil
}

func checkReason(reason string) *wire.Problem {
	switch {
	case len(reason) > maxReason:
		return invalid("/reason", CodeTooLong, "at most 500 bytes")
	case strings.ContainsFunc(reason, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return invalid("/reason", CodeLineBreak, "must be one line without control characters")
	}
	return nil
}

func (s *Server) postSuspension(c *call) *wire.Problem {
	in, p := read(c, s.suspends)
	if p != nil {
		return p
	}
	if p := checkFilter(in.Filter); p != nil {
		return p
	}
	if !in.Filter.Message.IsZero() || in.Filter.Recipient != "" {
		return invalid("/filter", CodeFilter, "delivery stops for whole queues: a tenant, stream, domain or site, not for single messages")
	}
	if p := checkReason(in.Reason); p != nil {
		return p
	}
	var until time.Time
	if in.Until != nil {
		if until = *in.Until; !until.After(time.Now()) {
			return invalid("/until", wire.CodeInvalidValue, "is over")
		}
	}
	made, err := s.deps.Suspender.Suspend(c.r.Context(), in.Filter, until, in.Reason)
	if err != nil {
		return s.failed(c, err)
	}
	wire.Write(c.w, http.StatusCreated, made)
	return nil
}

func (s *Server) deleteSuspension(c *call) *wire.Problem {
	err := s.deps.Suspender.Resume(c.r.Context(), c.r.PathValue("id"))
	if errors.Is(err, mail.ErrNotFound) {
		return wire.NewProblem(http.StatusNotFound, wire.CodeNotFound, "no such suspension").At("", "id")
	}
	return s.counted(c, 1, err)
}

func (s *Server) postResume(c *call) *wire.Problem {
	in, p := read(c, s.filters)
	if p != nil {
		return p
	}
	if p := checkFilter(in.Filter); p != nil {
		return p
	}
	list, err := s.deps.Suspender.Suspensions(c.r.Context())
	if err != nil {
		return s.failed(c, err)
	}
	count := 0
	for _, x := range list {
		if !covers(x.Filter, in.Filter) {
			continue
		}
		switch err := s.deps.Suspender.Resume(c.r.Context(), x.ID); {
		case errors.Is(err, mail.ErrNotFound): // ended by itself meanwhile
		case err != nil:
			return s.failed(c, err)
		default:
			count++
		}
	}
	return s.counted(c, count, nil)
}

func (s *Server) counted(c *call, n int, err error) *wire.Problem {
	if err != nil {
		return s.failed(c, err)
	}
	wire.Write(c.w, http.StatusOK, CountResponse{Count: n})
	return nil
}

func (s *Server) postBounce(c *call) *wire.Problem {
	in, p := read(c, s.reasons)
	if p != nil {
		return p
	}
	if p := checkFilter(in.Filter); p != nil {
		return p
	}
	if p := checkReason(in.Reason); p != nil {
		return p
	}
	c.unhurried()
	n, err := s.deps.Changer.Bounce(c.r.Context(), in.Filter, in.Reason)
	return s.counted(c, n, err)
}

func (s *Server) postRetry(c *call) *wire.Problem {
	in, p := read(c, s.filters)
	if p != nil {
		return p
	}
	if p := checkFilter(in.Filter); p != nil {
		return p
	}
	c.unhurried()
	n, err := s.deps.Changer.Retry(c.r.Context(), in.Filter)
	return s.counted(c, n, err)
}

// unhurried lifts the deadlines: the request is read, and an action on
// millions of messages takes its time.
func (c *call) unhurried() {
	control := http.NewResponseController(c.w)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Time{})
}

func (s *Server) postReload(c *call) *wire.Problem {
	c.unhurried()
	if err := s.deps.Node.Reload(c.r.Context()); err != nil {
		return wire.NewProblem(http.StatusUnprocessableEntity, CodeConfig, err.Error())
	}
	return s.getInfo(c)
}

func (s *Server) postDrain(on bool) func(c *call) *wire.Problem {
	return func(c *call) *wire.Problem {
		if err := s.deps.Node.Drain(c.r.Context(), on); err != nil {
			return s.failed(c, err)
		}
		return s.getStats(c)
	}
}

func (s *Server) putLogLevel(c *call) *wire.Problem {
	in, p := read(c, s.levels)
	if p != nil {
		return p
	}
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[in.Level]
	if !ok {
		return invalid("/level", wire.CodeInvalidValue, "must be debug, info, warn or error")
	}
	s.deps.Level.Set(level)
	return s.getLogLevel(c)
}
