package dkim

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// Resolver looks up TXT records; the strings of one record come joined.
// *net.Resolver is one.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// The kinds of Warning.
const (
	WarnMissing   = "missing"   // DNS says there is no record
	WarnMismatch  = "mismatch"  // there is a record, for another key or use: signatures fail
	WarnTesting   = "testing"   // the record says t=y: receivers may ignore signatures
	WarnUnchecked = "unchecked" // DNS gave no answer
)

// Warning is a difference between a key and what DNS publishes for it.
type Warning struct {
	Kind     string
	Domain   string
	Selector string
	Text     string // what is wrong
	Hint     string // what to do
}

// String is the warning on one line.
func (w Warning) String() string {
	return fmt.Sprintf("%s: %s: %s (%s)", recordName(w.Selector, w.Domain), w.Kind, w.Text, w.Hint)
}

// CheckPublished compares each key with its published record. It returns one
// warning per key at most; none means that receivers can verify every signature.
func (s *Signer) CheckPublished(ctx context.Context, r Resolver) []Warning {
	var warnings []Warning
	for _, k := range s.keys {
		w := k.checkPublished(ctx, r)
		if w.Kind == "" {
			continue
		}
		w.Domain, w.Selector = k.domain, k.Selector
		warnings = append(warnings, w)
	}
	return warnings
}

func (k *key) checkPublished(ctx context.Context, r Resolver) Warning {
	value, err := recordValue(k.private.Public())
	if err != nil {
		return Warning{Kind: WarnUnchecked, Text: err.Error(), Hint: "check the key file"}
	}
	publish := "publish: " + value
	records, err := r.LookupTXT(ctx, recordName(k.Selector, k.domain))
	if err != nil && !isNotFound(err) {
		return Warning{Kind: WarnUnchecked, Text: "DNS gave no answer: " + err.Error(), Hint: "check again later"}
	}
	var candidates []string
	for _, record := range records {
		if strings.Contains(record, "p=") {
			candidates = append(candidates, record)
		}
	}
	switch len(candidates) {
	case 0:
		return Warning{Kind: WarnMissing, Text: "no DKIM record is published", Hint: publish}
	case 1:
	default:
		// RFC 6376 §3.6.2.2: results are undefined.
		return Warning{Kind: WarnMismatch, Text: "several records are published", Hint: "leave one: " + value}
	}
	tags, err := parseTags(candidates[0])
	if err != nil {
		return Warning{Kind: WarnMismatch, Text: err.Error(), Hint: publish}
	}
	if text := k.differs(tags); text != "" {
		return Warning{Kind: WarnMismatch, Text: text, Hint: publish}
	}
	if listed(tags["t"], "y") {
		return Warning{Kind: WarnTesting, Text: "the record says t=y (testing)", Hint: "remove t=y once signatures verify"}
	}
	return Warning{}
}

// differs says why the record does not verify signatures of k, "" if it does.
func (k *key) differs(tags map[string]string) string {
	if v, ok := tags["v"]; ok && v != "DKIM1" {
		return "the record's version is " + v
	}
	public, algorithm, err := publicBytes(k.private.Public())
	if err != nil {
		return err.Error()
	}
	published := tags["k"]
	if published == "" {
		published = "rsa"
	}
	switch {
	case published != algorithm:
		return fmt.Sprintf("the record is for %s, the key is %s", published, algorithm)
	case tags["p"] == "":
		return "the key is revoked (empty p=)"
	case !samePublic(tags["p"], public):
		return "the published key is another one"
	case tags["h"] != "" && !listed(tags["h"], "sha256"):
		return "the record does not allow sha256"
	case tags["s"] != "" && !listed(tags["s"], "*") && !listed(tags["s"], "email"):
		return "the record is not for email"
	case listed(tags["t"], "s") && k.Identity != "" && !strings.HasSuffix(strings.ToLower(k.Identity), "@"+k.domain):
		return "the record forbids an identity in a subdomain (t=s)"
	}
	return ""
}

// samePublic compares a p= tag with the key. RSA keys are also seen as a bare
// RSAPublicKey, which the text of RFC 6376 §3.6.1 asks for and errata 3017 corrects.
func samePublic(tag string, public []byte) bool {
	data, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(tag), ""))
	if err != nil {
		return false
	}
	if bytes.Equal(data, public) {
		return true
	}
	bare, err := x509.ParsePKCS1PublicKey(data)
	if err != nil {
		return false
	}
	parsed, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		return false
	}
	ours, ok := parsed.(*rsa.PublicKey)
	return ok && ours.Equal(bare)
}

// isNotFound reports whether err says that the name has no such record.
func isNotFound(err error) bool {
	dnsErr, ok := errors.AsType[*net.DNSError](err)
	return ok && dnsErr.IsNotFound
}

// parseTags reads a tag=value list (RFC 6376 §3.2).
func parseTags(s string) (map[string]string, error) {
	tags := map[string]string{}
	for part := range strings.SplitSeq(s, ";") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		name, value, found := strings.Cut(part, "=")
		name = strings.TrimSpace(name)
		if !found || name == "" {
			return nil, fmt.Errorf("the record is malformed at %q", part)
		}
		if _, twice := tags[name]; twice {
			return nil, fmt.Errorf("the record has the tag %s twice", name)
		}
		tags[name] = strings.TrimSpace(value)
	}
	return tags, nil
}

// listed reports whether a colon separated list has the item.
func listed(list, item string) bool {
	return slices.ContainsFunc(strings.Split(list, ":"), func(s string) bool {
		return strings.TrimSpace(s) == item
	})
}
