package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// newConfig reads the files that the options name. Sources that old has too keep their counters.
func newConfig(o Options, old *sources) (*config, error) {
	c := &config{Options: o}
	var err error
	if c.sources, err = newSources(o.Sources); err != nil {
		return nil, err
	}
	c.sources.keep(old)
	for _, p := range o.Ports {
		if c.ports == nil {
			c.ports = map[uint16]bool{}
		}
		c.ports[uint16(p)] = true
	}
	for i, l := range o.Listeners {
		g, err := newGuard(l)
		if err != nil {
			return nil, fmt.Errorf("listeners[%d].%w", i, err)
		}
		c.listeners = append(c.listeners, g)
	}
	return c, nil
}

func newGuard(l Listener) (g guard, err error) {
	if g.networks, err = parseNetworks(l.Networks); err != nil || l.CertFile == "" {
		return g, err
	}
	pair, err := tls.LoadX509KeyPair(l.CertFile, l.KeyFile)
	if err != nil {
		return g, fmt.Errorf("cert_file: %w", err)
	}
	g.tls = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}
	if l.ClientCAFile == "" {
		return g, nil
	}
	pem, err := os.ReadFile(l.ClientCAFile)
	if err != nil {
		return g, fmt.Errorf("client_ca_file: %w", err)
	}
	g.tls.ClientCAs = x509.NewCertPool()
	if !g.tls.ClientCAs.AppendCertsFromPEM(pem) {
		return g, fmt.Errorf("client_ca_file: no certificate in %s", l.ClientCAFile)
	}
	g.tls.ClientAuth = tls.RequireAndVerifyClientCert
	return g, nil
}

// Reload puts o in force for connections to come: sources, ports, networks,
// certificates, limits and timeouts. Name, state file and the addresses listened on
// stay. On an error nothing changes.
func (s *Server) Reload(o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.conf.Load()
	if len(o.Listeners) != len(old.Listeners) {
		return errors.New("listeners: a change of addresses needs a restart")
	}
	for i := range o.Listeners {
		if o.Listeners[i].Address != old.Listeners[i].Address {
			return fmt.Errorf("listeners[%d].address: a change needs a restart", i)
		}
	}
	if o.RequireLease && s.d.Leases == nil {
		return errors.New("require_lease: a change needs a restart")
	}
	o.Name, o.Zone, o.StateFile = old.Name, old.Zone, old.StateFile
	c, err := newConfig(o, old.sources)
	if err != nil {
		return err
	}
	s.conf.Store(c)
	return nil
}
