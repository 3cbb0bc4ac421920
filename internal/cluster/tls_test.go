package cluster

import (
	"crypto/tls"
	"net"
	"testing"
)

// TestLinkTLS: nodes with one key meet, a stranger with another key is refused by both sides.
func TestLinkTLS(t *testing.T) {
	ours := &Cluster{key: make([]byte, keySize)}
	stranger := &Cluster{key: append(make([]byte, keySize-1), 1)}
	for _, c := range []struct {
		name           string
		client, server *Cluster
		ok             bool
	}{{"same key", ours, ours, true}, {"strange client", stranger, ours, false}, {"strange server", ours, stranger, false}} {
		t.Run(c.name, func(t *testing.T) {
			a, b := net.Pipe()
			defer a.Close()
			defer b.Close()
			served := make(chan error, 1)
			server := tls.Server(b, c.server.ServerTLS())
			go func() {
				err := server.Handshake()
				if err != nil {
					_ = b.Close()
				}
				served <- err
			}()
			client := tls.Client(a, c.client.ClientTLS())
			err := client.Handshake()
			if err == nil {
				go func() { _, _ = client.Read(make([]byte, 1)) }() // TLS 1.3: the server's verdict comes after
			} else {
				_ = a.Close()
			}
			if serr := <-served; (err == nil && serr == nil) != c.ok {
				t.Errorf("client: %v, server: %v", err, serr)
			}
		})
	}
}
