// Package debugz is the operators' HTTP listener: /metrics for Prometheus,
// /healthz and /readyz for supervisors and load balancers, and /debug/ with
// an index of everything that can be looked into on a running system.
//
// It has no authentication: keep it on loopback or a private network.
package debugz

import (
	"context"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options are the configurable parts.
type Options struct {
	Listen string // host:port; empty turns the listener off
}

// Page is one entry of the index.
type Page struct {
	Path    string // below /debug/
	Title   string
	Handler http.Handler
}

// Deps are what a server works with.
type Deps struct {
	Gatherer prometheus.Gatherer
	Ready    func() error // nil error: give it traffic
	Pages    []Page
	Logger   *slog.Logger
	Version  string
}

// Server is the listener.
type Server struct {
	o    Options
	d    Deps
	http *http.Server
	ln   net.Listener
	done chan struct{}
}

// New returns a server that does not listen yet.
func New(o Options, d Deps) *Server {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o, d: d}
	s.http = &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(d.Logger.Handler(), slog.LevelDebug)}
	return s
}

// Handler serves every page.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.d.Gatherer, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("GET /debug/{$}", s.index)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	for _, p := range s.d.Pages {
		mux.Handle("/debug/"+p.Path, p.Handler)
	}
	return mux
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if err := s.d.Ready(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ready")
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = fmt.Fprintf(w, "<!doctype html><title>godwit</title><h1>godwit %s</h1><ul>", html.EscapeString(s.d.Version))
	entry := func(path, title string) {
		_, _ = fmt.Fprintf(w, "<li><a href=%q>%s</a> %s", path, html.EscapeString(path), html.EscapeString(title))
	}
	for _, p := range s.d.Pages {
		entry("/debug/"+p.Path, p.Title)
	}
	entry("/debug/pprof/", "profiles of CPU, memory, goroutines and locks")
	entry("/metrics", "counters and gauges for Prometheus")
	entry("/readyz", "whether this node should get traffic")
	_, _ = fmt.Fprintln(w, "</ul>")
}

// Start listens, if an address is configured.
func (s *Server) Start() error {
	if s.o.Listen == "" {
		return nil
	}
	ln, err := net.Listen("tcp", s.o.Listen)
	if err != nil {
		return fmt.Errorf("ops.listen: %w", err)
	}
	s.ln, s.done = ln, make(chan struct{})
	go func() {
		defer close(s.done)
		if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.d.Logger.Error("operators' listener ended", "error", err)
		}
	}()
	return nil
}

// Addr is the bound address, "" if there is none.
func (s *Server) Addr() string {
	if s.ln == nil {
		return ""
	}
	return s.ln.Addr().String()
}

// Stop ends the listener; requests under way have until ctx ends.
func (s *Server) Stop(ctx context.Context) error {
	if s.ln == nil {
		return nil
	}
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close() // a profile may run for long
	}
	<-s.done
	return err
}
