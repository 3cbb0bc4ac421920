package identity

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/nyaruka/phonenumbers"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// long is n times the letter a.
func long(n int) string { return strings.Repeat("a", n) }

func TestNormalForms(t *testing.T) {
	for _, c := range []struct {
		name     string
		f        func(string) (string, error)
		in, want string // want "" is an error
	}{
		{"plain", Email, "jo@example.org", "jo@example.org"},
		{"case and white space", Email, "\t Jo.Doe+Tag@Example.ORG \n", "jo.doe+tag@example.org"},
		{"IDN", Email, "jo@BÜCHER.example", "jo@xn--bcher-kva.example"},
		{"IDN decomposed", Email, "jo@bu\u0308cher.example", "jo@xn--bcher-kva.example"},
		{"IDN, A-label in upper case", Email, "jo@XN--BCHER-KVA.example", "jo@xn--bcher-kva.example"},
		{"ideographic full stop", Email, "jo@bücher。example", "jo@xn--bcher-kva.example"},
		{"sharp s is kept", Email, "jo@faß.example", "jo@xn--fa-hia.example"},
		{"local part not ASCII", Email, "JÖ@example.org", "jö@example.org"},
		{"local part composed", Email, "Jo\u0308@example.org", "jö@example.org"},
		{"Google's hyphens", Email, "a@r3---sn-x.example.org", "a@r3---sn-x.example.org"},
		{"longest local part", Email, long(64) + "@example.org", long(64) + "@example.org"},
		{"local part too long", Email, long(65) + "@example.org", ""},
		{"too long", Email, "a@" + strings.Repeat(long(60)+".", 4) + long(10), ""},
		{"label too long", Email, "a@" + long(64) + ".org", ""},
		{"no at", Email, "example.org", ""},
		{"nothing", Email, "", ""},
		{"no local part", Email, "@example.org", ""},
		{"no domain", Email, "jo@", ""},
		{"no dot", Email, "jo@localhost", ""},
		{"two ats", Email, "a@b@example.org", ""},
		{"quoted", Email, `"jo doe"@example.org`, ""},
		{"space inside", Email, "jo doe@example.org", ""},
		{"no-break space", Email, "jo\u00a0doe@example.org", ""},
		{"two dots", Email, "jo..doe@example.org", ""},
		{"dot first", Email, ".jo@example.org", ""},
		{"dot last", Email, "jo.@example.org", ""},
		{"domain ends in dot", Email, "jo@example.org.", ""},
		{"underscore", Email, "jo@ex_ample.org", ""},
		{"hyphen", Email, "jo@-example.org", ""},
		{"address literal", Email, "jo@[192.0.2.1]", ""},
		{"IPv4", Email, "jo@192.0.2.1", ""},
		{"bad A-label", Email, "jo@xn--99999999999.example", ""},
		{"angle brackets", Email, "<jo@example.org>", ""},
		{"line end", Email, "jo@example.org\r\nx@example.org", ""},
		{"not UTF-8", Email, "j\xff@example.org", ""},
		{"domain not UTF-8", Email, "j@ex\xff.org", ""},

		{"final form", Phone, "+12125550123", "+12125550123"},
		{"written", Phone, " +1 (212) 555-0123 ", "+12125550123"},
		{"letters", Phone, "+1 800 FLOWERS", "+18003569377"},
		{"trunk zero", Phone, "+44 (0)20 7946 0000", "+442079460000"},
		{"Italian zero stays", Phone, "+39 06 698 12345", "+390669812345"},
		{"full-width digits", Phone, "＋４９ ３０ １２３４５６", "+4930123456"},
		{"no country code", Phone, "(212) 555-0123", ""},
		{"too short", Phone, "+121255", ""},
		{"too long for its country", Phone, "+121255501234", ""},
		{"no such country code", Phone, "+999123456789", ""},
		{"extension", Phone, "+1 212 555 0123 ext. 5", ""},
		{"no number", Phone, "", ""},
		{"a name", Phone, "Jo", ""},
		{"very long", Phone, "+1" + strings.Repeat(" ", 70) + "2125550123", ""},

		{"id", External, " Cust-0042 ", "Cust-0042"},
		{"any script", External, "客户 7", "客户 7"},
		{"longest id", External, long(255), long(255)},
		{"id too long", External, long(256), ""},
		{"id empty", External, "  ", ""},
		{"id not UTF-8", External, "\xff", ""},
		{"id with a NUL", External, "a\x00b", ""},
		{"anonymous", Anonymous, "9f1c\n", "9f1c"},
		{"anonymous empty", Anonymous, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.f(c.in)
			if got != c.want || (err != nil) != (c.want == "") {
				t.Fatalf("%q: got %q, %v; want %q", c.in, got, err, c.want)
			}
		})
	}
}

func TestShortWayForNumbersIsRight(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		s := fmt.Sprintf("+1%d%09d", 2+r.IntN(8), r.IntN(1e9))
		n, err := phonenumbers.Parse(s, "")
		if err != nil || !phonenumbers.IsPossibleNumber(n) || phonenumbers.Format(n, phonenumbers.E164) != s {
			t.Errorf("the library does not take %s as it is: %v", s, err)
		}
	}
}

func TestSort(t *testing.T) {
	ids := []fact.Identifier{{Kind: fact.ByAnonymous, Value: "a"}, {Kind: fact.ByEmail, Value: "z@example.org"}, {Kind: fact.ByEmail, Value: "b@example.org"}, {Kind: fact.ByExternal, Value: "x"}}
	Sort(ids)
	if got := fmt.Sprint(ids); got != "[{external_id x} {email b@example.org} {email z@example.org} {anonymous_id a}]" {
		t.Error(got)
	}
}

// FuzzNormal holds each form to being a fixed point: else one identifier would have two owners.
func FuzzNormal(f *testing.F) {
	for _, s := range []string{"Jo@Bücher.example", "+44 (0)20 7946 0000", "x\u0130\u0345@ß.de", "+390669812345", "a@xn--bcher-kva.de", "+52 1 55 1234 5678", "+54 9 11 1234-5678"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for name, normal := range map[string]func(string) (string, error){"email": Email, "phone": Phone, "external": External, "anonymous": Anonymous} {
			once, err := normal(s)
			if err != nil {
				continue
			}
			if twice, err := normal(once); err != nil || twice != once {
				t.Errorf("%s: %q becomes %q and then %q, %v", name, s, once, twice, err)
			}
		}
	})
}

func BenchmarkPhone(b *testing.B) {
	for _, s := range []string{"+12125550123", "+442079460000"} {
		b.Run(s, func(b *testing.B) {
			for b.Loop() {
				if _, err := Phone(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEmail(b *testing.B) {
	for b.Loop() {
		if _, err := Email("some.person@example.org"); err != nil {
			b.Fatal(err)
		}
	}
}
