package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// The kinds of proxies.
const (
	kindGodwit  = "godwit"
	kindHAProxy = "haproxy"
)

// proxyUnit is a proxy of a world.
type proxyUnit struct {
	*process // the one that runs, or ran last
	name     string
	start    func(ctx context.Context) error
	end      func() error
	ops      string // base URL; "" for HAProxy
}

// newProxy prepares the proxy in that place; its start may be called again after a kill.
func (w *world) newProxy(i int) *proxyUnit {
	p := &proxyUnit{name: proxyName(i)}
	p.start = func(ctx context.Context) error { return w.startGodwitProxy(ctx, p, i) }
	p.end = func() error { return p.stop() }
	if w.o.kind == kindHAProxy {
		p.start = func(ctx context.Context) error { return w.startHAProxy(ctx, p, i) }
		p.end = func() error { return p.kill() } // of SIGTERM it dies too
	}
	return p
}

func (w *world) startGodwitProxy(ctx context.Context, p *proxyUnit, i int) error {
	dir := filepath.Join(w.dir, p.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	conf, ports := filepath.Join(dir, "godwit.toml"), filepath.Join(dir, "ports.json")
	if err := os.WriteFile(conf, []byte(w.proxyConfig(p.name, i, dir)), 0o600); err != nil {
		return err
	}
	if err := os.Remove(ports); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var err error
	if p.process, err = startProcess(ctx, p.name, filepath.Join(dir, "godwit.log"), []string{w.b.o.godwit, "proxy", "-c", conf, "--ports", ports}); err != nil {
		return err
	}
	text, err := p.awaitFile(ctx, ports)
	if err != nil {
		return err
	}
	var out struct{ Ops string }
	if err := json.Unmarshal(text, &out); err != nil {
		return err
	}
	p.ops = "http://" + out.Ops
	return nil
}

// proxyConfig is a Godwit proxy's configuration.
func (w *world) proxyConfig(name string, i int, dir string) string {
	var sources []string
	for _, s := range w.sources {
		if s.proxy == name {
			sources = append(sources, fmt.Sprintf("{ name = %q, bind = %q }", s.name, s.ip))
		}
	}
	return fmt.Sprintf("log.level = %q\nops.listen = \"127.0.0.1:0\"\n%s", w.b.o.level, w.clusterConfig(name, w.proxyIP(i))) +
		fmt.Sprintf("[proxy]\nname = %q\nzone = \"z%d\"\nstate_file = %q\nlisteners = [{ address = %q, networks = [\"127.0.0.0/8\"] }]\nsources = [%s]\n",
			name, i+1, filepath.Join(dir, "state.json"), w.proxyAddress(i), strings.Join(sources, ", "))
}

// haproxyMost is how many connections HAProxy may have: the machine may not
// give a user the descriptors for the 10,000 of our configuration.
const haproxyMost = 2000

// startHAProxy starts HAProxy with the configuration that we write for it, as a user without privileges.
func (w *world) startHAProxy(ctx context.Context, p *proxyUnit, i int) error {
	dir := filepath.Join(w.dir, p.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	egress, conf := filepath.Join(dir, "godwit.toml"), filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(egress, []byte("hostname = \"haproxy.bench.test\"\n"+w.egressConfig()), 0o600); err != nil {
		return err
	}
	var text, complaint bytes.Buffer
	write := exec.CommandContext(ctx, w.b.o.godwit, "proxy", "haproxy-config", "-c", egress, "--proxy", p.name, "--network", "127.0.0.0/8")
	write.Stdout, write.Stderr = &text, &complaint
	if err := write.Run(); err != nil {
		return fmt.Errorf("haproxy-config: %w: %s", err, tail(complaint.String()))
	}
	cfg := strings.Replace(text.String(), "maxconn 10000", fmt.Sprintf("maxconn %d", haproxyMost), 1)
	if err := os.WriteFile(conf, []byte(cfg), 0o644); err != nil {
		return err
	}
	var as *syscall.Credential
	if os.Geteuid() == 0 {
		const nobody = 65534
		as = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	c, err := os.Open(conf) // the folders above may be closed to nobody
	if err != nil {
		return err
	}
	defer c.Close()
	p.process, err = startProcessAs(ctx, p.name, filepath.Join(dir, "haproxy.log"), []string{w.b.o.haproxy, "-db", "-f", "/dev/stdin"}, as, c)
	if err != nil {
		return err
	}
	return p.awaitPort(ctx, w.proxyAddress(i))
}
