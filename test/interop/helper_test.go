//go:build interop

package interop

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"

	"golang.org/x/crypto/bcrypt"

	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// missing skips a test that lacks a peer, or fails it where CI says that none may be missing.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("GODWIT_INTEROP") == "require" {
		t.Fatalf("%s, and GODWIT_INTEROP=require", why)
	}
	t.Skip(why)
}

// need finds programs; some are outside the PATH of a plain user.
func need(t *testing.T, names ...string) []string {
	t.Helper()
	var paths []string
	for _, name := range names {
		path, err := exec.LookPath(name)
		for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/lib/postfix/sbin"} {
			if err != nil {
				path, err = exec.LookPath(filepath.Join(dir, name))
			}
		}
		if err != nil {
			missing(t, name+" is not installed")
		}
		paths = append(paths, path)
	}
	return paths
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "needs root")
	}
}

// engine starts the program with a configuration template; .Dir, .Keys and values fill it.
func engine(t *testing.T, config string, values map[string]any) (*rig.Engine, string) {
	t.Helper()
	dir := t.TempDir()
	values["Dir"] = dir
	tmpl, err := template.New("").Funcs(template.FuncMap{"password": func(s string) (string, error) {
		b, err := bcrypt.GenerateFromPassword([]byte(s), bcrypt.MinCost)
		return string(b), err
	}}).Parse(head + config)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tmpl.Execute(&b, values); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "godwit.toml")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := rig.Start(rig.Binary(t), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if code, err := e.Stop(); code > 0 || err != nil {
			t.Errorf("the program ended with code %d, %v", code, err)
		}
		if t.Failed() {
			t.Logf("log of the program:\n%s", e.Log())
		}
	})
	return e, dir
}

// head begins every configuration.
const head = `
hostname = "mx.godwit.test"
[log]
level = "debug"
[ops]
listen = ""
[admin]
listen = []
[http]
listen = []
[queue]
path = "{{.Dir}}/spool"
[throttle]
packs = []
[events_file]
path = "{{.Dir}}/events.jsonl"
`

// mailbox starts a receiver with STARTTLS.
func mailbox(t *testing.T, address string, keys *rig.Keys) *rig.Mailbox {
	t.Helper()
	box, err := rig.NewMailbox(address, &keys.Cert)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.Close)
	return box
}

func newKeys(t *testing.T) *rig.Keys {
	t.Helper()
	k, err := rig.NewKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// arrives waits for the only copy for a recipient.
func arrives(t *testing.T, box *rig.Mailbox, recipient string) *rig.Mail {
	t.Helper()
	var m *rig.Mail
	err := rig.Eventually(func() error {
		mails := box.To(recipient)
		if len(mails) != 1 {
			return fmt.Errorf("%d copies for %s", len(mails), recipient)
		}
		m = mails[0]
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// events waits until the events file has n lines that match, and returns them.
func events(t *testing.T, dir string, n int, match func(e map[string]any) bool) []map[string]any {
	t.Helper()
	var found []map[string]any
	err := rig.Eventually(func() error {
		text, err := os.ReadFile(filepath.Join(dir, "events.jsonl"))
		if err != nil {
			return err
		}
		found = found[:0]
		for line := range strings.Lines(string(text[:bytes.LastIndexByte(text, '\n')+1])) {
			e := map[string]any{}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				return err
			}
			if match(e) {
				found = append(found, e)
			}
		}
		if len(found) < n {
			return fmt.Errorf("%d such events, not %d", len(found), n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// freeAddress is an address at which nothing listens now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// daemon starts a program in the foreground and ends it with the test.
func daemon(t *testing.T, dir, path string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, filepath.Base(path)+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it ends by a signal
		text, err := os.ReadFile(log.Name())
		if t.Failed() {
			t.Logf("log of %s:\n%s%v", path, text, errors.Join(err, log.Close()))
		}
	})
}

// accepts waits until something listens.
func accepts(t *testing.T, address string) {
	t.Helper()
	err := rig.Eventually(func() error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// publicDir is a temporary directory that other users can enter, too.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "godwit-interop-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
