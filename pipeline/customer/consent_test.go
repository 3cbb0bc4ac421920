package customer

import (
	"fmt"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// say makes a change of what a script says: sub, unsub (with @time and /list), reasons of suppressions, -reason to lift,
// +list, and "email=" for another address. Each word is a change of its own, a second after the one before.
func say(t *testing.T, d *document, script string) {
	t.Helper()
	p := &processor{o: DefaultOptions(), m: mustMetrics(t)}
	now := int64(1000)
	for word := range strings.FieldsSeq(script) {
		c := &fact.Change{}
		word, when, timed := strings.Cut(word, "@")
		word, list, _ := strings.Cut(word, "/")
		consent := fact.Consent{Channel: Email, List: list, Method: "api"}
		if timed {
			var ms int64
			if _, err := fmt.Sscan(when, &ms); err != nil {
				t.Fatal(err)
			}
			consent.At = at(ms)
		}
		switch {
		case word == "sub" || word == "unsub":
			consent.Subscribed = word == "sub"
			c.Consent = []fact.Consent{consent}
		case word[0] == '+':
			c.Lists = []fact.Membership{{List: word[1:], Join: true}}
		case strings.HasPrefix(word, "email="):
			c.Attributes = fmt.Appendf(nil, `{"email":%q}`, word[6:])
		default:
			reason, lift := strings.CutPrefix(word, "-")
			c.Suppressions = []fact.Suppression{{Reason: reason, Lift: lift}}
		}
		p.change(d, &fact.Fact{At: at(now), Change: c})
		now += 1000
	}
}

func mustMetrics(t *testing.T) *metrics {
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// told is consent, suppressions and lists in a line.
func told(d *document) string {
	var out []string
	for _, c := range d.consents {
		state := "unsub"
		if c.subscribed {
			state = "sub"
		}
		if c.list != "" {
			state += "/" + c.list
		}
		out = append(out, fmt.Sprintf("%s@%d", state, c.at))
	}
	for _, s := range d.suppressions {
		out = append(out, fmt.Sprintf("%s@%d", s.reason, s.at))
	}
	for _, m := range d.lists {
		out = append(out, "+"+m.list)
	}
	return strings.Join(out, " ")
}

func TestConsent(t *testing.T) {
	for _, c := range []struct{ script, want string }{
		{"sub", "sub@1000"},
		{"unsub", "unsub@1000 UNSUBSCRIBE@1000"},
		{"unsub sub", "sub@2000"},
		{"SPAM_COMPLAINT USER_SUPPRESSED UNSUBSCRIBE sub", "sub@4000"},
		{"HARD_BOUNCE INVALID_EMAIL sub", "sub@3000 HARD_BOUNCE@1000 INVALID_EMAIL@2000"},
		{"sub SPAM_COMPLAINT", "unsub@2000 SPAM_COMPLAINT@2000 UNSUBSCRIBE@2000"},
		{"sub USER_SUPPRESSED -USER_SUPPRESSED", "sub@1000"},
		{"HARD_BOUNCE -USER_SUPPRESSED", "HARD_BOUNCE@1000"},
		{"HARD_BOUNCE -HARD_BOUNCE", ""},
		// What was said later counts, not what came later.
		{"unsub sub@500", "unsub@1000 UNSUBSCRIBE@1000"},
		{"sub@500 unsub@400", "sub@500"},
		{"sub@500 unsub@600", "unsub@600 UNSUBSCRIBE@600"},
		{"sub@500 unsub@500", "unsub@500 UNSUBSCRIBE@500"},
		{"unsub@500 sub@500", "unsub@500 UNSUBSCRIBE@500"},
		{"sub@99999 unsub", "unsub@2000 UNSUBSCRIBE@2000"}, // nobody subscribes in the future
		{"USER_SUPPRESSED sub@900", "sub@900 USER_SUPPRESSED@1000"},
		// Lists.
		{"sub/a", "sub@1000 sub/a@1000 +a"},
		{"sub/a unsub/a", "sub@1000 unsub/a@2000 +a"},
		{"sub/a unsub/a unsub/a", "sub@1000 unsub/a@3000 +a"},
		{"sub/a unsub/b", "unsub@2000 sub/a@1000 UNSUBSCRIBE@2000 +a"}, // not on it: all
		{"+a unsub/a", "unsub/a@2000 +a"},
		{"sub/a unsub/a sub/a", "sub@3000 sub/a@3000 +a"},
		{"unsub sub/a", "sub@2000 sub/a@2000 +a"},
		// Another address.
		{"email=a HARD_BOUNCE USER_SUPPRESSED email=b", "USER_SUPPRESSED@3000"},
		{"email=a HARD_BOUNCE email=a", "HARD_BOUNCE@2000"},
	} {
		var d document
		say(t, &d, c.script)
		if got := told(&d); got != c.want {
			t.Errorf("%s: %s, not %s", c.script, got, c.want)
		}
	}
}

func TestMergeOfConsent(t *testing.T) {
	for _, c := range []struct{ destination, source, want string }{
		{"sub@500", "unsub@600", "unsub@600 UNSUBSCRIBE@600"},
		{"unsub@600", "sub@500", "unsub@600 UNSUBSCRIBE@600"},
		{"unsub@500", "sub@600", "sub@600"},
		{"sub@500", "unsub@500", "unsub@500 UNSUBSCRIBE@500"},
		{"unsub@500", "sub@500", "unsub@500 UNSUBSCRIBE@500"},
		{"sub@500", "USER_SUPPRESSED", "sub@500 USER_SUPPRESSED@1000"},
		{"USER_SUPPRESSED +x sub", "USER_SUPPRESSED", "sub@3000 +x"},
		{"email=a", "email=b HARD_BOUNCE USER_SUPPRESSED", "USER_SUPPRESSED@3000"},
		{"+x", "email=b HARD_BOUNCE", "HARD_BOUNCE@2000 +x"},
		{"email=b", "email=b HARD_BOUNCE", "HARD_BOUNCE@2000"},
		{"email=b HARD_BOUNCE", "sub@900", "sub@900 HARD_BOUNCE@2000"},
		{"sub/a", "+b unsub/b", "sub@1000 sub/a@1000 unsub/b@2000 +a +b"},
	} {
		var d, s document
		say(t, &d, c.destination)
		say(t, &s, c.source)
		if err := d.merge(&s); err != nil {
			t.Fatal(err)
		}
		if got := told(&d); got != c.want {
			t.Errorf("%s, %s: %s, not %s", c.destination, c.source, got, c.want)
		}
	}
}

func TestCanReceive(t *testing.T) {
	for script, want := range map[string]bool{"": true, "sub": true, "unsub": false, "HARD_BOUNCE sub": false, "unsub sub": true, "+a unsub/a": true} {
		var d document
		say(t, &d, script)
		if got := d.show(fact.ProfileID{}, head{last: never}).CanReceive(Email); got != want {
			t.Errorf("%q: %t", script, got)
		}
	}
}
