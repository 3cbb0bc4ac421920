package dkim

import (
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var crlf = []byte("\r\n") // never written to

// Digest holds the SHA-256 of a canonicalised body: relaxed first, then simple.
// An all-zero entry is not computed yet. It is a plain array so that a consumer
// can name it in an interface without importing this package.
type Digest = [2][32]byte

// Deps is what a Signer needs from outside.
type Deps struct {
	Logger     *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil: no metrics
}

// Signer signs with a fixed set of keys. It is safe for concurrent use; a reload
// makes a new one.
type Signer struct {
	exact   map[string][]*key // by domain
	parents map[string][]*key // by domain, those that also sign for subdomains
	keys    []*key
	backend string
	slots   chan struct{}
	scratch sync.Pool
	metrics metrics
}

// key is a loaded Key.
type key struct {
	Key
	domain    string // A-labels, lower case
	algorithm string // the a= tag
	private   crypto.Signer
	hashOpt   crypto.Hash // SHA256 for RSA, 0 for Ed25519, which signs the hash as its message
	header    canonicalization
	body      canonicalization
	prefix    []byte // the field up to and including "t="
	names     []string
	index     map[string]int32 // lower case name -> place in names
	oversign  []bool           // by place in names
}

// New loads and checks the keys. The error names the configuration key and says
// what to do.
func New(o Options, d Deps) (*Signer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	log := d.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	limit := o.Concurrency
	if limit == 0 {
		limit = runtime.GOMAXPROCS(0)
	}
	s := &Signer{
		exact: map[string][]*key{}, parents: map[string][]*key{},
		slots: make(chan struct{}, limit),
	}
	s.scratch.New = func() any { return &scratch{hash: sha256.New()} }
	var err error
	if s.metrics, err = newMetrics(d.Registerer); err != nil {
		return nil, err
	}
	engine := newEngine(o.Libcrypto, log)
	s.backend = engine.name
	for i, c := range o.Keys {
		k, err := newKey(c, o, engine, log)
		if err != nil {
			return nil, fmt.Errorf("keys[%d].%w", i, err)
		}
		s.keys = append(s.keys, k)
		s.exact[k.domain] = append(s.exact[k.domain], k)
		if c.Subdomains {
			s.parents[k.domain] = append(s.parents[k.domain], k)
		}
	}
	log.Info("dkim signer ready", "keys", len(s.keys), "domains", len(s.exact), "rsa_backend", s.backend)
	return s, nil
}

// newKey loads one key and prepares the constant parts of its signatures.
func newKey(c Key, o Options, e engine, log *slog.Logger) (*key, error) {
	private, err := loadKey(c.File, o.AllowLoosePermissions)
	if err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	k := &key{Key: c}
	if k.domain, err = asciiDomain(c.Domain); err != nil {
		return nil, fmt.Errorf("domain: %w", err)
	}
	if k.header, k.body, err = parseCanonicalization(c.Canonicalization); err != nil {
		return nil, fmt.Errorf("canonicalization: %w", err)
	}
	if err := k.setPrivate(private, e, log); err != nil {
		return nil, err
	}
	if c.Algorithm != "" && c.Algorithm != algorithmAuto && c.Algorithm != k.algorithm {
		return nil, fmt.Errorf("algorithm: %s is set but %s holds a key for %s", c.Algorithm, c.File, k.algorithm)
	}
	headers := c.Headers
	if len(headers) == 0 {
		headers = o.Headers
	}
	k.setNames(headers, o.Oversign)
	k.setPrefix()
	return k, nil
}

// setNames builds the signed names in order, each once, with the oversigned ones.
func (k *key) setNames(headers, oversign []string) {
	k.index = map[string]int32{}
	for _, name := range slices.Concat(headers, oversign) {
		lower := strings.ToLower(name)
		if _, known := k.index[lower]; known {
			continue
		}
		k.index[lower] = int32(len(k.names))
		k.names = append(k.names, name)
	}
	k.oversign = make([]bool, len(k.names))
	for _, name := range oversign {
		k.oversign[k.index[strings.ToLower(name)]] = true
	}
}

func (k *key) setPrefix() {
	var b strings.Builder
	fmt.Fprintf(&b, "DKIM-Signature: v=1; a=%s; c=%s/%s;\r\n d=%s;\r\n s=%s;", k.algorithm, k.header, k.body, k.domain, k.Selector)
	if k.Identity != "" {
		fmt.Fprintf(&b, "\r\n i=%s;", k.Identity)
	}
	b.WriteString(" t=")
	k.prefix = []byte(b.String())
}

// Backend tells what computes RSA signatures: libcrypto with its version, or crypto/rsa.
func (s *Signer) Backend() string { return s.backend }

// Sign returns complete DKIM-Signature fields with CR LF line ends, one for each
// key of the domain, to be put on top of the message; none if there is no key.
// at becomes t=. header is the whole header block, with or without its final
// empty line; body is all of the rest, in any number of slices.
func (s *Signer) Sign(domain string, at time.Time, header []byte, body ...[]byte) ([]byte, error) {
	return s.SignDigest(domain, at, header, nil, body...)
}

// SignDigest is Sign for a body that many messages share: it uses the digests
// that are already in digest, and fills in those it had to compute. A caller
// that shares a Digest between goroutines hands each call a copy.
func (s *Signer) SignDigest(domain string, at time.Time, header []byte, digest *Digest, body ...[]byte) ([]byte, error) {
	keys := s.lookup(domain)
	if len(keys) == 0 {
		return nil, nil
	}
	w := s.scratch.Get().(*scratch)
	defer s.put(w)
	w.fields = splitFields(w.fields[:0], header)
	if digest == nil {
		w.digest = Digest{}
		digest = &w.digest
	}
	out := make([]byte, 0, len(keys)*signatureSize)
	for _, k := range keys {
		if digest[k.body] == ([32]byte{}) {
			w.hashBody(&digest[k.body], k.body, body)
		}
		var err error
		if out, err = s.sign(out, k, w, at, &digest[k.body]); err != nil {
			s.metrics.failures.Inc()
			return nil, fmt.Errorf("dkim: %s._domainkey.%s: %w", k.Selector, k.domain, err)
		}
	}
	return out, nil
}

// signatureSize is about the length of a field with an RSA-2048 signature.
const signatureSize = 896

// lookup finds the keys for a domain: its own, else those of the nearest parent
// that signs for subdomains.
func (s *Signer) lookup(domain string) []*key {
	if keys, ok := s.exact[domain]; ok {
		return keys
	}
	domain, err := asciiDomain(domain)
	if err != nil {
		return nil
	}
	if keys, ok := s.exact[domain]; ok || len(s.parents) == 0 {
		return keys
	}
	for {
		_, parent, found := strings.Cut(domain, ".")
		if !found {
			return nil
		}
		if keys, ok := s.parents[parent]; ok {
			return keys
		}
		domain = parent
	}
}

// sign appends one signature field to out.
func (s *Signer) sign(out []byte, k *key, w *scratch, at time.Time, bodyHash *[32]byte) ([]byte, error) {
	start := len(out)
	out = append(out, k.prefix...)
	out = strconv.AppendInt(out, at.Unix(), 10)
	out = append(out, ";\r\n h="...)
	w.data = w.data[:0]
	out = w.choose(out, k)
	out = append(out, ";\r\n bh="...)
	out = base64.StdEncoding.AppendEncode(out, bodyHash[:])
	out = append(out, ";\r\n b="...)

	w.data = appendUnsigned(w.data, out[start:], k.header)
	hashed := sha256.Sum256(w.data)
	signature, err := s.private(k, hashed[:])
	if err != nil {
		return nil, err
	}
	w.text = base64.StdEncoding.AppendEncode(w.text[:0], signature)
	out = appendFolded(out, w.text)
	return append(out, '\r', '\n'), nil
}

// private makes the signature proper. RSA is bounded to a few at once: a call
// into libcrypto keeps an operating system thread busy, and a hundred threads on
// two cores would only delay the sessions that have nothing to sign.
func (s *Signer) private(k *key, hashed []byte) ([]byte, error) {
	if k.hashOpt != 0 {
		s.slots <- struct{}{}
		defer func() { <-s.slots }()
	}
	signature, err := k.private.Sign(nil, hashed, k.hashOpt)
	if err == nil {
		s.metrics.count(k)
	}
	return signature, err
}

// appendUnsigned appends the canonical form of the field being made, whose b= is
// still empty, without the last line end (RFC 6376 §3.7).
func appendUnsigned(dst, unsigned []byte, mode canonicalization) []byte {
	if mode == simple {
		return append(dst, unsigned...)
	}
	const name = "DKIM-Signature:"
	dst = append(dst, "dkim-signature:"...)
	return appendRelaxed(dst, unsigned[len(name):])
}

// appendFolded appends base64 text in lines of at most 75 characters.
func appendFolded(dst, text []byte) []byte {
	for width := 72; len(text) > width; width = 74 {
		dst = append(dst, text[:width]...)
		dst = append(dst, "\r\n "...)
		text = text[width:]
	}
	return append(dst, text...)
}

// scratch is the memory one call of Sign needs; it is pooled.
type scratch struct {
	hash   hash.Hash
	hasher bodyHasher
	digest Digest
	fields []field
	last   []int32 // by place in key.names: the lowest field of that name
	data   []byte  // canonical header
	text   []byte  // base64 of the signature
}

// put returns w to the pool, without the references into the message.
func (s *Signer) put(w *scratch) {
	if cap(w.data) > 64<<10 || cap(w.fields) > 1024 {
		return
	}
	clear(w.fields[:cap(w.fields)])
	s.scratch.Put(w)
}

func (w *scratch) hashBody(to *[32]byte, mode canonicalization, body [][]byte) {
	w.hasher.reset(w.hash, mode)
	for _, part := range body {
		w.hasher.write(part)
	}
	w.hasher.sum(to)
}

// choose appends the h= list of k to out and the canonical form of the fields it
// names to w.data. Several fields of one name are taken from the bottom up
// (RFC 6376 §5.4.2); oversigning adds the name once more for a field that is not there.
func (w *scratch) choose(out []byte, k *key) []byte {
	w.link(k)
	column, first := len(" h="), true
	for i, name := range k.names {
		at := w.last[i]
		for at >= 0 || at == -1 && k.oversign[i] {
			out, column = appendListed(out, name, column, first)
			first = false
			if at < 0 {
				break
			}
			w.data = appendField(w.data, w.fields[at], k.header)
			at = w.fields[at].prev
		}
	}
	return out
}

// link chains the fields of each signed name, lowest first.
func (w *scratch) link(k *key) {
	w.last = w.last[:0]
	for range k.names {
		w.last = append(w.last, -1)
	}
	var lower [maxName]byte
	for i := range w.fields {
		f := &w.fields[i]
		f.prev = -1
		if len(f.name) > len(lower) {
			continue
		}
		place, signed := k.index[string(appendLower(lower[:0], f.name))]
		if signed {
			f.prev = w.last[place]
			w.last[place] = int32(i)
		}
	}
}

// appendListed appends a name to an h= list and folds the line before column 76.
func appendListed(out []byte, name string, column int, first bool) ([]byte, int) {
	if !first {
		out = append(out, ':')
		column++
	}
	if column+len(name)+1 > 76 {
		out = append(out, "\r\n "...)
		column = 1
	}
	return append(out, name...), column + len(name)
}

// Live holds the Signer in use, so that a reload swaps it under the consumers.
// The zero value signs nothing.
type Live struct{ current atomic.Pointer[Signer] }

// Store makes s the Signer in use.
func (l *Live) Store(s *Signer) { l.current.Store(s) }

// Load returns the Signer in use, nil if there is none.
func (l *Live) Load() *Signer { return l.current.Load() }

// Sign is Signer.Sign by the Signer in use.
func (l *Live) Sign(domain string, at time.Time, header []byte, body ...[]byte) ([]byte, error) {
	return l.SignDigest(domain, at, header, nil, body...)
}

// SignDigest is Signer.SignDigest by the Signer in use.
func (l *Live) SignDigest(domain string, at time.Time, header []byte, digest *Digest, body ...[]byte) ([]byte, error) {
	s := l.current.Load()
	if s == nil {
		return nil, nil
	}
	return s.SignDigest(domain, at, header, digest, body...)
}
