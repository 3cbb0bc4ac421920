package hook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// Auth says how a request proves where it comes from: by an HMAC-SHA256 over it, or by a bearer token.
// Exactly one of secret, token (each as file or environment variable) and unsigned is set.
type Auth struct {
	SecretFile string         `toml:"secret_file" doc:"File with the secret that requests are signed with by HMAC-SHA256. A secret that begins with whsec_ is base64 behind that."`
	SecretEnv  string         `toml:"secret_env" doc:"Environment variable with that secret."`
	Header     string         `toml:"header" doc:"Header with the signature; X-Signature if empty. It may have several, separated by spaces or commas: one must be right."`
	Prefix     string         `toml:"prefix" doc:"What stands before a signature, such as sha256= or v1,."`
	Encoding   string         `toml:"encoding" doc:"Form of the signature: hex or base64."`
	Signed     string         `toml:"signed" doc:"What is signed: {body} if empty, or with headers such as {webhook-id}.{webhook-timestamp}.{body}."`
	Timestamp  string         `toml:"timestamp_header" doc:"Header with the Unix seconds of the request; it must be part of signed."`
	Tolerance  units.Duration `toml:"tolerance" doc:"How far that time may be from ours, so that an old request cannot be sent again."`
	TokenFile  string         `toml:"token_file" doc:"File with a token that requests carry as Authorization: Bearer."`
	TokenEnv   string         `toml:"token_env" doc:"Environment variable with that token."`
	Unsigned   bool           `toml:"unsigned" doc:"Take requests from anyone. Only where something else proves where they come from."`
}

// errUnproven is told to who cannot prove where a request comes from.
var errUnproven = errors.New("the request is not signed with the secret of this hook")

// prover checks requests.
type prover struct {
	Auth
	secret []byte
	token  []byte // hashed
	signed []string
}

// shortest is how many bytes a secret must have.
const shortest = 16

func newProver(o Auth) (*prover, error) {
	p := &prover{Auth: o}
	secrets := 0
	for _, s := range []string{o.SecretFile, o.SecretEnv, o.TokenFile, o.TokenEnv} {
		if s != "" {
			secrets++
		}
	}
	if o.Unsigned {
		secrets++
	}
	if secrets != 1 {
		return nil, errors.New("secret_file: exactly one of secret_file, secret_env, token_file, token_env and unsigned must be set")
	}
	secret, err := read("secret", o.SecretFile, o.SecretEnv)
	if err != nil {
		return nil, err
	}
	token, err := read("token", o.TokenFile, o.TokenEnv)
	if err != nil {
		return nil, err
	}
	if token != "" {
		h := sha256.Sum256([]byte(token))
		p.token = h[:]
	}
	if secret != "" {
		return p, p.setSigned(secret)
	}
	return p, nil
}

// read returns a secret, without the white space around it.
func read(what, file, env string) (string, error) {
	var s, key string
	switch {
	case file != "":
		b, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("%s_file: %w", what, err)
		}
		s, key = string(b), what+"_file"
	case env != "":
		s, key = os.Getenv(env), what+"_env"
	default:
		return "", nil
	}
	if s = strings.TrimSpace(s); len(s) < shortest {
		return "", fmt.Errorf("%s: what it names has less than %d characters", key, shortest)
	}
	return s, nil
}

func (p *prover) setSigned(secret string) error {
	p.secret = []byte(secret)
	if coded, ok := strings.CutPrefix(secret, "whsec_"); ok {
		b, err := base64.StdEncoding.DecodeString(coded)
		if err != nil {
			return errors.New("secret_file: what follows whsec_ is not base64")
		}
		p.secret = b
	}
	if p.Header == "" {
		p.Header = "X-Signature"
	}
	if p.Encoding == "" {
		p.Encoding = "hex"
	}
	if p.Encoding != "hex" && p.Encoding != "base64" {
		return errors.New("encoding: must be hex or base64")
	}
	if p.Signed == "" {
		p.Signed = "{body}"
	}
	if p.Tolerance < 0 || (p.Tolerance > 0) != (p.Timestamp != "") {
		return errors.New("tolerance: goes with timestamp_header")
	}
	if p.Timestamp != "" && !strings.Contains(strings.ToLower(p.Signed), "{"+strings.ToLower(p.Timestamp)+"}") {
		return errors.New("timestamp_header: must be part of signed")
	}
	return p.parseSigned()
}

// parseSigned splits the pattern into texts at even places and names at odd ones.
func (p *prover) parseSigned() error {
	rest, body := p.Signed, false
	for {
		text, after, ok := strings.Cut(rest, "{")
		p.signed = append(p.signed, text)
		if !ok {
			break
		}
		name, tail, ok := strings.Cut(after, "}")
		if !ok || name == "" {
			return errors.New("signed: has a { without a name and }")
		}
		p.signed = append(p.signed, name)
		body = body || name == "body"
		rest = tail
	}
	if !body {
		return errors.New("signed: must contain {body}")
	}
	return nil
}

// check returns nil for a request that may come in.
func (p *prover) check(h http.Header, body []byte, now time.Time) error {
	switch {
	case p.Unsigned:
		return nil
	case p.token != nil:
		scheme, token, _ := strings.Cut(h.Get("Authorization"), " ")
		sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(sum[:], p.token) != 1 {
			return errors.New("the request does not have the bearer token of this hook")
		}
		return nil
	}
	want := p.sum(h, body)
	for _, s := range p.signatures(h) {
		if hmac.Equal(s, want) {
			return p.fresh(h, now)
		}
	}
	return errUnproven
}

// sum is the right signature of a request.
func (p *prover) sum(h http.Header, body []byte) []byte {
	mac := hmac.New(sha256.New, p.secret)
	for i, s := range p.signed {
		switch {
		case i%2 == 0:
			mac.Write([]byte(s))
		case s == "body":
			mac.Write(body)
		default:
			mac.Write([]byte(h.Get(s)))
		}
	}
	return mac.Sum(nil)
}

// signatures are those that a request has, decoded.
func (p *prover) signatures(h http.Header) (out [][]byte) {
	var texts []string
	for _, value := range h.Values(p.Header) {
		for _, word := range strings.Fields(value) {
			texts = append(texts, word)
			if strings.Contains(word, ",") {
				texts = append(texts, strings.Split(word, ",")...)
			}
		}
	}
	for _, text := range texts {
		text, ok := strings.CutPrefix(text, p.Prefix)
		if !ok {
			continue
		}
		decode := hex.DecodeString
		if p.Encoding == "base64" {
			decode = base64.StdEncoding.DecodeString
		}
		if b, err := decode(text); err == nil {
			out = append(out, b)
		}
	}
	return out
}

// fresh checks the time of a signed request.
func (p *prover) fresh(h http.Header, now time.Time) error {
	if p.Timestamp == "" {
		return nil
	}
	s, err := strconv.ParseInt(h.Get(p.Timestamp), 10, 64)
	if err != nil {
		return fmt.Errorf("%s: is not a time in Unix seconds", p.Timestamp)
	}
	if d := now.Sub(time.Unix(s, 0)).Abs(); d > p.Tolerance.D() {
		return fmt.Errorf("%s: the request is %v old", p.Timestamp, d.Round(time.Second))
	}
	return nil
}
