package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// result is what a command line came to.
type result struct {
	code     int
	out, err string
}

func cliRun(t *testing.T, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	code := run(t.Context(), args, &out, &errOut)
	return result{code, out.String(), errOut.String()}
}

// want runs a command line and checks its exit code.
func want(t *testing.T, code int, args ...string) result {
	t.Helper()
	r := cliRun(t, args...)
	if r.code != code {
		t.Fatalf("godwit %s: exit code %d, want %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), r.code, code, r.out, r.err)
	}
	return r
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in:\n%s", p, text)
		}
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// model is the program's own commands and flags.
func model(t *testing.T) *kong.Application {
	t.Helper()
	k, err := kong.New(&cli{}, kong.Name("godwit"))
	if err != nil {
		t.Fatal(err)
	}
	return k.Model
}

// TestHelp: every command has help, and every one that does something has an example.
func TestHelp(t *testing.T) {
	for _, c := range commandsOf(model(t).Node, "") {
		args := append(strings.Fields(c.path), "--help")
		r := want(t, exitOK, args...)
		contains(t, r.out, "Usage: godwit", "--help")
		if c.path == "" || len(c.children) > 0 {
			continue
		}
		switch c.path {
		case "version", "config check", "config defaults", "config reference", "config new-key":
		default:
			contains(t, r.out, "xample", "godwit "+strings.Fields(c.path)[0])
		}
		if c.help == "" {
			t.Errorf("%s has no help", c.path)
		}
		for _, f := range c.flags {
			if f.Help == "" {
				t.Errorf("%s --%s has no help", c.path, f.Name)
			}
		}
	}
	contains(t, want(t, exitOK).out, "serve", "demo", "queue", "completion")
}

func TestUsageErrors(t *testing.T) {
	bad := write(t, "bad.toml", "hostname = \"mta.test\"\n[queue]\npaht = \"/tmp\"\n")
	wrong := write(t, "wrong.toml", "[queue]\nmax_ready = 1\n")
	for _, c := range []struct {
		args []string
		text []string
	}{
		{[]string{"sevre"}, []string{"sevre", "serve", "--help"}},
		{[]string{"serve", "--confg", bad}, []string{"--confg", "--config"}},
		{[]string{"serve"}, []string{"--config"}},
		{[]string{"serve", "-c", "/does/not/exist"}, []string{"/does/not/exist"}},
		{[]string{"config", "check", bad}, []string{"bad.toml:3:1", "paht", "path"}},
		{[]string{"config", "check", wrong}, []string{"wrong.toml:2", "max_ready"}},
		{[]string{"serve", "-c", bad}, []string{"bad.toml:3:1"}},
		{[]string{"queue", "bounce"}, []string{"nothing is chosen", "--all"}},
		{[]string{"queue", "bounce", "--all", "--domain", "x.test"}, []string{"--all"}},
		{[]string{"queue", "retry", "--message", "abc"}, []string{"--message", "UUID"}},
		{[]string{"queue", "suspend", "--domain", "[", "--admin", "127.0.0.1:1"}, []string{"pattern"}},
		{[]string{"queue", "resume", "x", "--all"}, []string{"not both"}},
		{[]string{"queue", "show", "17"}, []string{"UUID"}},
		{[]string{"queue", "list", "--state", "asleep"}, []string{"--state", "suspended"}},
		{[]string{"queue", "list", "--admin", "ftp://x"}, []string{"--admin"}},
		{[]string{"load"}, []string{"no target"}},
		{[]string{"load", "127.0.0.1:1"}, []string{"--count or --duration"}},
		{[]string{"load", "127.0.0.1:1", "-n", "1", "--connections", "0"}, []string{"connections: must be positive"}},
		{[]string{"load", "127.0.0.1:1", "-n", "1", "--size", "big"}, []string{"big", "512KiB"}},
		{[]string{"sink", "--defer", "2"}, []string{"defer: must be between 0 and 1"}},
		{[]string{"sink", "-c", write(t, "sink.toml", "listen = \"127.0.0.1:0\"\ndfer = 1\n")}, []string{"sink.toml:2:1", "dfer"}},
		{[]string{"sink", "-c", write(t, "sink.toml", "listen = 5\n")}, []string{"sink.toml:1:"}},
		{[]string{"demo", "-n", "0"}, []string{"--messages"}},
		{[]string{"completion", "tcsh"}, []string{"bash"}},
		{[]string{"dkim", "generate", "example.com", "bad selector", "-o", filepath.Join(t.TempDir(), "x")}, []string{"selector"}},
	} {
		r := cliRun(t, c.args...)
		if r.code != exitUsage || r.out != "" {
			t.Errorf("godwit %s: exit code %d, want %d; stdout %q, stderr %s", strings.Join(c.args, " "), r.code, exitUsage, r.out, r.err)
		}
		contains(t, r.err, c.text...)
	}
}

// TestUnreachable: the error tells the address and what to do.
func TestUnreachable(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	for _, args := range [][]string{{"reload"}, {"queue", "list"}, {"queue", "drain"}} {
		r := want(t, exitFailed, append(args, "--admin", socket)...)
		contains(t, r.err, "unix:"+socket, "is the server running", "--admin")
	}
	r := want(t, exitFailed, "load", "127.0.0.1:1", "-n", "1", "--give-up", "10ms")
	contains(t, r.err, "127.0.0.1:1", "does anything listen")
}

func TestAdminAddress(t *testing.T) {
	for _, c := range []struct {
		flags adminFlags
		want  string
	}{
		{adminFlags{}, "http://127.0.0.1:8026"},
		{adminFlags{Admin: "/run/x.sock"}, "unix:/run/x.sock"},
		{adminFlags{Admin: "mta:8026"}, "http://mta:8026"},
		{adminFlags{Admin: "https://mta"}, "https://mta"},
		{adminFlags{Config: write(t, "a.toml", "[admin]\nlisten = [\"0.0.0.0:99\", \"unix:/run/y.sock\"]\n")}, "unix:/run/y.sock"},
		{adminFlags{Config: write(t, "b.toml", "[admin]\nlisten = [\"127.0.0.1:0\", \"[::]:99\"]\n")}, "http://127.0.0.1:99"},
	} {
		got, err := c.flags.address()
		if err != nil || got != c.want {
			t.Errorf("%+v: %q, %v; want %q", c.flags, got, err, c.want)
		}
	}
	if _, err := (&adminFlags{Config: write(t, "c.toml", "[admin]\nlisten = []\n")}).address(); err == nil || !strings.Contains(err.Error(), "--admin") {
		t.Errorf("no address: %v", err)
	}
}

func TestVersion(t *testing.T) {
	contains(t, want(t, exitOK, "version").out, "godwit ", "go1.")
}

func TestConfigDefaultsPassCheck(t *testing.T) {
	text := want(t, exitOK, "config", "defaults").out
	contains(t, want(t, exitOK, "config", "check", write(t, "d.toml", text)).out, "is fine")
}

func TestDKIMGenerate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s.pem")
	r := want(t, exitOK, "dkim", "generate", "example.com", "s1", "--algorithm", "ed25519", "-o", file)
	contains(t, r.out, "s1._domainkey.example.com", "[[dkim.keys]]", "k=ed25519")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v %v", info, err)
	}
	want(t, exitFailed, "dkim", "generate", "example.com", "s1", "-o", file) // not overwritten
}

// TestCompletion: each script is accepted by its shell, where that is
// installed, and knows commands, flags and enum values.
func TestCompletion(t *testing.T) {
	for _, c := range []struct {
		shell string
		check []string
		has   []string
	}{
		{"bash", []string{"bash", "-n"}, []string{"'queue list'", "--tenant", "suspended held", "complete -o filenames"}},
		{"zsh", []string{"zsh", "-n"}, []string{"#compdef godwit", "_godwit_queue_list", "--tenant=", "(suspended held"}},
		{"fish", []string{"fish", "--no-execute"}, []string{`__godwit_at \'queue list\'`, "-l tenant", "suspended held"}},
	} {
		text := want(t, exitOK, "completion", c.shell).out
		contains(t, text, c.has...)
		if _, err := exec.LookPath(c.check[0]); err != nil {
			continue
		}
		cmd := exec.Command(c.check[0], append(c.check[1:], write(t, "completion", text))...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s does not take its script: %v\n%s", c.shell, err, out)
		}
	}
}

// TestBashCompletion asks bash what it would offer.
func TestBashCompletion(t *testing.T) {
	script := write(t, "godwit.bash", want(t, exitOK, "completion", "bash").out)
	for _, c := range []struct{ line, want string }{
		{"godwit qu", "queue"},
		{"godwit queue susp", "suspensions suspend"},
		{"godwit queue list --sta", "--state"},
		{"godwit queue list --state he", "held"},
		{"godwit queue list --state = de", "delivering"},
		{"godwit completion f", "fish"},
		{"godwit sink --mode fu", "full"},
		{"godwit queue list --tenant x", ""},
		{"godwit --he", "--help"},
	} {
		words := strings.Fields(c.line)
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, quote(w))
		}
		test := "source " + script + "\nCOMP_WORDS=(" + strings.Join(quoted, " ") + ")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_godwit\necho \"${COMPREPLY[*]}\"\n"
		out, err := exec.Command("bash", "-c", test).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
			t.Errorf("%q: bash offers %q (%v), want %q", c.line, got, err, c.want)
		}
	}
}

// TestSink: addresses as JSON on start, statistics as JSON at the end, and the ports file.
func TestSink(t *testing.T) {
	ports := filepath.Join(t.TempDir(), "ports.json")
	ctx, cancel := context.WithCancel(t.Context())
	var out, errOut bytes.Buffer
	done := make(chan int)
	go func() {
		done <- run(ctx, []string{"sink", "--providers", "2", "--count", "3", "--json", "--ports", ports}, &out, &errOut)
	}()
	var p sinkPorts
	awaitFile(t, ports, &p, done)
	r := want(t, exitOK, "load", p.Providers["provider0"], "-n", "20", "--connections", "2", "--domains", "d%d.test", "--domain-count", "3",
		"--sink", p.HTTP, "--json")
	var report struct {
		Acked    int `json:"acked"`
		Delivery struct {
			Books struct {
				Delivered int `json:"delivered"`
			} `json:"books"`
		} `json:"delivery"`
	}
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || report.Acked != 20 || report.Delivery.Books.Delivered != 20 {
		t.Errorf("report %+v, %v\n%s", report, err, r.out)
	}
	contains(t, want(t, exitOK, "load", p.Providers["provider0"], "-n", "2").out, "accepted   2")
	refused := want(t, exitFailed, "load", p.Providers["provider0"], "-n", "5", "--locals", "permfail")
	contains(t, refused.err, "5 messages not acknowledged")
	cancel()
	if code := <-done; code != exitOK {
		t.Fatalf("exit code %d: %s", code, errOut.String())
	}
	d := json.NewDecoder(&out)
	var stats struct {
		Total struct{ Accepted, Bounced int }
	}
	if err := d.Decode(&p); err != nil || len(p.Providers) != 2 {
		t.Errorf("addresses: %+v %v", p, err)
	}
	if err := d.Decode(&stats); err != nil || stats.Total.Accepted != 22 || stats.Total.Bounced != 5 {
		t.Errorf("statistics: %+v %v", stats, err)
	}
}
