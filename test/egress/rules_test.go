//go:build egress

package egress

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/watch"
)

// badRules are rule files that config check refuses, and what it must say.
var badRules = []struct{ name, text, want string }{
	{"own sample", `version = 1
[[provider]]
name = "p"
mx_suffix = ["p.test"]
[[provider.rule]]
name = "busy"
match = "server busy"
action = "suspend"
for = "1h"
matches = ["421 4.7.0 Server is busy"]
not = ["550 x"]
`, `rules.toml:10:12: provider p, rule busy: matches[0]: the rule does not match its own sample "421 4.7.0 Server is busy"`},
	{"foreign sample", `version = 1
[[default.rule]]
name = "busy"
match = "busy"
action = "one_connection"
for = "1h"
matches = ["421 busy"]
not = ["550 the bee is busy"]
`, `rules.toml:8:8: default, rule busy: not[0]: the rule matches "550 the bee is busy", which it must not`},
	{"expression", `version = 1
[[default.rule]]
name = "busy"
match = "bus(y"
action = "suspend"
for = "1h"
matches = ["421 busy"]
not = ["550 x"]
`, "rules.toml:4:1: default, rule busy: match: error parsing regexp"},
	{"key", "version = 1\n[default]\nconections = 3\n", "rules.toml:3:1: default: conections: unknown key (did you mean connections?)"},
	{"value", "version = 1\n\n[default]\nmessage_rate = \"fast\"\n", `rules.toml:4:16: default: message_rate: "fast" is not a rate`},
	{"syntax", "version = 1\n[default\n", "rules.toml:2:9: "},
}

// TestBadRules: every mistake is named with file, line, rule and reason, and a server does not start with it.
func TestBadRules(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conf := filepath.Join(dir, "godwit.toml")
	rules := filepath.Join(dir, "rules.toml")
	text := "hostname = \"mx.godwit.test\"\n[queue]\npath = \"" + dir + "/spool\"\n[throttle]\nfiles = [\"" + rules + "\"]\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range badRules {
		if err := os.WriteFile(rules, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, call := range [][]string{{"config", "check", conf}, {"serve", "-c", conf}} {
			_, errOut, code := command(t, call...)
			if code != 2 || !strings.Contains(errOut, c.want) {
				t.Errorf("%s: godwit %s: code %d\n%s\nwant %s", c.name, call[0], code, errOut, c.want)
			}
		}
	}
	if err := os.WriteFile(rules, []byte("version = 1\n[default]\nconnections = 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errOut, code := command(t, "config", "check", conf); code != 0 {
		t.Errorf("good rules: code %d\n%s", code, errOut)
	}
}

// TestReloadRules: a bad file leaves the rules in force that are running, a good one replaces them.
func TestReloadRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t, layout{nodes: 1, rules: "[default]\nconnections = 2\nmessage_rate = \"20/s\"\n"},
		sink.Provider{Name: "easy", Domains: []string{"e%d.test"}, Count: 3})
	w.start()
	w.inject([]flow{{name: "easy", domain: "e%d.test", rate: 80}})
	time.Sleep(2 * time.Second)
	reload := func(text, want string) time.Time {
		w.writeRules(text)
		before := strings.Count(w.nodes[0].Log(), want)
		w.must(w.nodes[0].Signal(syscall.SIGHUP))
		w.eventually("the log says "+want, func() error {
			if strings.Count(w.nodes[0].Log(), want) == before {
				return errNotYet
			}
			return nil
		})
		return w.mark("%s", want)
	}
	reload("[default]\nconnections = 2\nmessage_rate = \"200/s\"\n"+strings.TrimPrefix(badRules[0].text, "version = 1\n"), "configuration not taken")
	if log := w.nodes[0].Log(); !strings.Contains(log, "provider p, rule busy") || !strings.Contains(log, "does not match its own sample") {
		t.Errorf("the log does not tell what is wrong:\n%s", tail(log, 5))
	}
	time.Sleep(3 * time.Second)
	slow := w.record()
	at := reload("[default]\nconnections = 2\nmessage_rate = \"60/s\"\n", "configuration taken")
	time.Sleep(4 * time.Second)
	fast := w.record()
	w.endLoad()
	b := bound{name: "20/s", provider: "easy", limit: watch.Limit{Rate: 20, Connections: 2}}
	w.overshoot(slow, b)
	quick := bound{name: "60/s", provider: "easy", limit: watch.Limit{Rate: 60, Connections: 2}}
	w.overshoot(fast, quick)
	if use := w.used(fast, quick, at.Add(time.Second), at.Add(4*time.Second)); use < 0.4 {
		t.Errorf("%.0f %% of the new rate were used", 100*use)
	}
}
