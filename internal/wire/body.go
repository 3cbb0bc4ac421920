package wire

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// Bodies reads request bodies within bounds: each of at most Max bytes after
// decompression, all at once of at most the budget. Memory is taken as bytes
// arrive, so a peer that announces much and sends nothing holds nothing.
type Bodies struct {
	max    int64
	budget int64
	held   atomic.Int64
	wait   time.Duration
}

// NewBodies returns a reader; wait is the Retry-After when the budget is used up.
func NewBodies(max, budget int64, wait time.Duration) *Bodies {
	return &Bodies{max: max, budget: budget, wait: wait}
}

// Held is the memory of the bodies that were read and not yet released.
func (b *Bodies) Held() int64 { return b.held.Load() }

// Body is a request body in memory until Release.
type Body struct {
	Bytes  []byte
	size   int64
	owner  *Bodies
	closed bool
}

// Release gives the memory back to the budget. A second call does nothing.
func (b *Body) Release() {
	if b != nil && !b.closed {
		b.closed = true
		b.owner.held.Add(-b.size)
	}
}

// Read takes the JSON body of r, which may be compressed by gzip (RFC 9110 §8.4.1.3).
// The problem is 400, 408, 413, 415 or 503.
func (b *Bodies) Read(w http.ResponseWriter, r *http.Request) (*Body, *Problem) {
	if p := jsonType(r.Header.Get("Content-Type")); p != nil {
		return nil, p
	}
	if r.ContentLength > b.max {
		return nil, b.tooLarge()
	}
	src, p := b.plain(http.MaxBytesReader(w, r.Body, b.max), r.Header)
	if p != nil {
		return nil, p
	}
	body := &Body{owner: b}
	if p := b.fill(body, src, r.ContentLength); p != nil {
		body.Release()
		return nil, p
	}
	return body, nil
}

func jsonType(value string) *Problem {
	kind, params, err := mime.ParseMediaType(value)
	charset, given := params["charset"]
	if err == nil && kind == "application/json" && (!given || strings.EqualFold(charset, "utf-8")) {
		return nil
	}
	return NewProblem(http.StatusUnsupportedMediaType, CodeMediaType,
		"Content-Type must be application/json in UTF-8").At("", "Content-Type").With("Accept", "application/json")
}

func (b *Bodies) plain(src io.Reader, h http.Header) (io.Reader, *Problem) {
	switch encoding := strings.ToLower(strings.TrimSpace(strings.Join(h.Values("Content-Encoding"), ", "))); encoding {
	case "", "identity":
		return src, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(src)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = gzip.ErrHeader // shorter than a header
		}
		if err != nil {
			return nil, b.unreadable(err)
		}
		return z, nil
	}
	return nil, NewProblem(http.StatusUnsupportedMediaType, CodeEncoding,
		"Content-Encoding must be gzip or identity").At("", "Content-Encoding").With("Accept-Encoding", "gzip")
}

// fill reads src to its end into a buffer that at most doubles at each step.
func (b *Bodies) fill(body *Body, src io.Reader, hint int64) *Problem {
	const first, trusted = 8 << 10, 64 << 10
	size := int64(first)
	if hint > 0 {
		size = min(hint+1, trusted)
	}
	var buf []byte
	for {
		if !b.take(body, size-int64(cap(buf))) {
			return NewProblem(http.StatusServiceUnavailable, CodeOverloaded,
				"too many large requests at once").After(b.wait)
		}
		buf = append(make([]byte, 0, size), buf...)
		for len(buf) < cap(buf) {
			n, err := src.Read(buf[len(buf):cap(buf)])
			buf = buf[:len(buf)+n]
			if int64(len(buf)) > b.max {
				return b.tooLarge()
			}
			if errors.Is(err, io.EOF) {
				body.Bytes = buf
				return nil
			}
			if err != nil {
				return b.unreadable(err)
			}
		}
		size = min(2*size, b.max+1)
	}
}

func (b *Bodies) take(body *Body, n int64) bool {
	if b.held.Add(n) > b.budget {
		b.held.Add(-n)
		return false
	}
	body.size += n
	return true
}

func (b *Bodies) tooLarge() *Problem {
	return NewProblem(http.StatusRequestEntityTooLarge, CodeTooLarge,
		fmt.Sprintf("the request body exceeds %d bytes, counted after decompression", b.max))
}

func (b *Bodies) unreadable(err error) *Problem {
	var tooLarge *http.MaxBytesError
	var corrupt flate.CorruptInputError
	switch {
	case errors.As(err, &tooLarge):
		return b.tooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return NewProblem(http.StatusRequestTimeout, CodeTimeout, "the request body did not arrive in time")
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.As(err, &corrupt):
		return NewProblem(http.StatusBadRequest, CodeEncoding, "the request body is not gzip").At("", "Content-Encoding")
	}
	return NewProblem(http.StatusBadRequest, CodeInvalidBody, "the request body cannot be read to its end")
}

// Compress returns b by gzip, for clients.
func Compress(b []byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	if _, err := z.Write(b); err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	return out.Bytes(), nil
}
