package server

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

func TestValidate(t *testing.T) {
	if err := options().Validate(); err != nil {
		t.Fatal(err)
	}
	if err := DefaultOptions().Validate(); err != nil { // a node without a proxy
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"name":            {func(o *Options) { o.Name = "" }, "name: "},
		"connect timeout": {func(o *Options) { o.ConnectTimeout = 0 }, "connect_timeout: "},
		"idle timeout":    {func(o *Options) { o.IdleTimeout = -1 }, "idle_timeout: "},
		"connections":     {func(o *Options) { o.MaxConnections = 0 }, "max_connections: "},
		"port":            {func(o *Options) { o.Ports = []int{25, 0} }, "ports[1]: "},
		"address":         {func(o *Options) { o.Listeners[0].Address = "here" }, "listeners[0].address: "},
		"open to all":     {func(o *Options) { o.Listeners[0].Networks = nil }, "listeners[0].networks: "},
		"open with TLS":   {func(o *Options) { o.Listeners[0] = Listener{Address: ":1", CertFile: "x", KeyFile: "y"} }, "listeners[0].networks: "},
		"network":         {func(o *Options) { o.Listeners[0].Networks = []string{"10.0.0.1", "10.0.0.1/8"} }, "listeners[0].networks[1]: "},
		"no key":          {func(o *Options) { o.Listeners[0].CertFile = "x" }, "listeners[0].cert_file: "},
		"no certificate":  {func(o *Options) { o.Listeners[0].ClientCAFile = "x" }, "listeners[0].client_ca_file: "},
		"source name":     {func(o *Options) { o.Sources[0].Name = "a b" }, "sources[0].name: "},
		"source twice":    {func(o *Options) { o.Sources[1].Name = "s1" }, "sources[1].name: "},
		"no address":      {func(o *Options) { o.Sources[0].Bind = "" }, "sources[0].bind: "},
		"IPv6 as IPv4":    {func(o *Options) { o.Sources[0].Bind = "::1" }, "sources[0].bind: "},
		"IPv4 as IPv6":    {func(o *Options) { o.Sources[0].Bind6 = "127.0.0.1" }, "sources[0].bind6: "},
	} {
		o := options()
		tt.change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s…", name, err, tt.want)
		}
	}
	if _, err := New(options(), Deps{}); err == nil {
		t.Error("permits are required and there is nobody to ask")
	}
	o := options()
	o.Listeners[0].CertFile, o.Listeners[0].KeyFile = "/nonexistent", "/nonexistent"
	if _, err := New(o, Deps{Leases: newBook()}); err == nil || !strings.HasPrefix(err.Error(), "listeners[0].cert_file: ") {
		t.Error(err)
	}
}

// counts is a Saver.
type counts struct{ now, restored string }

func (c *counts) Save() ([]byte, error) { return []byte(c.now), nil }

func (c *counts) Restore(b []byte) error {
	if string(b) == "bad" {
		return errors.New("bad counts")
	}
	c.restored = string(b)
	return nil
}

func TestStateFile(t *testing.T) {
	o := options()
	o.StateFile = filepath.Join(t.TempDir(), "counts")
	run := func(c *counts) error {
		s, err := New(o, Deps{Leases: newBook(), Saver: c})
		if err != nil {
			return err
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s.Stop()
	}
	first, second := &counts{now: "12"}, &counts{now: "34"}
	if err := errors.Join(run(first), run(second)); err != nil || first.restored != "" || second.restored != "12" {
		t.Errorf("%v, %+v, %+v", err, first, second)
	}
	if b, err := os.ReadFile(o.StateFile); err != nil || string(b) != "34" {
		t.Errorf("%q, %v", b, err)
	}
	if err := run(&counts{now: "bad"}); err != nil {
		t.Fatal(err)
	}
	if err := run(&counts{}); err == nil || !strings.HasPrefix(err.Error(), "state_file: bad counts") {
		t.Errorf("%v", err)
	}
	o.StateFile = filepath.Join(t.TempDir(), "none", "counts")
	if err := run(&counts{}); err == nil || !strings.HasPrefix(err.Error(), "state_file: ") {
		t.Errorf("no folder: %v", err)
	}
}

func TestReadFile(t *testing.T) {
	want := bytes.Repeat([]byte("x"), 10_000)
	if got, err := readFile(faultfs.OS{}, writeFile(t, "f", want)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := readFile(faultfs.OS{}, writeFile(t, "f", nil)); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}
