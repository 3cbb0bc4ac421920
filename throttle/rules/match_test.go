package rules_test

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/godwit-mta/godwit/throttle/rules"
)

// TestOrdinaryReplies: what providers say about recipients and contents is nobody's business.
func TestOrdinaryReplies(t *testing.T) {
	s := shipped(t)
	for _, reply := range []string{
		"", "250 2.0.0 Ok: queued as 4F3c", "x",
		"550 5.1.1 The email account that you tried to reach does not exist. Please try double-checking the recipient's email address - gsmtp",
		"450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages from being delivered. - gsmtp",
		"452 4.2.2 The email account that you tried to reach is over quota. - gsmtp",
		"421 4.3.0 Temporary System Problem. Try again later. - gsmtp",
		"550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302).",
		"550 5.4.1 Recipient address rejected: Access denied. [DB5EUR01FT004.eop-EUR01.prod.protection.outlook.com]",
		"554 5.7.9 Message not accepted for policy reasons. See https://postmaster.yahooinc.com/error-codes",
		"552 5.2.2 <anna@icloud.com>: user is over quota",
		"550 5.1.1 Adresse d au moins un destinataire invalide. Invalid recipient. OFR_416 [416]",
		"450 4.7.1 <anna@example.com>: Recipient address rejected: Greylisting in action, please come back later",
		"451 4.3.0 <anna@example.com>: Temporary lookup failure",
		"452 4.5.3 Error: too many recipients",
		"552 5.3.4 Message size exceeds fixed limit",
		"550 The recipient may contain a non-existent account, please check the recipient address.",
		"550 User not found: anna@163.com",
	} {
		for _, p := range append(providerNames(s), "", "nobody") {
			if got := ids(s.Match(p, reply)); len(got) > 0 {
				t.Errorf("%v of %q claim %q", got, p, reply)
			}
		}
	}
}

// TestDefaultOnlyWithoutOwn: the default's rules are asked when the provider's have nothing to say.
func TestDefaultOnlyWithoutOwn(t *testing.T) {
	s := shipped(t)
	reply := "421 4.7.0 [TSS04] Messages from 192.0.2.10 temporarily deferred due to unexpected volume or user complaints"
	for provider, want := range map[string][]string{
		"yahoo":  {"yahoo/complaints"},
		"google": {"default/deferred-for-reputation"},
		"":       {"default/deferred-for-reputation"},
		"nobody": {"default/deferred-for-reputation"},
	} {
		if got := ids(s.Match(provider, reply)); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", provider, got, want)
		}
	}
	if got := ids(s.Match("outlook", "451 4.7.500 Server busy. Please try again later from [192.0.2.10].")); len(got) != 2 {
		t.Errorf("two rules of a provider may claim one reply; got %v", got)
	}
}

// TestPrefilter: looking for texts first changes no answer, whatever the letters.
func TestPrefilter(t *testing.T) {
	s := shipped(t)
	matches, not := rules.Samples(s)
	samples := append(matches, not...)
	rapid.Check(t, func(t *rapid.T) {
		m := samples[rapid.IntRange(0, len(samples)-1).Draw(t, "sample")]
		reply := m.Reply
		switch rapid.IntRange(0, 4).Draw(t, "change") {
		case 1:
			reply = strings.ToUpper(reply)
		case 2: // characters that fold to s and k
			reply = strings.NewReplacer("s", "ſ", "k", "\u212a").Replace(reply)
		case 3:
			i := rapid.IntRange(0, len(reply)-1).Draw(t, "at")
			reply = reply[:i] + rapid.StringN(0, 3, -1).Draw(t, "text") + reply[i+1:]
		case 4:
			reply = "prefix " + reply + "\xff"
		}
		if got, want := ids(s.Match(m.Provider, reply)), ids(s.MatchSlowly(m.Provider, reply)); !slices.Equal(got, want) {
			t.Fatalf("%q: %v, without looking first %v", reply, got, want)
		}
	})
}

// TestLiterals: the shapes of expressions that texts are taken from.
func TestLiterals(t *testing.T) {
	for pattern, want := range map[string]string{
		`Server Busy`:                  "server busy",
		`\[(TSS?|IPTS)04\]`:            "",
		`^421 .*too many connections$`: "too many connections",
		`(abc|defg)+ x`:                "abc|defg",
		`(abc|d*) long text`:           " long text",
		`a?b?`:                         "",
		`(ab){2,3}`:                    "ab",
		`(ab){0,3}cd`:                  "cd",
		`refus[eé] encore`:             " encore",
		`é[xy]`:                        "",
		`(?-i:ABC)`:                    "abc",
	} {
		got := rules.Literals(pattern)
		if want != "" && got != want || want == "" && pattern[0] != '\\' && got != "" {
			t.Errorf("%s: %q, want %q", pattern, got, want)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	s := shipped(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				s.Match("google", "421 4.7.28 an unusual rate of mail originating from")
				s.Resolve(rules.Query{Source: "s", Pool: "p", Provider: "google", Site: "mx", Domain: "d", Tenant: "t"})
			}
		})
	}
	wg.Wait()
}

func BenchmarkMatchNothing(b *testing.B) {
	s := shipped(b)
	const reply = "550 5.1.1 The email account that you tried to reach does not exist. Please try double-checking the recipient's email address for typos or unnecessary spaces. For more information, go to https://support.google.com/mail/?p=NoSuchUser - gsmtp"
	for _, p := range []string{"google", "outlook", ""} {
		b.Run("of "+p, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if s.Match(p, reply) != nil {
					b.Fatal("claimed")
				}
			}
		})
	}
}

func BenchmarkResolve(b *testing.B) {
	s := shipped(b)
	q := rules.Query{Source: "s1", Pool: "main", Provider: "google", Site: "aspmx.l.google.com,alt1.aspmx.l.google.com", Domain: "example.com", Tenant: "t"}
	b.ReportAllocs()
	for b.Loop() {
		if e := s.Resolve(q); e.Connections != 5 {
			b.Fatal(e)
		}
	}
}
