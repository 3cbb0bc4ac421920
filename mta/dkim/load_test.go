package dkim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, text []byte, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	curveDER, err := x509.MarshalPKCS8PrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	for _, c := range []struct{ name, file, algorithm, want string }{
		{"pkcs1", write("a", []byte(rfcRSAKey), 0o600), "rsa-sha256", ""},
		{"pkcs8", write("b", rfcEd25519PEM(t), 0o400), "ed25519-sha256", ""},
		{"text before", write("c", append([]byte("# note\n"), rfcRSAKey...), 0o600), "auto", ""},
		{"group can read", write("d", []byte(rfcRSAKey), 0o640), "", "chmod 600"},
		{"others can read", write("e", []byte(rfcRSAKey), 0o604), "", "chmod 600"},
		{"missing", filepath.Join(dir, "none"), "", "no such file"},
		{"directory", dir, "", "not a regular file"},
		{"no key", write("f", []byte("hello"), 0o600), "", "godwit dkim generate"},
		{"encrypted", write("g", block("ENCRYPTED PRIVATE KEY", []byte("x")), 0o600), "", "encrypted"},
		{"wrong kind", write("h", block("PRIVATE KEY", curveDER), 0o600), "", "RSA or Ed25519"},
		{"garbage", write("i", block("PRIVATE KEY", []byte("x")), 0o600), "", "asn1"},
		{"other algorithm", write("j", []byte(rfcRSAKey), 0o600), "ed25519-sha256", "rsa-sha256"},
		{"too large", write("k", make([]byte, maxKeyFile+1), 0o600), "", "too large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := DefaultOptions()
			o.Keys = []Key{{Domain: "example.com", Selector: "s", File: c.file, Algorithm: c.algorithm}}
			_, err := New(o, Deps{})
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "keys[0].")):
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
	o := DefaultOptions()
	o.AllowLoosePermissions = true
	o.Keys = []Key{{Domain: "example.com", Selector: "s", File: filepath.Join(dir, "d")}}
	if _, err := New(o, Deps{}); err != nil {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	good := Key{Domain: "example.com", Selector: "s1.mail", File: "f"}
	for want, change := range map[string]func(*Options){
		"headers:":                 func(o *Options) { o.Headers = []string{"Subject"} },
		"oversign:":                func(o *Options) { o.Oversign = []string{"a b"} },
		"libcrypto:":               func(o *Options) { o.Libcrypto = "yes" },
		"concurrency:":             func(o *Options) { o.Concurrency = -1 },
		"check_timeout:":           func(o *Options) { o.CheckTimeout = -1 },
		"keys[0].domain:":          func(o *Options) { o.Keys[0].Domain = "exa mple.com" },
		"keys[0].selector:":        func(o *Options) { o.Keys[0].Selector = "a;b" },
		"keys[0].file:":            func(o *Options) { o.Keys[0].File = "" },
		"keys[0].algorithm:":       func(o *Options) { o.Keys[0].Algorithm = "rsa-sha1" },
		"keys[0].headers:":         func(o *Options) { o.Keys[0].Headers = []string{"From", "DKIM-Signature"} },
		"keys[0].canonicalization": func(o *Options) { o.Keys[0].Canonicalization = "relaxed/strict" },
		"keys[0].identity:":        func(o *Options) { o.Keys[0].Identity = "@example.org" },
		"keys[1].selector:":        func(o *Options) { o.Keys = append(o.Keys, Key{Domain: "EXAMPLE.com", Selector: "S1.mail", File: "g"}) },
	} {
		o := DefaultOptions()
		o.Keys = []Key{good}
		if err := o.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestGenerate(t *testing.T) {
	for algorithm, want := range map[string]string{RSA2048: "k=rsa", RSA4096: "k=rsa", Ed25519: "k=ed25519"} {
		g, err := Generate(algorithm, "B\u00fccher.example", "s1")
		if err != nil {
			t.Fatal(err)
		}
		if g.Name != "s1._domainkey.xn--bcher-kva.example" || !strings.HasPrefix(g.Value, "v=DKIM1; "+want+"; p=") {
			t.Errorf("%s: %s %s", algorithm, g.Name, g.Value)
		}
		var joined strings.Builder
		for i, s := range strings.Split(g.Zone, `"`) {
			if i%2 == 1 {
				joined.WriteString(s)
				if len(s) > 255 {
					t.Errorf("string of %d bytes", len(s))
				}
			}
		}
		if joined.String() != g.Value {
			t.Errorf("zone record holds %s, want %s", joined.String(), g.Value)
		}
		o := DefaultOptions()
		o.Keys = []Key{{Domain: "b\u00fccher.example", Selector: "s1", File: keyFile(t, g.Private)}}
		s := mustNew(t, o)
		if warnings := s.CheckPublished(context.Background(), records{g.Name: {g.Value}}); len(warnings) != 0 {
			t.Errorf("%s: %v", algorithm, warnings)
		}
		fields := mustSign(t, s, "xn--bcher-kva.example", rfcHeader, rfcBody)
		if n, err := verify(t, s, fields+rfcHeader+rfcBody); n != 1 || err != nil {
			t.Errorf("%s: %d signatures, %v", algorithm, n, err)
		}
	}
	for _, c := range [][3]string{{"rsa1024", "example.com", "s"}, {RSA2048, "exa mple", "s"}, {Ed25519, "example.com", "a b"}} {
		if _, err := Generate(c[0], c[1], c[2]); err == nil {
			t.Errorf("%v was accepted", c)
		}
	}
}

// records is a Resolver over a map; a nil entry is a failing lookup.
type records map[string][]string

func (r records) LookupTXT(_ context.Context, name string) ([]string, error) {
	list, known := r[name]
	switch {
	case !known:
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	case list == nil:
		return nil, errors.New("server misbehaving")
	}
	return list, nil
}

func TestCheckPublished(t *testing.T) {
	o := rfcOptions(t, "")
	o.Keys = o.Keys[1:]
	o.Keys[0].Identity = "@sub.football.example.com"
	s := mustNew(t, o)
	const name = "test._domainkey.football.example.com"
	value := publicRecord(t, s.keys[0].private)
	p := strings.TrimPrefix(value, "v=DKIM1; k=rsa; ")
	public := s.keys[0].private.Public().(*rsa.PublicKey)
	bare := "p=" + base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(public))
	for _, c := range []struct {
		name string
		dns  records
		kind string
	}{
		{"as generated", records{name: {value}}, ""},
		{"defaults", records{name: {p}}, ""},
		{"RSAPublicKey", records{name: {bare}}, ""},
		{"with spaces", records{name: {strings.Replace(value, "MIGf", "MI Gf ", 1)}}, ""},
		{"allowed", records{name: {value + "; h=sha1:sha256; s=email; t="}}, ""},
		{"another TXT beside", records{name: {value, "v=spf1 -all"}}, ""},
		{"nothing", records{}, WarnMissing},
		{"only other TXT", records{name: {"v=spf1 -all"}}, WarnMissing},
		{"no answer", records{name: nil}, WarnUnchecked},
		{"two", records{name: {value, value}}, WarnMismatch},
		{"revoked", records{name: {"v=DKIM1; p="}}, WarnMismatch},
		{"another key", records{name: {strings.Replace(value, "MIGf", "MIGe", 1)}}, WarnMismatch},
		{"another algorithm", records{name: {strings.Replace(value, "k=rsa", "k=ed25519", 1)}}, WarnMismatch},
		{"version", records{name: {strings.Replace(value, "DKIM1", "DKIM2", 1)}}, WarnMismatch},
		{"hash", records{name: {value + "; h=sha1"}}, WarnMismatch},
		{"service", records{name: {value + "; s=tlsrpt"}}, WarnMismatch},
		{"strict identity", records{name: {value + "; t=s"}}, WarnMismatch},
		{"malformed", records{name: {value + "; x"}}, WarnMismatch},
		{"twice", records{name: {value + "; k=rsa"}}, WarnMismatch},
		{"testing", records{name: {value + "; t=y"}}, WarnTesting},
	} {
		got := s.CheckPublished(context.Background(), c.dns)
		if c.kind == "" && len(got) != 0 || c.kind != "" && (len(got) != 1 || got[0].Kind != c.kind || got[0].Selector != "test") {
			t.Errorf("%s: got %v, want %q", c.name, got, c.kind)
		}
	}
}
