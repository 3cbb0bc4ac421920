package adminapi

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strconv"

	"github.com/godwit-mta/godwit/internal/wire"
)

// flushEvery is after how many bytes an export is sent on.
const flushEvery = 64 << 10

// rolling writes to the client as long as it keeps reading: each piece gets the
// stall timeout anew.
type rolling struct {
	c       *call
	begun   bool
	pending int
}

// Write implements io.Writer.
func (w *rolling) Write(b []byte) (total int, err error) {
	for len(b) > 0 {
		w.begun = true
		w.c.extend()
		n, err := w.c.w.Write(b[:min(len(b), flushEvery)])
		if total += n; err != nil {
			return total, err
		}
		b = b[n:]
		if w.pending += n; w.pending >= flushEvery {
			w.pending = 0
			if err := http.NewResponseController(w.c.w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
				return total, err
			}
		}
	}
	return total, nil
}

// postExport streams. A failure after the first byte breaks the connection, so
// that the client cannot take a part for the whole; the trailer confirms the end.
func (s *Server) postExport(c *call) *wire.Problem {
	in, p := read(c, s.filters)
	if p != nil {
		return p
	}
	if p := checkFilter(in.Filter); p != nil {
		return p
	}
	h := c.w.Header()
	h.Set("Trailer", TrailerExported)
	h.Set("Content-Type", typeLines)
	h.Set("Cache-Control", "no-store")
	w := &rolling{c: c}
	n, err := s.deps.Mover.Export(c.r.Context(), in.Filter, w)
	switch {
	case err != nil && w.begun:
		s.log.Error("export broke off", "by", c.who, "messages", n, "error", err)
		panic(http.ErrAbortHandler)
	case err != nil:
		h.Del("Trailer")
		return s.failed(c, err)
	}
	if !w.begun {
		c.w.WriteHeader(http.StatusOK)
	}
	h.Set(TrailerExported, strconv.Itoa(n))
	return nil
}

// arriving reads from the client as long as it keeps sending.
type arriving struct{ c *call }

// Read implements io.Reader.
func (r arriving) Read(b []byte) (int, error) {
	r.c.extend()
	return r.c.r.Body.Read(b)
}

func (s *Server) postImport(c *call) *wire.Problem {
	kind, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || kind != typeLines {
		return wire.NewProblem(http.StatusUnsupportedMediaType, wire.CodeMediaType, "Content-Type must be "+typeLines).
			At("", "Content-Type").With("Accept", typeLines)
	}
	var src io.Reader = arriving{c}
	switch encoding := c.r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		if src, err = gzip.NewReader(src); err != nil {
			return wire.NewProblem(http.StatusUnprocessableEntity, CodeImport, "the request body is not gzip")
		}
	default:
		return wire.NewProblem(http.StatusUnsupportedMediaType, wire.CodeEncoding, "Content-Encoding must be gzip or identity").
			At("", "Content-Encoding").With("Accept-Encoding", "gzip")
	}
	stored, known, err := s.deps.Mover.Import(c.r.Context(), src)
	if err == nil {
		wire.Write(c.w, http.StatusOK, ImportResponse{Stored: stored, Known: known})
		return nil
	}
	c.extend()
	p := s.importFailed(c, err, fmt.Sprintf("%v (stored %d before, %d were known)", err, stored, known))
	if stored == 0 && known == 0 {
		p.Errors = append(p.Errors, wire.Error{Code: CodeNothingStored, Title: wire.Title(CodeNothingStored), Detail: "no message of the request is here"})
	}
	return p
}

func (s *Server) importFailed(c *call, err error, so string) *wire.Problem {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return wire.NewProblem(http.StatusRequestTimeout, wire.CodeTimeout, so)
	case errors.Is(err, ErrBadImport), errors.Is(err, io.ErrUnexpectedEOF):
		return wire.NewProblem(http.StatusUnprocessableEntity, CodeImport, so)
	}
	p := s.failed(c, err)
	p.Errors[0].Detail = so
	return p
}
