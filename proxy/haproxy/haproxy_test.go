package haproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/proxy/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// egress has one proxy of each of two kinds and sources behind both.
func egress(address string) proxy.Options {
	o := proxy.DefaultOptions()
	o.Proxies = []proxy.ProxyOptions{{Name: "h", Kind: proxy.KindHAProxy, Address: address}, {Name: "g", Address: "127.0.0.1:1"}}
	o.Sources = []proxy.Source{
		{Name: "s1", Bind: "127.0.0.21", Proxy: "h"},
		{Name: "s2", Bind: "127.0.0.22", Bind6: "::1", Proxy: "h"},
		{Name: "s2ünder", Bind: "127.0.0.22", Proxy: "h"}, // another name, the same address
		{Name: "strange!", Bind: "127.0.0.23", Proxy: "h"},
		{Name: "strange?", Bind: "127.0.0.24", Proxy: "h"},
		{Name: "other", Bind: "127.0.0.25", Proxy: "g"},
	}
	return o
}

func config(t *testing.T, address string) string {
	t.Helper()
	o, err := FromEgress(egress(address), "h")
	if err != nil {
		t.Fatal(err)
	}
	o.Networks = []string{"127.0.0.1", "10.0.0.0/8", "2001:db8::/32"}
	o.MaxConnections = 100 // HAProxy ends where it may not have two descriptors for each
	var b strings.Builder
	if err := Write(&b, o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestWrite(t *testing.T) {
	got := config(t, "127.0.0.1:5000")
	for _, want := range []string{
		"bind 127.0.0.1:5000 accept-proxy\n",
		"tcp-request connection reject unless { src 127.0.0.1 10.0.0.0/8 2001:db8::/32 }\n",
		"tcp-request session reject unless { src 127.0.0.21 127.0.0.22 ::1 127.0.0.23 127.0.0.24 }\n",
		"use-server s1 if { src 127.0.0.21 }\n", "server s1 0.0.0.0:0 source 127.0.0.21 weight 0\n",
		"server s2-6 0.0.0.0:0 source [::1] weight 0\n", "server strange_ 0.0", "server strange_.4 0.0", "retries 0\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "127.0.0.25") || strings.Count(got, "source 127.0.0.22") != 1 {
		t.Errorf("another's source, or one twice:\n%s", got)
	}
}

func TestRefusesToWrite(t *testing.T) {
	for _, name := range []string{"g", "none"} {
		if _, err := FromEgress(egress("127.0.0.1:1"), name); err == nil {
			t.Errorf("a configuration for %s", name)
		}
	}
	o := egress("127.0.0.1:1")
	o.Sources = o.Sources[5:]
	if _, err := FromEgress(o, "h"); err == nil {
		t.Error("a configuration without sources")
	}
	good, err := FromEgress(egress("127.0.0.1:1"), "h")
	if err != nil {
		t.Fatal(err)
	}
	good.Networks = []string{"10.0.0.1"}
	for name, change := range map[string]func(*Options){
		"listen":      func(o *Options) { o.Listen = "here\nuser root" },
		"no networks": func(o *Options) { o.Networks = nil },
		"network":     func(o *Options) { o.Networks = []string{"10.0.0.1 }\nuser root"} },
		"timeout":     func(o *Options) { o.IdleTimeout = 0 },
		"no address":  func(o *Options) { o.Sources = []proxy.Source{{Name: "x"}} },
	} {
		o := good
		change(&o)
		if err := Write(io.Discard, o); err == nil {
			t.Errorf("%s: was written", name)
		}
	}
}

// binary is the path of HAProxy; the test is skipped without.
func binary(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("haproxy")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/haproxy"); err != nil {
			t.Skip("haproxy is not installed")
		}
	}
	return path
}

func write(t *testing.T, text string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "haproxy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "haproxy.cfg")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHAProxyTakesIt(t *testing.T) {
	out, err := exec.Command(binary(t), "-c", "-f", write(t, config(t, "127.0.0.1:5000"))).CombinedOutput()
	if err != nil || strings.Contains(string(out), "WARNING") {
		t.Errorf("%v\n%s", err, out)
	}
}

// freePort is a port that nobody has at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// run starts HAProxy and waits until it listens.
func run(t *testing.T) (address string) {
	t.Helper()
	path := binary(t)
	address = freePort(t)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, "-db", "-f", write(t, config(t, address)))
	if os.Getuid() == 0 { // it must do without privileges
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatal("HAProxy does not listen")
		}
	}
}

// exchanger tells in its banner who connected.
func exchanger(t *testing.T, network, address string) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Skip(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(c, "220 %s\r\n", c.RemoteAddr().(*net.TCPAddr).IP)
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func TestLive(t *testing.T) {
	address := run(t)
	d, err := proxy.NewDialer(egress(address), proxy.DialerDeps{Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	v4, v6 := exchanger(t, "tcp4", "127.0.0.1:0"), exchanger(t, "tcp6", "[::1]:0")
	dial := func(source string, to netip.AddrPort) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := d.Dial(ctx, proxy.Request{Source: source, Addr: to})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		r := bufio.NewReader(c)
		line, err := r.ReadString('\n')
		if err == nil {
			_, _ = io.WriteString(c, "QUIT\r\n")
			if echo, _ := r.ReadString('\n'); echo != "QUIT\r\n" {
				t.Errorf("%s: %q came back", source, echo)
			}
		}
		return strings.TrimSpace(line), err
	}
	for range 5 { // whatever a balancer would do in turn
		for source, want := range map[string]string{"s1": "127.0.0.21", "s2": "127.0.0.22", "s2ünder": "127.0.0.22", "strange!": "127.0.0.23", "strange?": "127.0.0.24"} {
			if got, err := dial(source, v4); got != "220 "+want {
				t.Errorf("%s: %q, %v", source, got, err)
			}
		}
		if got, err := dial("s2", v6); got != "220 ::1" {
			t.Errorf("IPv6: %q, %v", got, err)
		}
	}
	gone, err := netip.ParseAddrPort(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	if line, err := dial("s1", gone); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a closed port: %q, %v", line, err)
	}
	if err := d.Probe(t.Context(), "h"); err != nil {
		t.Error(err)
	}
}

// An address that is not in the configuration gets nowhere, nor does one that is no node.
func TestLiveRefusals(t *testing.T) {
	address := run(t)
	v4 := exchanger(t, "tcp4", "127.0.0.1:0")
	ask := func(node, source string) error {
		h := wire.Header{Source: netip.MustParseAddr(source), Destination: v4}
		b, err := h.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(node)}}
		c, err := d.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write(b); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 3))
		return err
	}
	for _, tt := range []struct {
		node, source string
		want         bool
	}{{"127.0.0.1", "127.0.0.21", true}, {"127.0.0.1", "127.0.0.29", false}, {"127.0.0.2", "127.0.0.21", false}} {
		if err := ask(tt.node, tt.source); (err == nil) != tt.want || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s from %s: %v", tt.source, tt.node, err)
		}
	}
}
