package rules_test

import (
	"slices"
	"testing"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle/providers"
	"github.com/godwit-mta/godwit/throttle/rules"
)

func shipped(t testing.TB) *rules.Set {
	t.Helper()
	s, err := rules.Load([]string{rules.AllPacks}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestPacksLoad: each pack alone, and beside the default one.
func TestPacksLoad(t *testing.T) {
	for _, name := range providers.Names() {
		if _, err := rules.Load([]string{name}, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	want := []string{"default", "163", "barracuda", "comcast", "gmx", "google", "icloud", "kpn", "mailcom", "microsoft365",
		"mimecast", "netvigator", "orange", "outlook", "proofpoint", "qq", "yahoo", "yahoo-japan"}
	if got := providers.Names(); !slices.Equal(got, want) {
		t.Errorf("packs %v, want %v", got, want)
	}
}

// TestPacksClaimTheirSamples: with all packs loaded, a sample of a rule is
// answered by that rule; and a reply that a rule must not match, and that no rule of
// its provider claims, is claimed by none of another provider or of the default either.
func TestPacksClaimTheirSamples(t *testing.T) {
	s := shipped(t)
	matches, not := rules.Samples(s)
	if len(matches) < 60 || len(not) < 80 {
		t.Fatalf("only %d and %d samples: they are not being read", len(matches), len(not))
	}
	all := s.Rules()
	for _, m := range matches {
		claimed := ids(s.Match(m.Provider, m.Reply))
		if !slices.Contains(claimed, m.Rule) {
			t.Errorf("%s does not claim its sample %q among all packs: %v do", m.Rule, m.Reply, claimed)
		}
	}
	for _, n := range not {
		// The provider's other rules may claim it, that is what they are there for; then nobody else is wrong about it.
		theirs := slices.ContainsFunc(all, func(r rules.Rule) bool {
			return r.Provider == n.Provider && slices.Contains(ids(s.Match(n.Provider, n.Reply)), r.ID())
		})
		if theirs {
			continue
		}
		for _, provider := range append(providerNames(s), "") {
			for _, id := range ids(s.Match(provider, n.Reply)) {
				t.Errorf("%s claims %q, which %s must not match", id, n.Reply, n.Rule)
			}
		}
	}
}

func providerNames(s *rules.Set) []string {
	var names []string
	for _, p := range s.Providers() {
		names = append(names, p.Name)
	}
	return names
}

func ids(list []rules.Rule) []string {
	var out []string
	for i := range list {
		out = append(out, list[i].ID())
	}
	return out
}

// TestProvidersOfHosts holds the packs against MX sets as they are published.
func TestProvidersOfHosts(t *testing.T) {
	s := shipped(t)
	for want, sets := range map[string][][]string{
		"google": {{"gmail-smtp-in.l.google.com", "alt1.gmail-smtp-in.l.google.com"}, {"aspmx.l.google.com", "aspmx2.googlemail.com"},
			{"smtp.google.com"}},
		"yahoo":        {{"mta5.am0.yahoodns.net", "mta6.am0.yahoodns.net"}, {"mx-aol.mail.gm0.yahoodns.net"}},
		"yahoo-japan":  {{"mx1.mail.yahoo.co.jp", "mx2.mail.yahoo.co.jp"}},
		"outlook":      {{"hotmail-com.olc.protection.outlook.com"}},
		"microsoft365": {{"contoso-com.mail.protection.outlook.com"}, {"contoso-com.o-v1.mx.microsoft"}},
		"icloud":       {{"mx01.mail.icloud.com", "mx02.mail.icloud.com"}},
		"comcast":      {{"mx1a1.comcast.net", "mx2h1.comcast.net"}},
		"orange":       {{"smtp-in.orange.fr"}},
		"gmx":          {{"mx00.emig.gmx.net", "mx01.emig.gmx.net"}, {"mx-ha02.web.de", "mx-ha03.web.de"}},
		"mailcom":      {{"mx00.mail.com", "mx01.mail.com"}},
		"mimecast":     {{"eu-smtp-inbound-1.mimecast.com", "eu-smtp-inbound-2.mimecast.com"}},
		"proofpoint":   {{"mxa-00123401.gslb.pphosted.com", "mxb-00123401.gslb.pphosted.com"}, {"mx1-us1.ppe-hosted.com"}},
		"qq":           {{"mx1.qq.com", "mx2.qq.com"}, {"mxbiz1.qq.com"}},
		"163":          {{"163mx01.mxmail.netease.com", "163mx02.mxmail.netease.com"}},
		"kpn":          {{"mx01.kpnmail.nl"}},
		"barracuda":    {{"d123456a.ess.barracudanetworks.com"}},
		"netvigator":   {{"mx.netvigator.com"}},
		"":             {{"aspmx.l.google.com", "mx.example.com"}, {"mx.notgoogle.com"}, {"mx.example.com"}, {}},
	} {
		for _, hosts := range sets {
			if got := s.ProviderOf(hosts); got != want {
				t.Errorf("provider of %v is %q, want %q", hosts, got, want)
			}
		}
	}
}

// TestFacts spot-checks what the packs say against what is known of providers.
func TestFacts(t *testing.T) {
	s := shipped(t)
	for provider, want := range map[string]struct {
		connections, perConnection int
		tls                        string
	}{
		"": {10, 100, ""}, "google": {5, 50, "required"}, "yahoo": {10, 20, ""}, "yahoo-japan": {2, 20, ""},
		"outlook": {5, 50, ""}, "microsoft365": {5, 50, ""}, "icloud": {10, 5, ""}, "comcast": {25, 1000, "required"},
		"orange": {2, 100, "required"}, "gmx": {4, 20, "required"}, "mimecast": {10, 100, ""}, "qq": {4, 8, "required"},
		"163": {4, 7, "required"}, "kpn": {10, 10, "required"}, "barracuda": {10, 15, "required"}, "netvigator": {5, 10, "required"},
		"mailcom": {10, 100, ""},
	} {
		e := s.Resolve(rules.Query{Source: "s1", Provider: provider, Site: "mx.example.com", Domain: "example.com"})
		if e.Connections != want.connections || e.MessagesPerConnection != want.perConnection || e.TLS != want.tls {
			t.Errorf("%q: %d connections, %d messages each, TLS %q; want %v", provider, e.Connections, e.MessagesPerConnection, e.TLS, want)
		}
		looped := 0
		for _, b := range e.Bounds {
			if b.Limits.Loop.Window > 0 {
				looped++
			}
		}
		if looped == 0 {
			t.Errorf("%q: no closed loop", provider)
		}
	}
	e := s.Resolve(rules.Query{Provider: "yahoo-japan", Site: "mx1.mail.yahoo.co.jp"})
	if e.MessageRate != (units.Rate{Count: 10, Per: 1e9}) {
		t.Errorf("yahoo.co.jp at %v, want 10/s", e.MessageRate)
	}
}
