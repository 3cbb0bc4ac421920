//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"golang.org/x/crypto/bcrypt"

	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// TestCases runs every case; -run 'Cases/05' runs those whose name has 05.
func TestCases(t *testing.T) {
	keys, err := rig.NewKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cases, err := filepath.Glob("[0-9][0-9]-*")
	if err != nil || len(cases) < 10 {
		t.Fatalf("cases %v, %v", cases, err)
	}
	for _, dir := range cases {
		t.Run(dir, func(t *testing.T) {
			t.Parallel()
			runCase(t, dir, keys)
		})
	}
}

func runCase(t *testing.T, dir string, keys *rig.Keys) {
	r := &run{t: t, dir: dir, tmp: t.TempDir(), keys: keys, world: newWorld(t, keys),
		vars: map[string]string{}, conns: map[string]*dialogue{}}
	if err := r.configure("config.toml"); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.engine, err = rig.Start(rig.Binary(t), filepath.Join(r.tmp, "godwit.toml")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.finish)
	r.vars["tmp"], r.vars["pid"] = r.tmp, fmt.Sprint(r.engine.PID())
	scripts, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts in %s: %v", dir, err)
	}
	for _, path := range scripts {
		ok := t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			steps, err := readScript(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.script(steps); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		})
		if !ok {
			break // scripts build on one another
		}
	}
}

// finish ends the program; it must end in order, and have had no panic or race.
func (r *run) finish() {
	for _, c := range r.conns {
		_ = c.Close()
	}
	code, err := r.engine.Stop()
	if err != nil || code > 0 {
		r.t.Errorf("the program ended with code %d, %v", code, err)
	}
	log := r.engine.Log()
	for _, bad := range []string{"panic", "DATA RACE", "goroutine "} {
		if strings.Contains(log, bad) {
			r.t.Errorf("the log has %q", bad)
		}
	}
	if r.t.Failed() {
		r.t.Logf("log of the program:\n%s", log)
	}
}

// secret is the API key, token or password of that name.
func secret(name string) string { return "secret-of-" + name + "-0123456789abcdef0123456789abcdef" }

// configure writes the configuration from a template of the case.
func (r *run) configure(name string) error {
	f := functions()
	f["sha256"] = func(name string) string {
		sum := sha256.Sum256([]byte(secret(name)))
		return hex.EncodeToString(sum[:])
	}
	f["password"] = func(name string) (string, error) {
		b, err := bcrypt.GenerateFromPassword([]byte(name), bcrypt.MinCost)
		return string(b), err
	}
	t, err := template.New("").Funcs(f).ParseFiles(filepath.Join("testdata", "common.toml"), filepath.Join(r.dir, name))
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(r.world.box.Addr())
	if err != nil {
		return err
	}
	var b bytes.Buffer
	err = t.ExecuteTemplate(&b, name, map[string]any{
		"Dir": r.tmp, "Keys": r.keys, "DNS": r.world.sink.DNSAddr(), "Port": port, "Case": r.dir,
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.tmp, "godwit.toml"), b.Bytes(), 0o600)
}
