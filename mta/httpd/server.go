package httpd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"github.com/godwit-mta/godwit/internal/wire"
)

// Start listens on Options.Listen and serves in the background, by HTTPS when
// a certificate is configured. When one address cannot be had, none is served.
func (s *Server) Start() error {
	return s.running.Start(s.state.Load().opts.Listen, s.bounds())
}

// Serve serves ln, like those that Start opens.
func (s *Server) Serve(ln net.Listener) { s.running.Serve(ln, s.bounds()) }

// Addrs lists the addresses that are being served.
func (s *Server) Addrs() []net.Addr { return s.running.Addrs() }

// Stop takes no more requests and waits for those under way until ctx ends,
// then breaks them off. A second call does nothing.
func (s *Server) Stop(ctx context.Context) error { return s.running.Stop(ctx) }

func (s *Server) bounds() wire.ServerOptions {
	st := s.state.Load()
	o := wire.ServerOptions{
		MaxConnections: st.opts.MaxConnections,
		HeaderTimeout:  st.opts.HeaderTimeout.D(),
		ReadTimeout:    st.opts.ReadTimeout.D(),
		WriteTimeout:   st.opts.ReadTimeout.D() + st.opts.WriteTimeout.D(), // counted from the header
		IdleTimeout:    st.opts.IdleTimeout.D(),
	}
	if st.cert != nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.certificate}
	}
	return o
}

// certificate is asked for at each handshake, so that Reload renews it.
func (s *Server) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cert := s.state.Load().cert; cert != nil {
		return cert, nil
	}
	return nil, errors.New("no certificate is configured")
}
