package dkim

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	rfcHeader = "From: Joe SixPack <joe@football.example.com>\r\n" +
		"To: Suzie Q <suzie@shopping.example.net>\r\n" +
		"Subject: Is dinner ready?\r\n" +
		"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n" +
		"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n" +
		"\r\n"
	rfcBody = "Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
)

// TestRFC8463 makes the two signatures of RFC 8463 appendix A.3, byte for byte.
func TestRFC8463(t *testing.T) {
	s := mustNew(t, rfcOptions(t, ""))
	for i, c := range []struct{ field, signature string }{
		{
			"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n" +
				" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : message-id : from : subject : date;\r\n" +
				" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=",
			"/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==",
		},
		{
			"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n" +
				" q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n date : message-id : from : subject : date;\r\n" +
				" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=",
			"F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2JzdA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=",
		},
	} {
		w := &scratch{hash: sha256.New()}
		w.hashBody(&w.digest[relaxed], relaxed, [][]byte{[]byte(rfcBody)})
		if got := base64.StdEncoding.EncodeToString(w.digest[relaxed][:]); got != "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=" {
			t.Fatalf("body hash %s", got)
		}
		for _, f := range splitFields(nil, []byte(rfcHeader)) {
			w.data = appendField(w.data, f, relaxed)
		}
		w.data = appendUnsigned(w.data, []byte(c.field), relaxed)
		hashed := sha256.Sum256(w.data)
		signature, err := s.private(s.keys[i], hashed[:])
		if err != nil {
			t.Fatal(err)
		}
		if got := base64.StdEncoding.EncodeToString(signature); got != c.signature {
			t.Errorf("%s: got b=%s, want %s", s.keys[i].algorithm, got, c.signature)
		}
	}
}

var messages = []struct{ name, header, body string }{
	{"RFC 8463", rfcHeader, rfcBody},
	{"empty body", rfcHeader, ""},
	{"body of empty lines", rfcHeader, "\r\n\r\n\r\n"},
	{"trailing empty lines", rfcHeader, "text\r\n\r\n \r\n\t\r\n\r\n"},
	{"no final line end", rfcHeader, "text\r\nmore  text "},
	{"dots", rfcHeader, ".\r\n..\r\n...x\r\n.\r\n"},
	{"no empty line after the header", strings.TrimSuffix(rfcHeader, "\r\n"), ""},
	{"folded", "from:\r\n joe@football.example.com\r\nSUBJECT : a\r\n\t b  c\t\r\n  d \r\n\r\n", "x\r\n"},
	{"empty values", "From: joe@football.example.com\r\nSubject:\r\nTo: \r\n\r\n", "x\r\n"},
	{"duplicated", "To: one@example.org\r\nFrom: a@football.example.com\r\nTo: two@example.org\r\nReceived: x\r\nTo: three@example.org\r\n\r\n", "x\r\n"},
	{"unsubscribe", "From: a@football.example.com\r\nList-Unsubscribe: <https://example.com/u>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\n", "x\r\n"},
	{"SMTPUTF8", "From: J\u00fcrgen <j\u00fcrgen@football.example.com>\r\nSubject: \u00e4\u00f6\u00fc\r\n\r\n", "\u00e4 \u00f6\r\n"},
	{"long line", rfcHeader, strings.Repeat("x ", 499) + "\r\n"},
	{"no header", "\r\n", "body\r\n"},
}

var canonicalizations = []string{"relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"}

func TestSignaturesVerify(t *testing.T) {
	for _, c := range canonicalizations {
		for _, backend := range []string{"auto", "off"} {
			o := rfcOptions(t, c)
			o.Libcrypto = backend
			s := mustNew(t, o)
			for _, m := range messages {
				t.Run(c+"/"+backend+"/"+m.name, func(t *testing.T) {
					checkMessage(t, s, m.header, m.body)
				})
			}
		}
	}
}

// checkMessage signs, verifies, and sees every kind of change rejected.
func checkMessage(t *testing.T, s *Signer, header, body string) {
	t.Helper()
	fields := mustSign(t, s, "football.example.com", header, body)
	if again := mustSign(t, s, "football.example.com", header, body); again != fields {
		t.Fatal("a second signature differs")
	}
	if !strings.HasSuffix(header, "\r\n\r\n") && header != "\r\n" {
		header += "\r\n"
	}
	if n, err := verify(t, s, fields+header+body); err != nil || n != 2 {
		t.Fatalf("%d signatures, %v\n%s", n, err, fields)
	}
	for line := range strings.SplitSeq(fields, "\r\n") {
		if len(line) > 78 {
			t.Errorf("line of %d characters: %s", len(line), line)
		}
	}
	for name, changed := range map[string]string{
		"body":          fields + header + "x" + body,
		"added Subject": fields + "Subject: win\r\n" + header + body,
		"added From":    fields + "From: eve@example.org\r\n" + header + body,
		"time":          strings.Replace(fields, "t=1528637909", "t=1528637910", 2) + header + body,
	} {
		if _, err := verify(t, s, changed); err == nil {
			t.Errorf("changed %s still verifies", name)
		}
	}
}

func FuzzSign(f *testing.F) {
	for _, m := range messages {
		f.Add(m.header, m.body, uint8(0))
		f.Add(m.header, m.body, uint8(3))
	}
	var signers []*Signer
	for _, c := range canonicalizations {
		signers = append(signers, mustNew(f, rfcOptions(f, c)))
	}
	f.Fuzz(func(t *testing.T, header, body string, which uint8) {
		s := signers[int(which)%len(signers)]
		normal := func(s string) string {
			return strings.ReplaceAll(strings.ReplaceAll(s, "\r", ""), "\n", "\r\n")
		}
		header, body = normal(header), normal(body)
		fields := mustSign(t, s, "football.example.com", header, body)
		if !wellFormed(header) {
			return // signing must not fail; verifiers disagree about what these are
		}
		if n, err := verify(t, s, fields+header+body); err != nil || n != 2 {
			t.Fatalf("%d signatures, %v\n%q", n, err, fields+header+body)
		}
	})
}

// wellFormed reports whether every line of a header block is a field or a
// continuation of one, and the block ends in its only empty line.
func wellFormed(header string) bool {
	text, found := strings.CutSuffix(header, "\r\n\r\n")
	if !found || strings.Contains(text, "\r\n\r\n") {
		return false
	}
	for i, line := range strings.Split(text, "\r\n") {
		if i > 0 && strings.HasPrefix(line, " ") && strings.TrimLeft(line, " \t") != "" {
			continue
		}
		name, _, found := strings.Cut(line, ":")
		if !found || !validName(name) || strings.EqualFold(name, "DKIM-Signature") {
			return false
		}
	}
	return true
}

func TestOversign(t *testing.T) {
	s := mustNew(t, rfcOptions(t, ""))
	fields := mustSign(t, s, "football.example.com", messages[10].header, "x\r\n")
	list := strings.Join(strings.Fields(between(fields, " h=", ";")), "")
	for _, want := range []string{"From:From:", ":Subject:", ":List-Unsubscribe:List-Unsubscribe-Post"} {
		if !strings.Contains(list, want) {
			t.Errorf("h=%s lacks %s", list, want)
		}
	}
	if strings.Contains(list, "List-Id") {
		t.Errorf("h=%s names a field that is neither present nor oversigned", list)
	}
	o := rfcOptions(t, "")
	o.Oversign = append(o.Oversign, "List-Unsubscribe", "List-Unsubscribe-Post")
	s = mustNew(t, o)
	fields = mustSign(t, s, "football.example.com", messages[10].header, "x\r\n")
	changed := fields + "List-Unsubscribe: <https://evil.example/>\r\n" + messages[10].header + "x\r\n"
	if _, err := verify(t, s, changed); err == nil {
		t.Error("an added List-Unsubscribe still verifies")
	}
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

func TestDomains(t *testing.T) {
	file := keyFile(t, rfcEd25519PEM(t))
	o := DefaultOptions()
	o.Keys = []Key{
		{Domain: "Example.COM", Selector: "a", File: file, Subdomains: true, Identity: "@news.example.com"},
		{Domain: "own.example.com", Selector: "b", File: file},
		{Domain: "b\u00fccher.example", Selector: "c", File: file},
	}
	s := mustNew(t, o)
	for domain, want := range map[string]string{
		"example.com":               "s=a;",
		"EXAMPLE.com":               "s=a;",
		"example.com.":              "s=a;",
		"sub.example.com":           "s=a;",
		"deep.sub.example.com":      "s=a;",
		"own.example.com":           "s=b;",
		"sub.own.example.com":       "s=a;",
		"xn--bcher-kva.example":     "s=c;",
		"B\u00dcCHER.example":       "s=c;",
		"sub.xn--bcher-kva.example": "",
		"notexample.com":            "",
		"com":                       "",
		"":                          "",
		"[192.0.2.1]":               "",
	} {
		got := mustSign(t, s, domain, rfcHeader, rfcBody)
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: want %q in %q", domain, want, got)
		}
	}
	signed := mustSign(t, s, "sub.example.com", rfcHeader, rfcBody)
	if !strings.Contains(signed, "d=example.com;") || !strings.Contains(signed, "i=@news.example.com;") {
		t.Errorf("tags of a subdomain's signature: %s", signed)
	}
	if n, err := verify(t, s, signed+rfcHeader+rfcBody); n != 1 || err != nil {
		t.Errorf("%d signatures, %v", n, err)
	}
}

// libcrypto and crypto/rsa must make the same bytes, or a restart on another
// machine would compose another message.
func TestBackendsAgree(t *testing.T) {
	version, err := loadLibcrypto()
	if err != nil {
		t.Skip(err)
	}
	if again, err := loadLibcrypto(); err != nil || again != version {
		t.Errorf("second load: %q, %v", again, err)
	}
	generated, err := Generate(RSA2048, "example.com", "s")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range [][]byte{[]byte(rfcRSAKey), generated.Private} {
		private, err := parsePEM(text)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := newLibcryptoKey(private.(*rsa.PrivateKey))
		if err != nil {
			t.Fatal(err)
		}
		if !private.(*rsa.PrivateKey).PublicKey.Equal(signer.Public()) {
			t.Error("public key differs")
		}
		for i := range 20 {
			hashed := sha256.Sum256([]byte{byte(i)})
			theirs, err := signer.Sign(nil, hashed[:], crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			ours, err := private.Sign(nil, hashed[:], crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(ours, theirs) {
				t.Fatalf("signature %d differs", i)
			}
		}
	}
	if got := mustNew(t, DefaultOptions()).Backend(); !strings.HasPrefix(got, "libcrypto (OpenSSL 3") {
		t.Errorf("backend %q", got)
	}
	o := DefaultOptions()
	o.Libcrypto = "off"
	if got := mustNew(t, o).Backend(); got != "crypto/rsa" {
		t.Errorf("backend %q", got)
	}
}

func TestDigestIsUsedAndFilled(t *testing.T) {
	o := rfcOptions(t, "")
	o.Keys[1].Canonicalization = "relaxed/simple"
	s := mustNew(t, o)
	var digest Digest
	first, err := s.SignDigest("football.example.com", acceptTime, []byte(rfcHeader), &digest, []byte(rfcBody))
	if err != nil {
		t.Fatal(err)
	}
	if digest[relaxed] == ([32]byte{}) || digest[simple] == ([32]byte{}) {
		t.Fatal("digest was not filled")
	}
	// No body is given any more: the digest must stand for it.
	second, err := s.SignDigest("football.example.com", acceptTime, []byte(rfcHeader), &digest)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("by digest: %v\n%s\n%s", err, first, second)
	}
	if plain := mustSign(t, s, "football.example.com", rfcHeader, rfcBody); plain != string(first) {
		t.Error("Sign differs from SignDigest")
	}
}

func TestConcurrentAndLive(t *testing.T) {
	var live Live
	if fields, err := live.Sign("football.example.com", acceptTime, []byte(rfcHeader)); fields != nil || err != nil {
		t.Fatal("an empty Live signed")
	}
	r := prometheus.NewRegistry()
	for range 2 { // the second is a reload
		s, err := New(rfcOptions(t, ""), Deps{Registerer: r})
		if err != nil {
			t.Fatal(err)
		}
		live.Store(s)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				body := []byte(fmt.Sprintf("body %d %d\r\n", i, j))
				fields, err := live.Sign("football.example.com", acceptTime, []byte(rfcHeader), body)
				if err != nil {
					t.Error(err)
					return
				}
				if n, err := verify(t, live.Load(), string(fields)+rfcHeader+string(body)); n != 2 || err != nil {
					t.Errorf("%d signatures, %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "godwit_dkim_signatures_total" && f.GetMetric()[0].GetCounter().GetValue() != 80 {
			t.Errorf("counted %v", f)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	generated, err := Generate(RSA2048, "football.example.com", "s")
	if err != nil {
		b.Fatal(err)
	}
	header := []byte(rfcHeader)
	body := benchBodies()["words"]
	for _, c := range []struct {
		name, backend string
		key           []byte
	}{{"rsa2048-auto", "auto", generated.Private}, {"rsa2048-go", "off", generated.Private}, {"ed25519", "auto", rfcEd25519PEM(b)}} {
		b.Run(c.name, func(b *testing.B) {
			o := DefaultOptions()
			o.Libcrypto = c.backend
			o.Keys = []Key{{Domain: "football.example.com", Selector: "s", File: keyFile(b, c.key)}}
			s := mustNew(b, o)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Sign("football.example.com", acceptTime, header, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
