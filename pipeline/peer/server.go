package peer

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
)

// waitSlice is how long a request of another node waits at most before it is answered "not yet": the partition may have
// gone meanwhile.
const waitSlice = time.Second

// Trust is how nodes know each other.
type Trust struct {
	Server, Client *tls.Config // nil: no TLS, which is for loopback only
	Token          string      // "": there is none, likewise
}

// Server answers other nodes.
type Server struct {
	local Local
	token string
	log   *slog.Logger
	ln    net.Listener
	http  http.Server
	ended chan struct{}
}

// errOpen says that others could read all.
var errOpen = errors.New("is not on loopback: other nodes are only answered there unless cluster.key_file is set")

// Listen binds the address. Nothing is answered before Start.
func Listen(o Options, local Local, trust Trust, log *slog.Logger) (*Server, error) {
	if trust.Server == nil || trust.Token == "" {
		host, _, _ := net.SplitHostPort(o.Listen)
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			return nil, fmt.Errorf("listen: %s %w", o.Listen, errOpen)
		}
	}
	ln, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	s := &Server{local: local, token: trust.Token, log: log, ln: ln, ended: make(chan struct{})}
	if trust.Server != nil {
		s.ln = tls.NewListener(ln, trust.Server)
	}
	mux := http.NewServeMux()
	for path, f := range map[string]func(*http.Request, url.Values, []byte) ([]byte, error){
		pathTable: s.table, pathGet: s.get, pathPage: s.page, pathWait: s.wait, pathAsk: s.ask, pathAnswer: s.answer,
	} {
		mux.HandleFunc("POST "+path, s.handle(f))
	}
	s.http = http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	return s, nil
}

// Addr is what is listened on.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Start begins to answer.
func (s *Server) Start() {
	go func() {
		defer close(s.ended)
		if err := s.http.Serve(s.ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("other nodes are not answered any more", "error", err)
		}
	}()
}

// Stop answers nobody any more. What is being answered is waited for as long as ctx lasts.
func (s *Server) Stop(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	_ = s.ln.Close() // of one that was not started
	return err
}

// handle takes a request of a node that is known, and writes the answer.
func (s *Server) handle(f func(*http.Request, url.Values, []byte) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.token != "" && subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+s.token)) != 1 {
			http.Error(w, "the token is not that of this cluster", http.StatusUnauthorized)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out, err := f(r, r.URL.Query(), body)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(out)))
		_, _ = w.Write(out) // the other side sees that something is missing
	}
}

// badRequest is an error about the request.
type badRequest struct{ error }

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	var bad badRequest
	switch {
	case errors.Is(err, errNotMine), errors.Is(err, keyed.ErrClosed):
		status = http.StatusMisdirectedRequest
	case errors.As(err, &bad):
		status = http.StatusBadRequest
	case errors.Is(err, ErrNoAnswer):
		status = http.StatusNotImplemented
	case r.Context().Err() != nil:
		return // nobody waits
	default:
		s.log.Error("a question of another node failed", "path", r.URL.Path, "error", err)
	}
	http.Error(w, err.Error(), status)
}

// spotOf is the partition that a request names.
func spotOf(q url.Values) (Spot, error) {
	n, err := strconv.ParseInt(q.Get("partition"), 10, 32)
	if err != nil {
		return Spot{}, badRequest{fmt.Errorf("partition: %w", err)}
	}
	return Spot{q.Get("consumer"), int32(n)}, nil
}

// store finds the state of a partition that is served.
func (s *Server) store(q url.Values) (Store, Spot, error) {
	at, err := spotOf(q)
	if err != nil {
		return nil, at, err
	}
	if !s.local.Serves(at.Consumer, at.Partition) {
		return nil, at, errNotMine
	}
	store, ok := s.local.Store(at.Consumer, at.Partition)
	if !ok {
		return nil, at, errNotMine
	}
	return store, at, nil
}

// still returns an answer, unless the partition went elsewhere while it was made: others may know more by now.
func (s *Server) still(at Spot, answer []byte) ([]byte, error) {
	if !s.local.Serves(at.Consumer, at.Partition) {
		return nil, errNotMine
	}
	return answer, nil
}

func (s *Server) table(*http.Request, url.Values, []byte) ([]byte, error) {
	return json.Marshal(s.local.Table())
}

func (s *Server) get(_ *http.Request, q url.Values, key []byte) ([]byte, error) {
	store, at, err := s.store(q)
	if err != nil {
		return nil, err
	}
	v, err := store.Get(key)
	if err != nil && !errors.Is(err, keyed.ErrNotFound) {
		return nil, err
	}
	return s.still(at, value(v, err == nil))
}

func (s *Server) page(_ *http.Request, q url.Values, body []byte) ([]byte, error) {
	size, err := strconv.Atoi(q.Get("size"))
	if err != nil || size < 0 || size > maxPage {
		return nil, badRequest{fmt.Errorf("size: %q", q.Get("size"))}
	}
	from, to, err := parseBounds(body)
	if err != nil {
		return nil, badRequest{err}
	}
	store, at, err := s.store(q)
	if err != nil {
		return nil, err
	}
	rows, more, err := store.Page(from, to, q.Get("back") == "1", size)
	if err != nil {
		return nil, err
	}
	return s.still(at, page(rows, more))
}

// waited is the answer to wait.
type waited struct {
	Reached bool `json:"reached"`
	Progress
}

func (s *Server) wait(r *http.Request, q url.Values, _ []byte) ([]byte, error) {
	at, err := spotOf(q)
	if err != nil {
		return nil, err
	}
	offset, err := strconv.ParseInt(q.Get("offset"), 10, 64)
	if err != nil {
		return nil, badRequest{fmt.Errorf("offset: %w", err)}
	}
	if !s.local.Serves(at.Consumer, at.Partition) {
		return nil, errNotMine
	}
	ctx, cancel := context.WithTimeout(r.Context(), waitSlice)
	defer cancel()
	p, err := s.local.Wait(ctx, at.Consumer, at.Partition, offset)
	if err != nil && ctx.Err() == nil {
		return nil, err
	}
	return json.Marshal(waited{err == nil, p})
}

func (s *Server) ask(r *http.Request, q url.Values, question []byte) ([]byte, error) {
	at, err := spotOf(q)
	if err != nil {
		return nil, err
	}
	if !s.local.Serves(at.Consumer, at.Partition) {
		return nil, errNotMine
	}
	answer, err := s.local.Ask(r.Context(), at.Consumer, at.Partition, question)
	if err != nil {
		return nil, err
	}
	return s.still(at, answer)
}

func (s *Server) answer(r *http.Request, q url.Values, question []byte) ([]byte, error) {
	return s.local.Answer(r.Context(), q.Get("what"), question)
}
