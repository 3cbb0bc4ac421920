package proxy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/proxy/server"
)

// authority makes certificates.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.make(t, "ca", true)
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name+".pem") }

// make writes name.pem and name-key.pem.
func (a *authority) make(t *testing.T, name string, ca bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: ca, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = tpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		os.WriteFile(a.file(name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(a.file(name+"-key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestMutualTLS(t *testing.T) {
	ca, stranger, to := newAuthority(t), newAuthority(t), newProvider(t)
	ca.make(t, "proxy.example", false)
	ca.make(t, "node.example", false)
	stranger.make(t, "node.example", false)
	links := make(chan string, 1)
	s := godwit(t, func(o *server.Options, d *server.Deps) {
		o.Listeners[0] = server.Listener{Address: "127.0.0.1:0", CertFile: ca.file("proxy.example"), KeyFile: ca.file("proxy.example-key"), ClientCAFile: ca.file("ca")}
		d.Control = func(_ context.Context, c net.Conn) {
			b := make([]byte, 8)
			_, _ = io.ReadFull(c, b)
			links <- string(b)
		}
	})
	good := TLS{CAFile: ca.file("ca"), CertFile: ca.file("node.example"), KeyFile: ca.file("node.example-key"), Name: "proxy.example"}
	at := s.Addrs()[0].String()
	d := newDialer(t, via(ProxyOptions{Address: at, TLS: good}))
	for range 3 { // the later ones resume
		c, err := d.Dial(within(t, patience), Request{Source: "s", Addr: to, Leases: []uint64{1}})
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "220 127.0.0.2\r\n" {
			t.Errorf("%q %v", line, err)
		}
		_, _ = io.WriteString(c, strings.Repeat("much", 100_000))
		_ = c.(*tls.Conn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}
	if st := s.Stats().Sources[0]; st.Sent != 3*400_000 {
		t.Errorf("%+v", st)
	}
	link, err := d.Link(within(t, patience), "p")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(link, "GODWTGRL")
	if got := <-links; got != "GODWTGRL" {
		t.Errorf("%q", got)
	}
	_ = link.Close()

	for name, change := range map[string]func(*TLS){
		"in clear":        func(o *TLS) { *o = TLS{} },
		"no certificate":  func(o *TLS) { o.CertFile, o.KeyFile = "", "" },
		"stranger":        func(o *TLS) { o.CertFile, o.KeyFile = stranger.file("node.example"), stranger.file("node.example-key") },
		"another's proxy": func(o *TLS) { o.CAFile = stranger.file("ca") },
		"another name":    func(o *TLS) { o.Name = "other.example" },
		"name of address": func(o *TLS) { o.Name = "" },
	} {
		bad := good
		change(&bad)
		c, err := newDialer(t, via(ProxyOptions{Address: at, TLS: bad})).Dial(within(t, patience), Request{Source: "s", Addr: to, Leases: []uint64{1}})
		if !errors.Is(err, ErrProxyDown) {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
	bad := good
	bad.CAFile = ca.file("node.example-key")
	if _, err := NewDialer(via(ProxyOptions{Address: at, TLS: bad}), DialerDeps{}); err == nil || !strings.HasPrefix(err.Error(), "proxies[0].tls.ca_file: ") {
		t.Errorf("%v", err)
	}
}
