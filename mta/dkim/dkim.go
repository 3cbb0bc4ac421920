// Package dkim signs messages (RFC 6376, RFC 8463). It only signs; verifying
// is left to go-msgauth, which the tests use as the reference.
//
// The steps of one signature, in order:
//
//  1. the keys for the domain are looked up (several keys, several signatures);
//  2. the body is canonicalised in chunks straight into SHA-256, once for all
//     signatures that use the same body canonicalization (canon.go);
//  3. the header block is split into fields without copying (header.go);
//  4. for each key the h= list is written from the fields that are there, plus
//     one more of each oversigned name, so that a field added later breaks the
//     signature;
//  5. the chosen fields, bottom up, and the new DKIM-Signature field itself are
//     hashed and signed.
//
// The same input gives the same bytes: t= is an argument (the accept time of
// the message), and RSA PKCS #1 v1.5 and Ed25519 are deterministic. A retry
// therefore composes the message it composed before.
//
// There is no l= tag (it would let anyone append to a signed body).
//
// RSA is by far the largest cost, so it goes through libcrypto where that can be
// loaded at run time, else through crypto/rsa; Backend tells which.
package dkim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"github.com/godwit-mta/godwit/internal/units"
)

// Options is the configuration of a Signer.
type Options struct {
	Keys                  []Key    `toml:"keys" doc:"signing keys; each key of a domain makes one signature"`
	Headers               []string `toml:"headers" doc:"header fields that are signed when present; From is required"`
	Oversign              []string `toml:"oversign" doc:"header fields that are signed once more than they occur, so that a field added later breaks the signature"`
	Libcrypto             string   `toml:"libcrypto" doc:"auto signs RSA by the system's libcrypto.so.3 where it can be loaded, off always uses Go's crypto/rsa (3-4 times slower)"`
	Concurrency           int      `toml:"concurrency" doc:"RSA signatures computed at once; 0 is one per CPU"`
	AllowLoosePermissions bool     `toml:"allow_loose_permissions" doc:"accept key files that group or others can read"`
	CheckDNS              bool     `toml:"check_dns" doc:"compare each key with its published DNS record at start and reload, and warn where they differ"`
	// CheckTimeout bounds the DNS check as a whole.
	CheckTimeout units.Duration `toml:"check_timeout" doc:"time given to the DNS check of all keys"`
}

// Key is one signing key.
type Key struct {
	Domain           string   `toml:"domain" doc:"signing domain, the d= tag; mail whose From has this domain is signed"`
	Selector         string   `toml:"selector" doc:"selector, the s= tag; the public key is published at SELECTOR._domainkey.DOMAIN"`
	File             string   `toml:"file" doc:"PEM file with the private key (PKCS #8 or PKCS #1), mode 600"`
	Algorithm        string   `toml:"algorithm" doc:"auto takes it from the key; rsa-sha256 or ed25519-sha256 insist on it"`
	Headers          []string `toml:"headers" doc:"signed header fields of this key; empty means the common list"`
	Canonicalization string   `toml:"canonicalization" doc:"header/body canonicalization: relaxed/relaxed, relaxed/simple, simple/relaxed or simple/simple"`
	Identity         string   `toml:"identity" doc:"the i= tag such as @news.example.com; empty leaves it out"`
	Subdomains       bool     `toml:"subdomains" doc:"also sign mail from subdomains of the domain that have no key of their own"`
}

// The values of Key.Algorithm and of the a= tag.
const (
	algorithmAuto    = "auto"
	algorithmRSA     = "rsa-sha256"
	algorithmEd25519 = "ed25519-sha256"
)

// DefaultOptions returns the defaults: no keys; the fields of RFC 6376 §5.4.1
// plus Feedback-ID are signed, those a reader sees are oversigned.
func DefaultOptions() Options {
	return Options{
		Headers: []string{
			"From", "Reply-To", "Subject", "Date", "To", "Cc", "Message-ID", "In-Reply-To", "References",
			"MIME-Version", "Content-Type", "Content-Transfer-Encoding",
			"List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe",
			"List-Post", "List-Owner", "List-Archive", "Feedback-ID",
		},
		Oversign: []string{
			"From", "Reply-To", "Subject", "Date", "To", "Cc", "Message-ID",
			"MIME-Version", "Content-Type", "Content-Transfer-Encoding",
		},
		Libcrypto:    "auto",
		CheckDNS:     true,
		CheckTimeout: units.Duration(5 * time.Second),
	}
}

// Validate checks everything that does not need the key files.
func (o Options) Validate() error {
	if err := validHeaders(o.Headers); err != nil {
		return fmt.Errorf("headers: %w", err)
	}
	for _, name := range o.Oversign {
		if !validName(name) {
			return fmt.Errorf("oversign: %q is not a header field name", name)
		}
	}
	if o.Libcrypto != "auto" && o.Libcrypto != "off" {
		return fmt.Errorf("libcrypto: %q is neither auto nor off", o.Libcrypto)
	}
	if o.Concurrency < 0 {
		return errors.New("concurrency: must not be negative")
	}
	if o.CheckTimeout < 0 {
		return errors.New("check_timeout: must not be negative")
	}
	seen := map[string]bool{}
	for i, k := range o.Keys {
		if err := k.validate(); err != nil {
			return fmt.Errorf("keys[%d].%w", i, err)
		}
		domain, _ := asciiDomain(k.Domain)
		id := strings.ToLower(k.Selector) + "._domainkey." + domain
		if seen[id] {
			return fmt.Errorf("keys[%d].selector: %s is there twice", i, id)
		}
		seen[id] = true
	}
	return nil
}

func (k Key) validate() error {
	domain, err := asciiDomain(k.Domain)
	if err != nil {
		return fmt.Errorf("domain: %w", err)
	}
	if !validDomain(strings.ToLower(k.Selector)) {
		return fmt.Errorf("selector: %q is not a selector (letters, digits, hyphens, dots)", k.Selector)
	}
	if k.File == "" {
		return errors.New("file: must name the private key")
	}
	if !slices.Contains([]string{"", algorithmAuto, algorithmRSA, algorithmEd25519}, k.Algorithm) {
		return fmt.Errorf("algorithm: %q is none of auto, rsa-sha256, ed25519-sha256", k.Algorithm)
	}
	if len(k.Headers) > 0 {
		if err := validHeaders(k.Headers); err != nil {
			return fmt.Errorf("headers: %w", err)
		}
	}
	if _, _, err := parseCanonicalization(k.Canonicalization); err != nil {
		return fmt.Errorf("canonicalization: %w", err)
	}
	if k.Identity != "" && !validIdentity(k.Identity, domain) {
		return fmt.Errorf("identity: %q does not end in @%s or a subdomain of it", k.Identity, domain)
	}
	return nil
}

// canonicalization is how a header or body is prepared for hashing (RFC 6376 §3.4).
type canonicalization uint8

// The values index a Digest.
const (
	relaxed canonicalization = iota
	simple
)

func (c canonicalization) String() string {
	if c == simple {
		return "simple"
	}
	return "relaxed"
}

// parseCanonicalization reads the c= tag. Empty is relaxed/relaxed; a missing
// body part is simple, as RFC 6376 §3.5 says.
func parseCanonicalization(s string) (header, body canonicalization, err error) {
	if s == "" {
		return relaxed, relaxed, nil
	}
	h, b, found := strings.Cut(s, "/")
	if !found {
		b = "simple"
	}
	for _, x := range []struct {
		name string
		to   *canonicalization
	}{{h, &header}, {b, &body}} {
		switch x.name {
		case "relaxed":
			*x.to = relaxed
		case "simple":
			*x.to = simple
		default:
			return 0, 0, fmt.Errorf("%q is not of the form relaxed/relaxed", s)
		}
	}
	return header, body, nil
}

// maxName bounds the length of a signed field's name.
const maxName = 64

func validHeaders(names []string) error {
	from := false
	for _, name := range names {
		if !validName(name) {
			return fmt.Errorf("%q is not a header field name", name)
		}
		if strings.EqualFold(name, "DKIM-Signature") {
			return errors.New("DKIM-Signature cannot sign itself")
		}
		from = from || strings.EqualFold(name, "From")
	}
	if !from {
		return errors.New("must contain From (RFC 6376 §5.4)")
	}
	return nil
}

// validName reports whether name is an RFC 5322 field name that an h= list can
// hold; a semicolon is legal in the first and not in the second.
func validName(name string) bool {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || c == ':' || c == ';' {
			return false
		}
	}
	return name != "" && len(name) <= maxName
}

func validIdentity(identity, domain string) bool {
	local, host, found := strings.Cut(identity, "@")
	if !found || strings.ContainsAny(local, " \t\r\n;@<>") {
		return false
	}
	host = strings.ToLower(host)
	return validDomain(host) && (host == domain || strings.HasSuffix(host, "."+domain))
}

// asciiDomain returns the domain in lower case with A-labels, as d= needs it.
func asciiDomain(domain string) (string, error) {
	lower := strings.ToLower(strings.TrimSuffix(domain, "."))
	for i := range len(lower) {
		if lower[i] < 0x80 {
			continue
		}
		ascii, err := idna.Lookup.ToASCII(lower)
		if err != nil {
			return "", fmt.Errorf("%q is not a domain: %w", domain, err)
		}
		lower = ascii
		break
	}
	if !validDomain(lower) {
		return "", fmt.Errorf("%q is not a domain", domain)
	}
	return lower, nil
}

// validDomain checks the syntax of a lower case name: letters, digits, hyphens
// and underscores in labels of 1-63, 253 in all.
func validDomain(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
