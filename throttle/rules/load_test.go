package rules_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle/rules"
)

func text(s string) rules.Text { return rules.Text{Name: "r.toml", Data: []byte(s)} }

const goodRule = `
[[provider.rule]]
name = "busy"
match = "server busy"
action = "suspend"
for = "30m"
matches = ["451 4.7.0 Server BUSY"]
not = ["550 no such user"]
`

// TestErrors: each mistake is named with file, line, column, block, rule, key and reason.
func TestErrors(t *testing.T) {
	rule := func(lines ...string) string {
		return "version = 1\n[[provider]]\nname = \"p\"\nmx_suffix = [\"p.example\"]\n[[provider.rule]]\nname = \"r\"\n" + strings.Join(lines, "\n") + "\n"
	}
	whole := []string{`match = "x"`, `action = "suspend"`, `for = "1h"`, `matches = ["x"]`, `not = ["y"]`}
	with := func(i int, line string) string {
		lines := append([]string{}, whole...)
		lines[i] = line
		return rule(lines...)
	}
	if _, err := rules.Parse(text(rule(whole...))); err != nil {
		t.Fatalf("the rule that the cases vary is wrong itself: %v", err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"no version":     {"[default]\nconnections = 1\n", "r.toml:1:1: version: must be 1, the version of the format that this program reads"},
		"other version":  {"# x\nversion = 2\n", "r.toml:2:1: version: must be 1, the version of the format that this program reads"},
		"syntax":         {"version = 1\n[default\n", "r.toml:2:9: expected"},
		"unknown key":    {"version = 1\n[[provider]]\nname = \"p\"\nmx_suffix = [\"p.example\"]\nconections = 3\n", "r.toml:5:1: provider p: conections: unknown key (did you mean connections?)"},
		"unknown table":  {"version = 1\n[[providers]]\nname = \"p\"\n", "r.toml:2:3: providers: unknown key (did you mean provider?)"},
		"unknown deep":   {with(2, "forr = \"1h\""), "r.toml:9:1: provider p, rule r: forr: unknown key (did you mean for?)"},
		"type":           {"version = 1\n[default]\nconnections = \"ten\"\n", "r.toml:3:15: default: connections: "},
		"rate":           {"version = 1\n[[provider]]\nname = \"p\"\nmx_suffix = [\"x.example\"]\nmessage_rate = \"fast\"\n", `r.toml:5:16: provider p: message_rate: "fast" is not a rate`},
		"negative":       {"version = 1\n[default]\nconnections = -1\n", "r.toml:3:1: default: connections: must be 0 (no limit) to 1000000"},
		"tls":            {"version = 1\n[default]\ntls = \"always\"\n", `r.toml:3:1: default: tls: "always" is none of opportunistic, required, verify, none`},
		"loop":           {"version = 1\n[default]\nloop = { high = 2.0 }\n", "r.toml:3:10: default: high: must be above 0 and at most 1, a share of messages deferred"},
		"loop nan":       {"version = 1\n[default.loop]\nlow = nan\n", "r.toml:3:1: default: low: must be 0 or more and below high"},
		"no name":        {"version = 1\n[[provider]]\nconnections = 3\n", "r.toml:2:3: provider: name: must be given"},
		"spaces":         {"version = 1\n[[tenant]]\nname = \"a b\"\n", "r.toml:3:1: tenant a b: name: must not hold spaces or control characters"},
		"no sites":       {"version = 1\n[[provider]]\nname = \"gogle\"\n[[provider]]\nname = \"google\"\nmx_suffix = [\"google.com\"]\n", "r.toml:2:3: provider gogle: neither mx_suffix nor hosts say which sites belong to it (did you mean google?)"},
		"bad suffix":     {"version = 1\n[[provider]]\nname = \"p\"\nmx_suffix = [\n  \"p.example\",\n  \"two words\"]\n", `r.toml:6:3: provider p: mx_suffix[1]: "two words" is not a domain name`},
		"twice":          {"version = 1\n[[domain]]\nname = \"a.example\"\n[[domain]]\nname = \"A.example\"\n", "r.toml:4:3: domain A.example: the block is in this file twice, first in line 2"},
		"no provider":    {"version = 1\n[[tenant]]\nname = \"t\"\nprovider = \"nobody\"\n", `r.toml:4:1: tenant t: provider: there is no provider "nobody"`},
		"source":         {"version = 1\n[[site]]\nmatch = \"mx.example\"\n[site.sources.s1]\nconnections = -5\n", "r.toml:5:1: site mx.example source s1: connections: must be"},
		"source loop":    {"version = 1\n[[site]]\nmatch = \"mx.example\"\n[site.sources.\"s.1\"]\nloop.least = 0\n", "r.toml:5:1: site mx.example source s.1: least: must be 1 or more"},
		"pool":           {"version = 1\n[[provider]]\nname = \"p\"\nmx_suffix = [\"x.example\"]\n[provider.pool]\ntls = \"none\"\n", "r.toml:6:1: provider p pool: tls: unknown key (known here: connect_rate, connections, daily, message_rate)"},
		"pattern":        {with(0, `match = "a(b"`), "r.toml:7:1: provider p, rule r: match: error parsing regexp: missing closing ): `(?i)a(b`"},
		"matches all":    {with(0, `match = "x*"`), "r.toml:7:1: provider p, rule r: match: matches every reply"},
		"action":         {with(1, `action = "pause"`), `r.toml:8:1: provider p, rule r: action: "pause" is none of`},
		"no action":      {with(1, ""), "r.toml:5:3: provider p, rule r: action: must be given"},
		"slow":           {with(1, `action = "slow"`), "r.toml:8:1: provider p, rule r: action: slow needs one of"},
		"not slow":       {with(1, "action = \"suspend\"\nconnections = 3"), "r.toml:9:1: provider p, rule r: connections: goes with the action slow only"},
		"slow to none":   {with(1, "action = \"slow\"\nconnections = 0"), "r.toml:9:1: provider p, rule r: connections: must be a limit"},
		"no duration":    {with(2, ""), "r.toml:5:3: provider p, rule r: for: must be given"},
		"bounce for":     {with(1, `action = "bounce"`), "r.toml:9:1: provider p, rule r: for: a bounce is about the reply itself"},
		"threshold":      {with(2, "for = \"1h\"\nthreshold = 0"), "r.toml:10:1: provider p, rule r: threshold: must be 1 to 1000"},
		"window":         {with(2, "for = \"1h\"\nwindow = \"90d\""), "r.toml:10:1: provider p, rule r: window: must be 1s to 7d"},
		"scope":          {with(2, "for = \"1h\"\nscope = \"world\""), `r.toml:10:1: provider p, rule r: scope: "world" is none of provider, site`},
		"no samples":     {with(3, ""), "r.toml:5:3: provider p, rule r: matches: must hold a reply"},
		"no not":         {with(4, "not = []"), "r.toml:11:1: provider p, rule r: not: must hold a reply"},
		"own sample":     {with(3, "matches = [\n  \"fox\",\n  \"cat\"]"), `r.toml:12:3: provider p, rule r: matches[1]: the rule does not match its own sample "cat"`},
		"foreign sample": {with(4, "not = [\"y\", \"a x\"]"), `r.toml:11:13: provider p, rule r: not[1]: the rule matches "a x", which it must not`},
		"rule twice":     {rule(append(whole, "[[provider.rule]]", "name = \"r\"")...), "r.toml:13:1: provider p, rule r: name: the rule is in this block twice, first in line 5"},
	} {
		_, err := rules.Parse(text(c.text))
		if err == nil {
			t.Errorf("%s: loads", name)
			continue
		}
		if !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s:\n got %s\nwant %s...", name, err, c.want)
		}
		var e *rules.Error
		if !errors.As(err, &e) || e.Line == 0 || e.File != "r.toml" {
			t.Errorf("%s: no *Error with a place: %#v", name, err)
		}
	}
}

// TestAllMistakesAtOnce: one load reports what is wrong in all files.
func TestAllMistakesAtOnce(t *testing.T) {
	_, err := rules.Parse(
		rules.Text{Name: "a.toml", Data: []byte("version = 1\n[default]\nconnections = -1\ndaily = -1\n")},
		rules.Text{Name: "b.toml", Data: []byte("version = 1\n[defalt]\n")})
	if err == nil || strings.Count(err.Error(), "\n") != 2 ||
		!strings.Contains(err.Error(), "a.toml:3:1:") || !strings.Contains(err.Error(), "a.toml:4:1:") || !strings.Contains(err.Error(), "b.toml:2:2:") {
		t.Errorf("got %v", err)
	}
}

func TestOptions(t *testing.T) {
	dir := t.TempDir()
	write := func(name, s string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.toml", "version = 1\n[[provider]]\nname = \"google\"\nconnections = 20\n")
	bad := write("bad.toml", "version = 1\n[[provider]]\nname = \"google\"\nconnections = -20\n")
	for _, c := range []struct {
		o    rules.Options
		want string
	}{
		{rules.DefaultOptions(), ""},
		{rules.Options{}, ""},
		{rules.Options{Packs: []string{"google", "all", "google"}, Files: []string{good}}, ""},
		{rules.Options{Packs: []string{"all", "gogle"}}, `packs[1]: there is no pack "gogle"; the packs are default, 163, `},
		{rules.Options{Packs: []string{"../rules/load"}}, `packs[0]: there is no pack`},
		{rules.Options{Packs: []string{"all"}, Files: []string{good, bad}}, "files[1]: " + bad + ":4:1: provider google: connections: must be"},
		{rules.Options{Packs: []string{"all"}, Files: []string{good, good}}, "files[1]: " + good + " is there twice"},
		{rules.Options{Files: []string{filepath.Join(dir, "none.toml")}}, "files[0]: open "},
		{rules.Options{Files: []string{good}}, "files[0]: " + good + ":2:3: provider google: neither mx_suffix nor hosts"},
	} {
		err := c.o.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%v: got %v, want %q", c.o, err, c.want)
		}
	}
}

// TestOverride: a file changes what it names and leaves the rest, down to single values of rules.
func TestOverride(t *testing.T) {
	base := rules.Text{Name: "p.toml", Builtin: true, Data: []byte("version = 1\n[[provider]]\nname = \"p\"\nmx_suffix = [\"p.example\"]\nconnections = 5\nmessages_per_connection = 50\n" +
		goodRule + strings.ReplaceAll(goodRule, "busy\"\nmatch", "other\"\nmatch"))}
	s, err := rules.Parse(base, text(`version = 1
[[provider]]
name = "p"
connections = 0
[[provider.rule]]
name = "busy"
for = "2h"
[[provider.rule]]
name = "other"
off = true
[[provider]]
name = "mine"
hosts = ["MX.p.example."]
`))
	if err != nil {
		t.Fatal(err)
	}
	e := s.Resolve(rules.Query{Source: "s", Provider: "p", Site: "mx"})
	if e.Connections != 0 || e.MessagesPerConnection != 50 {
		t.Errorf("connections %d, messages %d; want none and 50", e.Connections, e.MessagesPerConnection)
	}
	want := "connections              none  source=s provider=p  r.toml:4 (provider p)\n" +
		"messages_per_connection  50                         builtin p.toml:6 (provider p)\n"
	if got := e.String(); got != want {
		t.Errorf("table\n%s\nwant\n%s", got, want)
	}
	list := s.Match("p", "451 4.7.0 server busy")
	if len(list) != 1 || list[0].Name != "busy" || list[0].For != 2*time.Hour || list[0].Action != rules.Suspend {
		t.Errorf("rules %+v, want busy for 2h and not other", list)
	}
	if got := s.ProviderOf([]string{"mx.p.example"}); got != "mine" {
		t.Errorf("provider %q: what a file adds must be tried before the shipped ones", got)
	}
	// An override of the expression is held against the shipped samples.
	_, err = rules.Parse(base, text("version = 1\n[[provider]]\nname = \"p\"\n[[provider.rule]]\nname = \"busy\"\nmatch = \"^452 busy\"\n"))
	if err == nil || !strings.HasPrefix(err.Error(), `builtin p.toml:13:12: provider p, rule busy: matches[0]: the rule does not match its own sample`) {
		t.Errorf("got %v", err)
	}
}

func TestDigest(t *testing.T) {
	of := func(texts ...rules.Text) string {
		s, err := rules.Parse(texts...)
		if err != nil {
			t.Fatal(err)
		}
		return s.Digest()
	}
	a, b := "version = 1\n", "version = 1\n[default]\nconnections = 3\n"
	if of(text(a)) == of(text(b)) || of(text(a), text(b)) == of(text(b), text(a)) || of(text(a)) == of(text(a), text(a)) {
		t.Error("different rules have the same digest")
	}
	if of(text(b)) != of(rules.Text{Name: "elsewhere.toml", Data: []byte(b)}) {
		t.Error("the digest depends on the name of the file")
	}
}

func TestSlowLimits(t *testing.T) {
	s, err := rules.Parse(text(`version = 1
[[default.rule]]
name = "r"
match = "slow"
action = "slow"
connections = 2
connect_rate = "5/min"
message_rate = "10/min"
messages_per_connection = 3
threshold = 7
window = "10m"
for = "1h"
scope = "site"
matches = ["slow"]
not = ["x"]
`))
	if err != nil {
		t.Fatal(err)
	}
	r := s.Rules()[0]
	l := r.Limits
	if l.Connections != 2 || l.ConnectRate != (units.Rate{Count: 5, Per: time.Minute}) || l.MessageRate != (units.Rate{Count: 10, Per: time.Minute}) ||
		r.MessagesPerConnection != 3 || r.Threshold != 7 || r.Window != 10*time.Minute || r.For != time.Hour || !r.PerSite || r.ID() != "default/r" {
		t.Errorf("%+v", r)
	}
	if got, want := r.Origin.String(), "r.toml:2 (default rule r)"; got != want {
		t.Errorf("origin %q, want %q", got, want)
	}
}
