package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

// ServerOptions bound what a peer can make a Server hold.
type ServerOptions struct {
	MaxConnections int // of one listener
	HeaderTimeout  time.Duration
	ReadTimeout    time.Duration // header and body
	WriteTimeout   time.Duration // from the header to the end of the response
	IdleTimeout    time.Duration
	// TLS makes TCP listeners speak HTTPS; nil: plain HTTP.
	TLS *tls.Config
}

// Server serves one handler on any number of listeners.
type Server struct {
	handler http.Handler
	log     *slog.Logger
	mu      sync.Mutex
	list    []*http.Server
	bound   []net.Addr
	serving sync.WaitGroup
}

// NewServer returns a Server that does not listen yet.
func NewServer(h http.Handler, log *slog.Logger) *Server { return &Server{handler: h, log: log} }

// Start listens on addresses (host:port or unix:/path) and serves in the
// background. When one of them cannot be had, none is served.
func (s *Server) Start(addresses []string, o ServerOptions) error {
	var listeners []net.Listener
	for _, address := range addresses {
		ln, err := Listen(address)
		if err != nil {
			for _, open := range listeners {
				_ = open.Close()
			}
			return fmt.Errorf("listen: %w", err)
		}
		listeners = append(listeners, ln)
	}
	for _, ln := range listeners {
		s.Serve(ln, o)
	}
	return nil
}

// Listen opens host:port or unix:/path. A socket is for its owner and group
// only; one that a dead process left behind is replaced.
func Listen(address string) (net.Listener, error) {
	path, unix := strings.CutPrefix(address, "unix:")
	if !unix {
		return net.Listen("tcp", address)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("%s: another process serves it", path)
		}
		_ = os.Remove(path)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		_ = ln.Close()
		return nil, err
	}
	return ln, nil
}

// CheckAddress says what is wrong with an address for Listen.
func CheckAddress(address string) error {
	if strings.HasPrefix(address, "unix:/") {
		return nil
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("%q is neither host:port nor unix:/path", address)
	}
	return nil
}

// OverUnix reports whether r came in by a Unix socket.
func OverUnix(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}

// Serve serves ln in the background until Stop.
func (s *Server) Serve(ln net.Listener, o ServerOptions) {
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: o.HeaderTimeout,
		ReadTimeout:       o.ReadTimeout,
		WriteTimeout:      o.WriteTimeout,
		IdleTimeout:       o.IdleTimeout,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	secure := o.TLS != nil && ln.Addr().Network() != "unix"
	if secure {
		srv.TLSConfig = o.TLS.Clone()
	}
	s.mu.Lock()
	s.list = append(s.list, srv)
	s.bound = append(s.bound, ln.Addr())
	s.mu.Unlock()
	limited := netutil.LimitListener(ln, o.MaxConnections)
	s.serving.Go(func() {
		var err error
		if secure {
			err = srv.ServeTLS(limited, "", "")
		} else {
			err = srv.Serve(limited)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("HTTP listener failed", "address", ln.Addr().String(), "error", err)
		}
	})
}

// Addrs lists the addresses that are being served.
func (s *Server) Addrs() []net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]net.Addr(nil), s.bound...)
}

// Stop takes no more requests and waits for those under way until ctx ends,
// then breaks them off. A second call does nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	list := s.list
	s.list, s.bound = nil, nil
	s.mu.Unlock()
	var wg sync.WaitGroup
	failures := make([]error, len(list))
	for i, srv := range list {
		wg.Go(func() {
			if failures[i] = srv.Shutdown(ctx); failures[i] != nil {
				_ = srv.Close()
			}
		})
	}
	wg.Wait()
	s.serving.Wait()
	return errors.Join(failures...)
}
