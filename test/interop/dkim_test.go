//go:build interop

package interop

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/godwit-mta/godwit/test/e2e/rig"
)

const dkimConfig = `
[smtp]
[[smtp.listeners]]
address = "127.0.0.1:0"
[[smtp.relay_from]]
network = "127.0.0.1"
tenant = "acme"
[route]
[[route.routes]]
domain = "*"
hosts = ["{{.Box}}"]
[dkim]
check_dns = false
[[dkim.keys]]
domain = "rsa.test"
selector = "s1"
file = "{{.Keys.RSAFile}}"
[[dkim.keys]]
domain = "ed.test"
selector = "s1"
file = "{{.Keys.EdFile}}"
[[dkim.keys]]
domain = "simple.test"
selector = "s1"
file = "{{.Keys.RSAFile}}"
canonicalization = "simple/simple"
[[dkim.keys]]
domain = "both.test"
selector = "s1"
file = "{{.Keys.RSAFile}}"
[[dkim.keys]]
domain = "both.test"
selector = "s2"
file = "{{.Keys.EdFile}}"
`

// A verifier says nil when it accepts a message's signatures.
type verifier func(t *testing.T, message []byte) error

// TestDKIM: an independent verifier accepts the signatures of messages that
// were really delivered, and rejects them once a body or a header is altered.
func TestDKIM(t *testing.T) {
	keys := newKeys(t)
	verify := openDKIM(t, map[string]string{
		"s1._domainkey.rsa.test": keys.RSARecord, "s1._domainkey.ed.test": keys.EdRecord, "s1._domainkey.simple.test": keys.RSARecord,
		"s1._domainkey.both.test": keys.RSARecord, "s2._domainkey.both.test": keys.EdRecord,
	})
	box := mailbox(t, "127.0.0.1:0", keys)
	e, _ := engine(t, dkimConfig, map[string]any{"Keys": keys, "Box": box.Addr()})
	for _, domain := range []string{"rsa.test", "ed.test", "simple.test", "both.test"} {
		t.Run(domain, func(t *testing.T) {
			to := domain + "@box.test"
			inject(t, e.Ports.SMTP[0], "From: Shop <shop@"+domain+">\nTo: "+to+"\nSubject:  a   subject\n  that is folded\n"+
				"MIME-Version: 1.0\nContent-Type: text/plain\nList-Unsubscribe: <https://u.test/1>\n"+
				"List-Unsubscribe-Post: List-Unsubscribe=One-Click\n\nfirst  line \n\n.dots\nlast line\n\n\n", nil, to)
			signed := arrives(t, box, to).Data
			if want := strings.Count(domain, "both") + 1; bytes.Count(signed, []byte("DKIM-Signature:")) != want {
				t.Fatalf("not %d signatures in %s", want, signed)
			}
			if err := verify(t, signed); err != nil {
				t.Errorf("rejected as it was delivered: %v\n%s", err, signed)
			}
			for what, change := range map[string][2]string{
				"body":        {"last line", "last lime"},
				"subject":     {"a   subject", "another   subject"},
				"from":        {"Shop <", "Shoq <"},
				"unsubscribe": {"u.test/1", "u.test/2"},
				"added":       {"Subject:", "Subject: on top\r\nSubject:"}, // oversigning
			} {
				altered := bytes.Replace(signed, []byte(change[0]), []byte(change[1]), 1)
				if bytes.Equal(altered, signed) {
					t.Fatalf("%s: nothing to alter", what)
				}
				if verify(t, altered) == nil {
					t.Errorf("accepted with another %s", what)
				}
			}
		})
	}
}

// openDKIM verifies by opendkim-testmsg, which asks the DNS of resolv.conf on
// port 53: dnsmasq has that port in a network namespace of its own, and a
// mount namespace holds the resolv.conf. dnsmasq has bound its port when the
// command that starts it returns, and ends with the process namespace.
func openDKIM(t *testing.T, records map[string]string) verifier {
	t.Helper()
	paths := need(t, "opendkim-testmsg", "dnsmasq", "unshare", "ip", "mount")
	needRoot(t)
	if out, err := exec.Command(paths[2], "-n", "-m", "-p", "-f", "true").CombinedOutput(); err != nil {
		missing(t, fmt.Sprintf("no namespaces: %v %s", err, out))
	}
	dir := publicDir(t)
	resolv, conf, script := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "dnsmasq.conf"), filepath.Join(dir, "verify.sh")
	lines := []string{"user=root", "no-resolv", "no-hosts", "listen-address=127.0.0.1", "bind-interfaces", "port=53",
		"local=/test/", "pid-file=" + filepath.Join(dir, "dnsmasq.pid")}
	for name, value := range records {
		lines = append(lines, "txt-record="+name+","+strings.ReplaceAll(rig.TXT(value), `" "`, `","`))
	}
	for path, text := range map[string]string{
		resolv: "nameserver 127.0.0.1\n", conf: strings.Join(lines, "\n") + "\n",
		script: strings.Join([]string{"set -e", paths[3] + " link set lo up", paths[4] + " --bind " + resolv + " /etc/resolv.conf",
			paths[1] + " --conf-file=" + conf, "exec " + paths[0] + " -C"}, "\n") + "\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return func(t *testing.T, message []byte) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, paths[2], "-n", "-m", "-p", "-f", "--kill-child", "--mount-proc", "sh", script)
		cmd.Stdin = bytes.NewReader(message)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
}
