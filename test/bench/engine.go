package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// apiKey opens the engine's APIs; it guards nothing beyond a benchmark on loopback.
const apiKey = "bench-bench-bench-bench-bench-bench-bench"

// benchTenant is the tenant of apiKey.
const benchTenant = "bench"

// keyOf is the API key of a tenant.
func keyOf(tenant string) string {
	if tenant == benchTenant {
		return apiKey
	}
	return apiKey + "-" + tenant
}

// engine is a running `godwit serve`.
type engine struct {
	*process
	dir      string // holds the configuration and the spool
	smtp     string
	http     string // base URLs
	admin    string
	ops      string
	pipeline string // host:port of the pipeline's API, if it is on
}

// engineOptions are what a case may change about the engine.
type engineOptions struct {
	name    string   // host name; "" is engine
	dkim    string   // PEM file, "" does not sign
	cgroup  string   // memory cgroup to start it in, "" for ours
	rules   string   // of throttling; "" allows 20 connections to a site
	extra   string   // lines of configuration
	tenants []string // beside bench
	log     string   // level; "" is warn
}

// spool is the engine's volume.
func (e *engine) spool() string { return filepath.Join(e.dir, "spool") }

// startEngine starts the engine in dir, on the spool that is there or a new one.
func (b *bench) startEngine(ctx context.Context, dir string, s *sinkProcess, o engineOptions) (*engine, error) {
	o.name = cmp.Or(o.name, "engine")
	if err := os.MkdirAll(filepath.Join(dir, "spool"), 0o700); err != nil {
		return nil, err
	}
	conf, ports := filepath.Join(dir, "godwit.toml"), filepath.Join(dir, "ports.json")
	rules := "version = 1\n" + cmp.Or(o.rules, "[default]\nconnections = 20\n")
	if err := errors.Join(os.WriteFile(conf, []byte(configText(dir, s, o)), 0o600), os.WriteFile(filepath.Join(dir, "rules.toml"), []byte(rules), 0o600)); err != nil {
		return nil, err
	}
	if err := os.Remove(ports); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	args := []string{b.o.godwit, "serve", "-c", conf, "--ports", ports}
	if o.cgroup != "" {
		// The shell moves itself into the group, then becomes the engine.
		args = append([]string{"/bin/sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, o.cgroup}, args...)
	}
	p, err := startProcess(ctx, o.name, filepath.Join(dir, "godwit.log"), args)
	if err != nil {
		return nil, err
	}
	e := &engine{process: p, dir: dir}
	text, err := e.awaitFile(ctx, ports)
	if err == nil {
		err = e.readPorts(text)
	}
	if err != nil {
		return nil, errors.Join(err, e.kill())
	}
	return e, nil
}

// configText is the engine's configuration: the defaults, but for where things are.
func configText(dir string, s *sinkProcess, o engineOptions) string {
	sum := sha256.Sum256([]byte(apiKey))
	var c strings.Builder
	fmt.Fprintf(&c, "hostname = \"%s.bench.test\"\nlog.level = %q\nops.listen = \"127.0.0.1:0\"\n"+
		"queue.path = %q\ndns.servers = [%q]\nroute.port = %d\n", o.name, cmp.Or(o.log, "warn"), filepath.Join(dir, "spool"), s.DNS, s.Port)
	fmt.Fprintf(&c, "throttle.packs = []\nthrottle.files = [%q]\n", filepath.Join(dir, "rules.toml"))
	c.WriteString("smtp.listeners = [{ address = \"127.0.0.1:0\" }]\nsmtp.relay_from = [{ network = \"127.0.0.0/8\", tenant = \"bench\" }]\n")
	c.WriteString("http.listen = [\"127.0.0.1:0\"]\nhttp.keys = [")
	for _, tenant := range append([]string{benchTenant}, o.tenants...) {
		fmt.Fprintf(&c, "{ name = %[1]q, tenant = %[1]q, sha256 = \"%[2]x\" }, ", tenant, sha256.Sum256([]byte(keyOf(tenant))))
	}
	c.WriteString("]\n")
	fmt.Fprintf(&c, "admin.listen = [\"127.0.0.1:0\"]\nadmin.tokens = [{ name = \"bench\", sha256 = %q }]\n", hex.EncodeToString(sum[:]))
	c.WriteString(o.extra)
	if o.dkim != "" {
		fmt.Fprintf(&c, "dkim.check_dns = false\ndkim.keys = [{ domain = \"source.test\", selector = \"bench\", file = %q }]\n", o.dkim)
	}
	return c.String()
}

// writeKey makes an RSA key of 2048 bits.
func writeKey(path string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func (e *engine) readPorts(b []byte) error {
	var p struct {
		SMTP     []string `json:"smtp"`
		HTTP     []string `json:"http"`
		Admin    []string `json:"admin"`
		Ops      string   `json:"ops"`
		Pipeline []string `json:"pipeline"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if len(p.SMTP) != 1 || len(p.HTTP) != 1 || len(p.Admin) != 1 {
		return fmt.Errorf("unexpected addresses of the engine: %s", b)
	}
	e.smtp, e.http, e.admin, e.ops = p.SMTP[0], "http://"+p.HTTP[0], "http://"+p.Admin[0], "http://"+p.Ops
	if len(p.Pipeline) > 0 {
		e.pipeline = p.Pipeline[0]
	}
	return nil
}

// suspendAll stops delivery of everything.
func (e *engine) suspendAll(ctx context.Context) error {
	in := map[string]any{"filter": map[string]bool{"all": true}, "reason": "benchmark"}
	return call(ctx, http.MethodPost, e.admin+"/admin/v1/suspensions", apiKey, in, nil)
}

// queued is how many messages the queue owes delivery.
func (e *engine) queued(ctx context.Context) (int64, error) {
	var st struct {
		Messages int64 `json:"messages"`
	}
	err := call(ctx, http.MethodGet, e.admin+"/admin/v1/stats", apiKey, nil, &st)
	return st.Messages, err
}

// waitEmpty waits until the queue is empty, and fails after patience.
func (e *engine) waitEmpty(ctx context.Context, patience time.Duration) error {
	for began := time.Now(); ; {
		n, err := e.queued(ctx)
		if err != nil || n == 0 {
			return err
		}
		if time.Since(began) > patience {
			return fmt.Errorf("the queue still holds %d messages after %v", n, patience)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// settle waits until the engine, just started, has nothing more to do: it
// writes its first segments ahead. What earlier runs left in the page cache
// goes to the disk first.
func (e *engine) settle(ctx context.Context) error {
	syscall.Sync()
	quiet := 0
	for last := time.Duration(-1); quiet < 5; {
		now, err := cpuOf(e.pid)
		if err != nil {
			return err
		}
		if quiet++; now-last > 10*time.Millisecond {
			quiet = 0
		}
		last = now
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	syscall.Sync()
	return nil
}
