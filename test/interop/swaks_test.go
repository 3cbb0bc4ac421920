//go:build interop

package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// The listeners of swaksConfig, in order.
const (
	listenSTARTTLS = iota
	listenTLS
	listenProxy
	listenXClient
	listenRelay
)

const swaksConfig = `
[smtp]
cert_file = "{{.Keys.CertFile}}"
key_file = "{{.Keys.CertKeyFile}}"
auth_failures = 100
[[smtp.listeners]]
address = "127.0.0.1:0"
tls = "starttls"
[[smtp.listeners]]
address = "127.0.0.1:0"
tls = "implicit"
submission = true
[[smtp.listeners]]
address = "127.0.0.1:0"
tls = "none"
proxy_from = ["127.0.0.1"]
[[smtp.listeners]]
address = "127.0.0.1:0"
tls = "none"
xclient_from = ["127.0.0.1"]
[[smtp.listeners]]
address = "127.0.0.2:0"
tls = "starttls"
[[smtp.users]]
name = "app"
password_hash = "{{password "sesame"}}"
tenant = "acme"
[[smtp.relay_from]]
network = "127.0.0.2"
tenant = "acme"
[[smtp.relay_from]]
network = "192.0.2.0/24"
tenant = "lan"
[[smtp.relay_from]]
network = "2001:db8::/32"
tenant = "lan6"
[route]
[[route.routes]]
domain = "box.test"
hosts = ["{{.Box}}"]
`

type swaks struct {
	name     string
	listener int
	args     []string
	code     int    // swaks's exit code; -1 for any but 0
	said     string // must be in its transcript
	arrived  string // must match the message, if it is accepted
}

func cases() []swaks {
	auth := func(mechanism, password string) []string {
		return []string{"--auth", mechanism, "--auth-user", "app", "--auth-password", password}
	}
	with := func(a []string, more ...string) []string { return append(a, more...) }
	return []swaks{
		{name: "plain", listener: listenRelay, args: []string{"--local-interface", "127.0.0.2"}, arrived: `with ESMTP\b`},
		{name: "starttls", listener: listenRelay, args: []string{"--local-interface", "127.0.0.2", "--tls"}, said: "TLS started", arrived: `with ESMTPS`},
		{name: "implicit-tls", listener: listenTLS, args: with(auth("PLAIN", "sesame"), "--tls-on-connect"), arrived: `with ESMTPSA`},
		{name: "auth-plain", listener: listenSTARTTLS, args: with(auth("PLAIN", "sesame"), "--tls"), said: "235 2.7.0", arrived: `with ESMTPSA`},
		{name: "auth-login", listener: listenSTARTTLS, args: with(auth("LOGIN", "sesame"), "--tls"), said: "235 2.7.0", arrived: `with ESMTPSA`},
		{name: "pipelining", listener: listenRelay, args: []string{"--local-interface", "127.0.0.2", "--pipeline"}, said: "250-PIPELINING", arrived: `with ESMTP\b`},
		{name: "helo", listener: listenRelay, args: []string{"--local-interface", "127.0.0.2", "--protocol", "SMTP"}, arrived: `with SMTP\b`},
		{name: "proxy-v1", listener: listenProxy, args: []string{"--proxy-version", "1", "--proxy-family", "TCP4", "--proxy-source", "192.0.2.7", "--proxy-source-port", "4711", "--proxy-dest", "192.0.2.1", "--proxy-dest-port", "25"}, arrived: `\[192\.0\.2\.7\]`},
		{name: "proxy-v1-ipv6", listener: listenProxy, args: []string{"--proxy-version", "1", "--proxy-family", "TCP6", "--proxy-source", "2001:db8::7", "--proxy-source-port", "4711", "--proxy-dest", "2001:db8::1", "--proxy-dest-port", "25"}, arrived: `\[IPv6:2001:db8::7\]`},
		{name: "proxy-v2", listener: listenProxy, args: []string{"--proxy-version", "2", "--proxy-family", "AF_INET", "--proxy-protocol", "STREAM", "--proxy-command", "PROXY", "--proxy-source", "192.0.2.8", "--proxy-source-port", "4711", "--proxy-dest", "192.0.2.1", "--proxy-dest-port", "25"}, arrived: `\[192\.0\.2\.8\]`},
		{name: "proxy-missing", listener: listenProxy, args: []string{"--timeout", "1s"}, code: -1},
		{name: "proxy-stranger", listener: listenProxy, args: []string{"--proxy-version", "1", "--proxy-family", "TCP4", "--proxy-source", "198.51.100.7", "--proxy-source-port", "4711", "--proxy-dest", "192.0.2.1", "--proxy-dest-port", "25"}, code: 24, said: "550 5.7.1 Relaying denied"},
		{name: "xclient", listener: listenXClient, args: []string{"--xclient", "ADDR=192.0.2.9 NAME=lan.example HELO=lan.example"}, arrived: `\[192\.0\.2\.9\]`},
		{name: "xclient-ipv6", listener: listenXClient, args: []string{"--xclient", "ADDR=IPv6:2001:db8::9"}, arrived: `\[IPv6:2001:db8::9\]`},
		{name: "xclient-not-offered", listener: listenSTARTTLS, args: []string{"--xclient", "ADDR=192.0.2.9"}, code: 33},
		{name: "wrong-password", listener: listenSTARTTLS, args: with(auth("PLAIN", "wrong"), "--tls"), code: 28, said: "535 5.7.8"},
		{name: "auth-in-clear", listener: listenSTARTTLS, args: auth("PLAIN", "sesame"), code: 28},
		{name: "relaying-denied", listener: listenSTARTTLS, code: 24, said: "550 5.7.1 Relaying denied"},
		{name: "submission-needs-auth", listener: listenTLS, args: []string{"--tls-on-connect"}, code: 23, said: "530 5.7.0"},
	}
}

var queued = regexp.MustCompile(`250 2\.0\.0 Ok: queued as [0-9a-f-]{36}`)

// needSwaks finds a swaks that can do TLS, for which it needs a Perl module.
func needSwaks(t *testing.T) string {
	t.Helper()
	path := need(t, "swaks")[0]
	if exec.Command("perl", "-MNet::SSLeay", "-e", "1").Run() != nil {
		missing(t, "swaks lacks Net::SSLeay (libnet-ssleay-perl)")
	}
	return path
}

// TestSwaks has swaks inject in every way it knows.
func TestSwaks(t *testing.T) {
	path := needSwaks(t)
	keys := newKeys(t)
	box := mailbox(t, "127.0.0.1:0", keys)
	e, _ := engine(t, swaksConfig, map[string]any{"Keys": keys, "Box": box.Addr()})
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			to := c.name + "@box.test"
			transcript, code := runSwaks(t, path, e, c.listener, to, c.args, nil)
			if code != c.code && (c.code >= 0 || code == 0) {
				t.Fatalf("exit code %d, not %d\n%s", code, c.code, transcript)
			}
			if !strings.Contains(transcript, c.said) {
				t.Errorf("%q is not in the transcript\n%s", c.said, transcript)
			}
			if c.code != 0 {
				return
			}
			if !queued.MatchString(transcript) {
				t.Errorf("no id in the reply\n%s", transcript)
			}
			m := arrives(t, box, to)
			if ok, err := regexp.Match(c.arrived, m.Data); !ok || err != nil {
				t.Errorf("%s does not match (%v)\n%s", c.arrived, err, m.Data)
			}
			if !strings.Contains(string(m.Body()), "This is a test mailing") {
				t.Errorf("body %q", m.Body())
			}
		})
	}
}

// TestSwaksContents: large and UTF-8 messages, with dots at line starts, arrive as they were.
func TestSwaksContents(t *testing.T) {
	path := needSwaks(t)
	keys := newKeys(t)
	box := mailbox(t, "127.0.0.1:0", keys)
	e, _ := engine(t, swaksConfig, map[string]any{"Keys": keys, "Box": box.Addr()})
	var large bytes.Buffer
	for i := range 120_000 {
		fmt.Fprintf(&large, "%06d line of a large message, long enough to matter when there are many of it\n", i)
	}
	for name, body := range map[string]string{
		"large": large.String(),
		"utf8":  "Grüße aus Köln, 你好, привет\n.\n..\n. dots\n\ntrailing space \n\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			to := name + "@box.test"
			data := "From: s@sender.test\nTo: " + to + "\nSubject: Grüße\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n" + body
			args := []string{"--local-interface", "127.0.0.2", "--tls", "--data", "-"}
			transcript, code := runSwaks(t, path, e, listenRelay, to, args, []byte(data))
			if code != 0 {
				t.Fatalf("exit code %d\n%s", code, transcript[max(0, len(transcript)-2000):])
			}
			got := string(arrives(t, box, to).Body())
			// swaks ends the data with a line end of its own
			if want := strings.ReplaceAll(body, "\n", "\r\n"); got != want && got != want+"\r\n" {
				t.Errorf("body of %d bytes differs from the %d that were sent: %.300q", len(got), len(want), got)
			}
		})
	}
}

func runSwaks(t *testing.T, path string, e *rig.Engine, listener int, to string, args []string, stdin []byte) (transcript string, code int) {
	t.Helper()
	host, port, err := net.SplitHostPort(e.Ports.SMTP[listener])
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"--server", host, "--port", port, "--timeout", "20s",
		"--helo", "client.test", "--from", "s@sender.test", "--to", to}, args...)...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &out
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}
