package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/smtp"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/config"
	"github.com/godwit-mta/godwit/internal/cluster"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta"
	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// TestGivenError: only what certainly left nothing behind is "not taken".
func TestGivenError(t *testing.T) {
	problem := func(status int, codes ...string) error {
		p := &wire.Problem{Status: status}
		for _, c := range codes {
			p.Errors = append(p.Errors, wire.Error{Code: c, Detail: "d"})
		}
		return p
	}
	refused := &url.Error{Op: "Post", URL: "u", Err: &net.OpError{Op: "dial", Err: errors.New("connection refused")}}
	cut := &url.Error{Op: "Post", URL: "u", Err: &net.OpError{Op: "read", Err: errors.New("connection reset")}}
	for _, c := range []struct {
		err               error
		notTaken, nothing bool
	}{
		{problem(503, wire.CodeOverloaded, adminapi.CodeNothingStored), true, true},
		{problem(503, wire.CodeOverloaded), false, false},
		{problem(422, adminapi.CodeImport), false, false},
		{problem(500), false, false},
		{problem(401), true, false},
		{problem(404), true, false},
		{fmt.Errorf("wire: %w", refused), true, false},
		{fmt.Errorf("wire: %w", cut), false, false},
		{context.DeadlineExceeded, false, false},
		{io.ErrUnexpectedEOF, false, false},
	} {
		err := givenError(c.err)
		if err == nil || errors.Is(err, queue.ErrNotTaken) != c.notTaken || errors.Is(err, mta.ErrNothingThere) != c.nothing {
			t.Errorf("%v became %v", c.err, err)
		}
	}
	if givenError(nil) != nil {
		t.Error("success is none")
	}
}

func TestActionOf(t *testing.T) {
	for _, c := range []struct {
		scope  adminapi.Scope
		action string
		want   rules.Action
		text   string
	}{
		{adminapi.Scope{Source: "s1"}, adminapi.ActionSuspend, rules.Suspend, ""},
		{adminapi.Scope{Provider: "google"}, adminapi.ActionSlow, rules.Slow, ""},
		{adminapi.Scope{Tenant: "t", Provider: "google"}, adminapi.ActionSuspend, rules.SuspendTenant, ""},
		{adminapi.Scope{Tenant: "t", Stream: "s"}, adminapi.ActionSuspend, rules.SuspendStream, ""},
		{adminapi.Scope{Tenant: "t"}, adminapi.ActionSlow, "", "rule file"},
		{adminapi.Scope{Tenant: "t", Source: "s1"}, adminapi.ActionSuspend, "", "not both"},
		{adminapi.Scope{Pool: "p"}, adminapi.ActionSuspend, "", "not pools"},
		{adminapi.Scope{Domain: "d.test"}, adminapi.ActionSuspend, "", "queue suspend"},
	} {
		got, err := actionOf(&adminapi.OrderRequest{Scope: c.scope, Action: c.action})
		if got != c.want || (err != nil) != (c.text != "") || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %q, %v", c.scope, got, err)
		}
	}
}

func TestDomainOf(t *testing.T) {
	for in, want := range map[string]string{"Jo@Example.COM": "example.com", "example.com.": "example.com", "jo@[192.0.2.1]": "[192.0.2.1]"} {
		if got, err := domainOf(in); err != nil || got != want {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"jo@", "", "*", "a b", "jo@*.test", strings.Repeat("a", 300)} {
		if got, err := domainOf(in); !errors.Is(err, adminapi.ErrBadQuery) {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
}

// freePorts are addresses that nobody listens on just now.
func freePorts(t *testing.T, n int) (list []any) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		list = append(list, ln.Addr().String())
	}
	return list
}

// pair starts two servers that are a cluster on loopback. Nothing leaves: they know no name servers.
func pair(t *testing.T, change string) (servers [2]*server, at [2]string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte(cluster.NewKey()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	nodes := fmt.Sprintf(`nodes = [{ name = "n0", address = %q, link = %q }, { name = "n1", address = %q, link = %q }]`, freePorts(t, 4)...)
	for i := range servers {
		socket := fmt.Sprintf("%s/%d.sock", dir, i)
		bind := strings.Split(nodes, `"`)[4*i+2*i+3]
		file := filepath.Join(dir, fmt.Sprintf("%d.toml", i))
		text := fmt.Sprintf("hostname = \"mta%d.test\"\n[ops]\nlisten = \"\"\n[admin]\nlisten = [\"unix:%s\", \"127.0.0.1:0\"]\n[http]\nlisten = []\n", i, socket) +
			fmt.Sprintf("[queue]\npath = \"%s/spool%d\"\n[queue.spool]\nsegment_size = \"1MiB\"\nspare_segments = 0\nmin_free = \"1MiB\"\n", dir, i) +
			"[[smtp.listeners]]\naddress = \"127.0.0.1:0\"\n[[smtp.relay_from]]\nnetwork = \"127.0.0.1\"\ntenant = \"acme\"\n[throttle]\npacks = []\n[dns]\nservers = [\"127.0.0.1:1\"]\ntimeout = \"200ms\"\nattempts = 1\n" +
			fmt.Sprintf("[cluster]\nname = \"n%d\"\nbind = %q\n%s\n%s\n", i, bind, nodes, strings.ReplaceAll(change, "KEY", key))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		s := &server{path: file, grace: 5 * time.Second, level: new(slog.LevelVar), log: slog.New(slog.DiscardHandler)}
		if err := s.start(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.stop(); err != nil {
				t.Error(err)
			}
		})
		servers[i], at[i] = s, socket
	}
	return servers, at
}

// seen waits until a node's list of members has a text.
func seen(t *testing.T, at, text string) {
	t.Helper()
	var out string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if out = want(t, exitOK, "cluster", "--admin", at).out; strings.Contains(out, text) {
			return
		}
	}
	t.Fatalf("%q is not in:\n%s", text, out)
}

// TestDrainHandsOver: what an operator has stopped everywhere moves to the other node, with its ids, and is known to both.
func TestDrainHandsOver(t *testing.T) {
	servers, at := pair(t, `key_file = "KEY"`)
	seen(t, at[0], "in contact")
	seen(t, at[1], "in contact")
	want(t, exitOK, "queue", "suspend", "--all", "--admin", at[0])
	for i := range 5 {
		err := smtp.SendMail(servers[0].engine.SMTP().Addrs()[0].String(), nil, "s@sender.test", []string{fmt.Sprintf("r%d@d%d.test", i, i)}, []byte("Subject: x\r\n\r\nbody\r\n"))
		if err != nil {
			t.Fatal(err)
		}
	}
	if r := want(t, exitFailed, "queue", "drain", "--handoff", "--to", "n7", "--admin", at[0]); !strings.Contains(r.err, "there is no member n7") {
		t.Error(r.err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // n1's address comes with its next report
		if r := cliRun(t, "queue", "drain", "--handoff", "--admin", at[0]); r.code == exitOK {
			contains(t, r.out, "handed over: 5 moved", "0 left", "n1: 5 messages")
			break
		} else if time.Now().After(deadline) {
			t.Fatal(r.err)
		}
	}
	if a, b := servers[0].engine.Queue().Queued(), servers[1].engine.Queue().Queued(); a != 0 || b != 5 {
		t.Errorf("%d and %d messages", a, b)
	}
	list := decode[adminapi.MessagesResponse](t, want(t, exitOK, "queue", "messages", "--json", "--admin", at[1]))
	if len(list.Messages) != 5 {
		t.Fatalf("%+v", list)
	}
	id := list.Messages[0].ID
	contains(t, want(t, exitOK, "explain", "message", id, "--admin", at[0]).out, "No longer in the queue: moved")
	contains(t, want(t, exitOK, "explain", "message", id, "--admin", at[1]).out, "Suspended by an operator until resumed")
	contains(t, want(t, exitOK, "queue", "drain", "--status", "--admin", at[0]).out, "handed over: 5 moved")
	seen(t, at[1], "draining")
	want(t, exitOK, "queue", "undrain", "--admin", at[0])
	if r := want(t, exitFailed, "queue", "drain", "--handoff", "--to", "n0", "--admin", at[0]); !strings.Contains(r.err, "n0 is this node itself") {
		t.Error(r.err)
	}
	// An order given on one node holds on the other, with who gave it.
	want(t, exitOK, "throttles", "suspend", "--provider", "google", "--admin", at[0])
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if r := want(t, exitOK, "throttles", "--admin", at[1]); strings.Contains(r.out, "hand (unix)") {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(r.out)
		}
	}
}

// TestDrainWithoutKey: without a key nobody would take the messages.
func TestDrainWithoutKey(t *testing.T) {
	_, at := pair(t, "")
	contains(t, want(t, exitFailed, "queue", "drain", "--handoff", "--admin", at[0]).err, "the cluster has no key", "new-key")
}
