package convert

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/throttle/rules"
)

var update = flag.Bool("update", false, "write the expected output")

// lookup knows the mail exchangers of some domains.
func lookup(domain string) ([]string, error) {
	hosts, ok := map[string][]string{"rolled.example": {"mx1.rolled.example", "mx2.rolled.example"}, "hotmail.com": {"mx.hotmail.test"},
		"live.example": {"mx.hotmail.test"}, "mail.example": {"a.group.test"}, "other.example": {"b.group.test"}}[domain]
	if !ok {
		return nil, errors.New("no such domain")
	}
	return hosts, nil
}

// load holds a translation to what reads it.
func load(t testing.TB, r *Result) *rules.Set {
	t.Helper()
	packs, err := rules.Read([]string{rules.AllPacks}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Rules != "" {
		packs = append(packs, rules.Text{Name: "translated.toml", Data: []byte(r.Rules)})
	}
	set, err := rules.Parse(packs...)
	if err != nil {
		t.Fatalf("the rules cannot be loaded: %v\n%s", err, r.Rules)
	}
	section := struct {
		Egress proxy.Options `toml:"egress"`
	}{proxy.DefaultOptions()}
	if err := toml.NewDecoder(strings.NewReader(r.Egress)).DisallowUnknownFields().Decode(&section); err != nil {
		t.Fatalf("the section cannot be read: %v\n%s", err, r.Egress)
	}
	if err := section.Egress.Validate(); err != nil {
		t.Fatalf("the section cannot be used: %v\n%s", err, r.Egress)
	}
	return set
}

// text puts a result into one file for comparing.
func (r *Result) text() string {
	var b strings.Builder
	for _, part := range [][2]string{{"rules", r.Rules}, {"egress", r.Egress}} {
		if part[1] != "" {
			fmt.Fprintf(&b, "## %s\n%s\n", part[0], part[1])
		}
	}
	b.WriteString("## notes\n")
	for _, n := range r.Notes {
		b.WriteString(n.String() + "\n")
	}
	return b.String()
}

// TestGolden translates every file of testdata, once with and once without DNS.
// go test ./throttle/convert -update writes what is expected.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.[tc]o*")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		for suffix, look := range map[string]func(string) ([]string, error){".want": nil, ".resolved.want": lookup} {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			o := Options{File: filepath.Base(path), LookupMX: look, Today: time.Date(2026, 5, 4, 0, 0, 0, 0, time.UTC)}
			var r *Result
			if filepath.Base(filepath.Dir(path)) == "kumo" {
				if r, err = KumoShaping(data, o); err != nil {
					t.Fatal(err)
				}
			} else {
				r = PowerMTA(data, o)
			}
			load(t, r)
			want := strings.TrimSuffix(path, filepath.Ext(path)) + suffix
			if *update {
				if err := os.WriteFile(want, []byte(r.text()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			have, err := os.ReadFile(want)
			if diff := cmp.Diff(string(have), r.text()); err != nil || diff != "" {
				t.Errorf("%s (%v): -want +got\n%s", want, err, diff)
			}
		}
	}
}

// TestMeaning asks the translated rules what holds, which is what a translation is for.
func TestMeaning(t *testing.T) {
	data, err := os.ReadFile("testdata/pmta/basic.conf")
	if err != nil {
		t.Fatal(err)
	}
	set := load(t, PowerMTA(data, Options{File: "basic.conf", LookupMX: lookup}))
	google := rules.Query{Source: "promo1", Provider: "gmail", Site: "aspmx.l.google.com", Domain: "gmail.com"}
	if e := set.Resolve(google); e.Connections != 20 || e.MessageRate.String() != "4000/h" || e.TLS != "required" || e.MessagesPerConnection != 50 {
		t.Errorf("google: %+v", e)
	}
	if e := set.Resolve(rules.Query{Source: "promo2", Site: "mx.any.example", Domain: "any.example"}); e.Connections != 10 || e.ConnectRate.String() != "30/5m" {
		t.Errorf("any: %+v", e)
	}
	if e := set.Resolve(rules.Query{Source: "promo2", Site: "mx.bm.example", Domain: "bigmail.fr"}); e.MessageRate.String() != "5/min" || e.Connections != 2 {
		t.Errorf("bigmail.fr: %+v", e)
	}
	if e := set.Resolve(rules.Query{Source: "promo2", Provider: "hotmail", Site: "mx.hotmail.test", Domain: "live.example"}); e.Connections != 15 {
		t.Errorf("hotmail: %+v", e)
	}
	list := set.Match("gmail", "421 4.7.28 an unusual rate of unsolicited mail originating from")
	if len(list) != 1 || list[0].Action != rules.Slow || list[0].Limits.MessageRate.String() != "10/min" || list[0].For != 30*time.Minute {
		t.Errorf("match: %+v", list)
	}
	if list := set.Match("", "452 4.2.2 Account over quota"); len(list) != 1 || list[0].Action != rules.Bounce {
		t.Errorf("bounce: %+v", list)
	}
}

func TestSample(t *testing.T) {
	for _, pattern := range []string{`\[TS0[34]\]`, `^421 .* too many errors`, `mail from \d+\.\d+\.\d+\.\d+ deferred`, `(?i)abc|def`, `a{3,5}b?$`,
		`5\.7\.1 .*blocked`, `^550`, `\bspam\b`, `quota.{0,9}exceeded`, `[^\w]x`, `(?:one|two) more`, `\s+later`, `421 4\.7\.0 \[TSS04\]`} {
		s := sample(pattern)
		if !regexp.MustCompile("(?i)"+pattern).MatchString(s) || len(s) < 4 {
			t.Errorf("%s: %q", pattern, s)
		}
	}
	for _, pattern := range []string{`(`, `a{999}b{999}`, `\bx\By\b z\b\b^`} {
		if s := sample(pattern); s != "" {
			t.Errorf("%s: %q", pattern, s)
		}
	}
	if _, _, err := samples([]string{`.`}); err == nil {
		t.Error("a sample that must not match was found for .")
	}
}

func TestValues(t *testing.T) {
	for in, want := range map[string]string{"100/s": "100/s", "10,000/h": "10000/h", "5/15m": "5/15m", "1/minute": "1/min", "2/hr": "2/h", "3/d": "3/d", "9/sec": "9/s"} {
		if got, err := rate(in); got != want || err != nil {
			t.Errorf("rate %s: %s, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "5", "/s", "0/s", "x/s", "5/fortnight", "-1/s", "5/0s", "99999999999999/s"} {
		if got, err := rate(in); err == nil {
			t.Errorf("rate %q: %s", in, got)
		}
	}
	for in, want := range map[string]time.Duration{"1w2d12h": 9*24*time.Hour + 12*time.Hour, "300s": 5 * time.Minute, "2 hours 30 min": 150 * time.Minute,
		"90": 90 * time.Second, "1 hour": time.Hour, "30 days": 720 * time.Hour} {
		if got, err := duration(in); got != want || err != nil {
			t.Errorf("duration %s: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "never", "h", "5x", "1h-", "99999999999999999999d"} {
		if got, err := duration(in); err == nil {
			t.Errorf("duration %q: %v", in, got)
		}
	}
}

func TestInclude(t *testing.T) {
	files := map[string]string{"a": "include b\n<domain *>\nmax-smtp-out 7\n", "b": "include a\n</domain>\n"}
	r := PowerMTA([]byte("include a\ninclude missing\n"), Options{File: "main", Include: func(name string) ([]Input, error) {
		if files[name] == "" {
			return nil, os.ErrNotExist
		}
		return []Input{{name, []byte(files[name])}}, nil
	}})
	if !strings.Contains(r.Rules, "connections = 7") || !strings.Contains(r.text(), "main:2: todo: include missing") || !strings.Contains(r.text(), "too often") {
		t.Error(r.text())
	}
}

// TestKumoErrors: what is not TOML is an error with its place.
func TestKumoErrors(t *testing.T) {
	for in, want := range map[string]string{"[a\n": "f.toml:1:", "a = 1\na = 2\n": "f.toml:2:", "\n\n= 3": "f.toml:3:"} {
		if _, err := KumoShaping([]byte(in), Options{File: "f.toml"}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func FuzzPowerMTA(f *testing.F) {
	for _, name := range []string{"basic", "proxy"} {
		data, err := os.ReadFile("testdata/pmta/" + name + ".conf")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("domain-macro a $b\ndomain-macro b x,$a\n<domain q.$a>\nmax-msg-rate 0\n<smtp-pattern-list x>\nreply /\\//\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		load(t, PowerMTA(data, Options{File: "f", LookupMX: lookup, Today: time.Unix(0, 0).UTC()}))
	})
}

func FuzzKumoShaping(f *testing.F) {
	data, err := os.ReadFile("testdata/kumo/basic.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := KumoShaping(data, Options{File: "f", LookupMX: lookup})
		if err != nil {
			return
		}
		for _, n := range r.Notes { // a block without match adds to a provider that need not exist
			if n.Kind == Todo && strings.Contains(n.Reason, "has no match of its own") {
				return
			}
		}
		load(t, r)
	})
}
