package smtpd

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/accept"
)

// store keeps what was accepted.
type store struct {
	mu      sync.Mutex
	batches []*mail.Batch
	err     error
}

func (s *store) Put(_ context.Context, b *mail.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.batches = append(s.batches, b)
	return nil
}

func (s *store) Large(context.Context) (accept.LargeFile, error) { return nil, mail.ErrDiskFull }

func (s *store) last(t *testing.T) *mail.Batch {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.batches) == 0 {
		t.Fatal("nothing was accepted")
	}
	return s.batches[len(s.batches)-1]
}

// plain is a verifier whose hashes are "$2b$04$" and the password, padded.
type plain struct{}

func (plain) Verify(_ context.Context, _, hash, password string) (bool, error) {
	return hash != "" && hash == hashOf(password), nil
}

func hashOf(password string) string {
	return "$2b$04$" + (password + strings.Repeat("x", 53))[:53]
}

// newServer returns a Server with user ann (tenant acme) and a door that keeps what comes in.
func newServer(t *testing.T, change func(*Options)) (*Server, *store) {
	t.Helper()
	s := &store{}
	door, err := accept.New(accept.DefaultOptions(), accept.Deps{Queue: s, IDs: &mail.IDs{}, Hostname: "mx.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := New(testOptions(change), Deps{Door: door, Hostname: "mx.example.net", Passwords: plain{}})
	if err != nil {
		t.Fatal(err)
	}
	return srv, s
}

func testOptions(change func(*Options)) Options {
	o := DefaultOptions()
	o.Users = []User{{Name: "ann", PasswordHash: hashOf("secret"), Tenant: "acme"}}
	o.RelayFrom = []Network{{Network: "10.0.0.0/8", Tenant: "inside"}, {Network: "10.1.0.0/16", Tenant: "special", MaySetTenant: true}, {Network: "2001:db8::/32", Tenant: "six"}}
	o.Listeners = []Listener{{Address: "127.0.0.1:0", InsecureAuth: true}}
	if change != nil {
		change(&o)
	}
	return o
}

// addrConn is one end of a pipe with an address.
type addrConn struct {
	net.Conn
	remote net.Addr
}

func (a addrConn) RemoteAddr() net.Addr { return a.remote }

// talk is the client's end of a dialogue.
type talk struct {
	t  *testing.T
	nc net.Conn
	r  *bufio.Reader
	// done is closed when the server is through with the connection.
	done chan struct{}
}

// connect opens a connection to listener i from the address and reads nothing yet.
func connect(t *testing.T, s *Server, i int, from string) *talk {
	t.Helper()
	ours, theirs := net.Pipe()
	c := &talk{t: t, nc: ours, r: bufio.NewReader(ours), done: make(chan struct{})}
	remote := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 4321))
	go func() {
		s.ServeConn(i, addrConn{theirs, remote})
		close(c.done)
	}()
	t.Cleanup(func() { ours.Close(); <-c.done })
	return c
}

// greeted is connect with greeting and EHLO done.
func greeted(t *testing.T, s *Server, i int, from string) *talk {
	t.Helper()
	c := connect(t, s, i, from)
	c.expect("220 ")
	c.do("EHLO client.example", "250")
	return c
}

func (c *talk) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.nc, s); err != nil {
		c.t.Fatalf("send %q: %v", s, err)
	}
}

// reply reads one reply, its lines joined by "\n".
func (c *talk) reply() string {
	c.t.Helper()
	var lines []string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatalf("read reply: %v after %q", err, lines)
		}
		line = strings.TrimSuffix(line, "\r\n")
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, "\n")
		}
	}
}

func (c *talk) expect(prefix string) string {
	c.t.Helper()
	got := c.reply()
	last := got[strings.LastIndexByte(got, '\n')+1:]
	if !strings.HasPrefix(last, prefix) {
		c.t.Fatalf("got reply %q, want %q", got, prefix)
	}
	return got
}

func (c *talk) do(command, want string) string {
	c.t.Helper()
	c.send(command + "\r\n")
	got := c.reply()
	if last := got[strings.LastIndexByte(got, '\n')+1:]; !strings.HasPrefix(last, want) {
		c.t.Fatalf("%s: got reply %q, want %q", command, got, want)
	}
	return got
}

// ended checks that the server closes the connection.
func (c *talk) ended() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); len(rest) > 0 || err != nil {
		c.t.Fatalf("connection goes on with %q, %v", rest, err)
	}
}

// message sends one message and returns the reply to its end.
func (c *talk) message(want string, recipients ...string) string {
	c.t.Helper()
	c.do("MAIL FROM:<b@s.example>", "250")
	for _, r := range recipients {
		c.do("RCPT TO:<"+r+">", "250")
	}
	c.do("DATA", "354")
	c.send("Subject: hello\r\n\r\nbody\r\n.\r\n")
	return c.expect(want)
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func authPlain(user, password string) string {
	return "AUTH PLAIN " + b64("\x00"+user+"\x00"+password)
}

var uuidPattern = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// certificate writes a self-signed certificate and returns its files.
func certificate(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Unix(0, 0),
		NotAfter: time.Now().AddDate(100, 0, 0), DNSNames: []string{"mx.example.net"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// startTLS does STARTTLS and the handshake and returns the certificate's serial.
func (c *talk) startTLS() int64 {
	c.t.Helper()
	c.do("STARTTLS", "220")
	return c.handshake()
}

func (c *talk) handshake() int64 {
	c.t.Helper()
	t := tls.Client(c.nc, &tls.Config{InsecureSkipVerify: true})
	if err := t.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.nc, c.r = t, bufio.NewReader(t)
	return t.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}
