package rules_test

import (
	"errors"
	"testing"

	"github.com/godwit-mta/godwit/throttle/providers"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// FuzzParse: no text makes the loader panic; what it refuses it refuses with a
// place, and what it takes can be asked.
func FuzzParse(f *testing.F) {
	for _, name := range providers.Names() {
		data, err := providers.Read(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, s := range []string{
		"", "version = 1", "version = 1\n[default]\nloop = {off = true}\n", "version = 1\nprovider = [{name = 'x', hosts = ['y']}]\n",
		"version = 1\n[[provider]]\nname = 'x'\nhosts = ['y']\nsources = {'a.b' = {connections = 1}}\n[provider.pool]\ndaily = 5\n",
		"version = 1\n[[provider.rule]]\nname = 1\n", "version = 1\nrule = 2\n", "version = 1\ndefault.rule = [{name='a',match='a|b'}]\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := rules.Parse(rules.Text{Name: "f.toml", Data: data})
		if err != nil {
			var e *rules.Error
			if !errors.As(err, &e) || e.File != "f.toml" || e.Line < 1 || e.Message == "" {
				t.Fatalf("an error without a place: %#v", err)
			}
			return
		}
		q := rules.Query{Source: "s", Pool: "p", Tenant: "t", Site: "mx.example,mx2.example:26;tls=none", Domain: "d"}
		for _, p := range s.Providers() {
			q.Provider = p.Name
			s.Resolve(q)
			s.Explain(q)
			s.Match(p.Name, "421 4.7.0 "+p.Name)
		}
		for _, r := range s.Rules() {
			if r.Threshold < 1 || r.Window <= 0 || (r.For > 0) == (r.Action == rules.Bounce) {
				t.Fatalf("a rule that means nothing: %+v", r)
			}
		}
	})
}
