package main

import (
	"bytes"
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
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// apiKey opens the engine's APIs; it guards nothing beyond a benchmark on loopback.
const apiKey = "bench-bench-bench-bench-bench-bench-bench"

// engine is a running `godwit serve`.
type engine struct {
	dir   string // holds the configuration and the spool
	smtp  string
	http  string // base URLs
	admin string
	ops   string
	pid   int
	began time.Time // just before the process was started

	cmd  *exec.Cmd
	log  *bytes.Buffer
	done chan error
}

// engineOptions are what a case may change about the engine.
type engineOptions struct {
	dkim   string // PEM file, "" does not sign
	cgroup string // memory cgroup to start it in, "" for ours
}

// spool is the engine's volume.
func (e *engine) spool() string { return filepath.Join(e.dir, "spool") }

// startEngine starts the engine in dir, on the spool that is there or a new one.
func (b *bench) startEngine(ctx context.Context, dir string, s *sinkProcess, o engineOptions) (*engine, error) {
	if err := os.MkdirAll(filepath.Join(dir, "spool"), 0o700); err != nil {
		return nil, err
	}
	conf, ports := filepath.Join(dir, "godwit.toml"), filepath.Join(dir, "ports.json")
	if err := os.WriteFile(conf, []byte(config(dir, s, o)), 0o600); err != nil {
		return nil, err
	}
	if err := os.Remove(ports); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	e := &engine{dir: dir, log: new(bytes.Buffer), done: make(chan error, 1)}
	args := []string{b.o.godwit, "serve", "-c", conf, "--ports", ports}
	if o.cgroup != "" {
		// The shell moves itself into the group, then becomes the engine.
		args = append([]string{"/bin/sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, o.cgroup}, args...)
	}
	e.cmd = exec.CommandContext(ctx, args[0], args[1:]...)
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	e.began = time.Now()
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	e.pid = e.cmd.Process.Pid
	go func() { e.done <- e.cmd.Wait() }()
	if err := e.waitPorts(ctx, ports); err != nil {
		return nil, errors.Join(err, e.kill())
	}
	return e, nil
}

// config is the engine's configuration: the defaults, but for where things are.
func config(dir string, s *sinkProcess, o engineOptions) string {
	sum := sha256.Sum256([]byte(apiKey))
	var c strings.Builder
	fmt.Fprintf(&c, "hostname = \"engine.bench.test\"\nlog.level = \"warn\"\nops.listen = \"127.0.0.1:0\"\n"+
		"queue.path = %q\ndns.servers = [%q]\nroute.port = %d\n", filepath.Join(dir, "spool"), s.DNS, s.Port)
	c.WriteString("smtp.listeners = [{ address = \"127.0.0.1:0\" }]\nsmtp.relay_from = [{ network = \"127.0.0.0/8\", tenant = \"bench\" }]\n")
	fmt.Fprintf(&c, "http.listen = [\"127.0.0.1:0\"]\nhttp.keys = [{ name = \"bench\", tenant = \"bench\", sha256 = \"%x\" }]\n", sum)
	fmt.Fprintf(&c, "admin.listen = [\"127.0.0.1:0\"]\nadmin.tokens = [{ name = \"bench\", sha256 = %q }]\n", hex.EncodeToString(sum[:]))
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

func (e *engine) waitPorts(ctx context.Context, path string) error {
	for {
		b, err := os.ReadFile(path)
		if err == nil {
			return e.readPorts(b)
		}
		select {
		case err := <-e.done:
			e.done <- err
			return fmt.Errorf("engine ended at start (%v): %s", err, tail(e.log.String()))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
		if time.Since(e.began) > 2*time.Minute {
			return errors.New("engine does not listen after two minutes")
		}
	}
}

func (e *engine) readPorts(b []byte) error {
	var p struct {
		SMTP  []string `json:"smtp"`
		HTTP  []string `json:"http"`
		Admin []string `json:"admin"`
		Ops   string   `json:"ops"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if len(p.SMTP) != 1 || len(p.HTTP) != 1 || len(p.Admin) != 1 {
		return fmt.Errorf("unexpected addresses of the engine: %s", b)
	}
	e.smtp, e.http, e.admin, e.ops = p.SMTP[0], "http://"+p.HTTP[0], "http://"+p.Admin[0], "http://"+p.Ops
	return nil
}

// stop ends the engine the way an operator does and fails if it complains.
func (e *engine) stop() error {
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-e.done:
		if err != nil {
			return fmt.Errorf("engine: %w: %s", err, tail(e.log.String()))
		}
		return nil
	case <-time.After(time.Minute):
		return errors.Join(errors.New("engine did not stop within a minute"), e.kill())
	}
}

// kill ends the engine without warning. It is no error if it is gone.
func (e *engine) kill() error {
	_ = e.cmd.Process.Kill() // gone already, or dies now
	select {
	case <-e.done:
		return nil
	case <-time.After(time.Minute):
		return errors.New("engine survived SIGKILL for a minute")
	}
}

// tail is the end of a log.
func tail(s string) string {
	const most = 2000
	s = strings.TrimSpace(s)
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return s
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
