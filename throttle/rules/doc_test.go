package rules_test

import (
	"os"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/throttle/rules"
)

// TestWorkedExample holds docs/formats/rules.md to what the program does.
func TestWorkedExample(t *testing.T) {
	doc, err := os.ReadFile("../../docs/formats/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(start string) string {
		_, rest, ok := strings.Cut(string(doc), start+"\n")
		text, _, closed := strings.Cut(rest, "```")
		if !ok || !closed {
			t.Fatalf("no block %q", start)
		}
		return text
	}
	texts, err := rules.Read([]string{rules.AllPacks}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := rules.Parse(append(texts, rules.Text{Name: "rules.toml", Data: []byte(block("```toml"))})...)
	if err != nil {
		t.Fatal(err)
	}
	e := s.Resolve(rules.Query{Source: "ip-7", Pool: "transactional", Tenant: "acme", Provider: "google",
		Site: "aspmx.l.google.com", Domain: "example.com"})
	var got []string
	for line := range strings.Lines(e.String()) {
		got = append(got, strings.TrimRight(line, " \n"))
	}
	if want := strings.TrimSpace(block("```text")); strings.Join(got, "\n") != want {
		t.Errorf("the table in the page is\n%s\nthe program says\n%s", want, strings.Join(got, "\n"))
	}
}
