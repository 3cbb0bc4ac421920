package load

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
)

const (
	idDigits    = 12 // of the number in a load id
	idEvery     = 25 // lines of the body between two that hold the id
	dotEvery    = 10 // lines of the body between two that begin with a dot
	placeholder = "000000000000"
)

// template is a message whose load id is put in at fixed places, so that
// making the next distinct message costs a few short copies. Two forms are
// kept: wire, dot-stuffed for DATA, and plain, for sums and for HTTP.
type template struct {
	wire, plain        []byte
	wireIDs, plainIDs  []int // where the number of the load id stands
	plainBody          int   // offset after the blank line
	prefix             string
	sums, bodyIsStatic bool
	sum                ledger.Sum // when the body never changes
	digits             [idDigits]byte
	hash               hash.Hash
}

// newTemplate makes the template of a run.
func newTemplate(o Options, run string, now time.Time) *template {
	t := &template{prefix: run + "-", sums: !o.NoSums, bodyIsStatic: o.SameBody}
	header := headerOf(o, t.prefix+placeholder, now)
	body := bodyOf(o, t.prefix+placeholder, int(o.Size)-len(header))
	t.plain = append(header, body...)
	t.plainBody = len(header)
	stuffed := bytes.ReplaceAll(body, []byte("\r\n."), []byte("\r\n.."))
	if bytes.HasPrefix(stuffed, []byte(".")) {
		stuffed = append([]byte("."), stuffed...)
	}
	t.wire = append(bytes.Clone(header), stuffed...)
	t.wire = append(t.wire, ".\r\n"...)
	t.plainIDs = places(t.plain, t.prefix)
	t.wireIDs = places(t.wire, t.prefix)
	if t.sums && t.bodyIsStatic {
		full := sha256.Sum256(body)
		copy(t.sum[:], full[:])
	}
	return t
}

// clone returns a copy for another worker.
func (t *template) clone() *template {
	c := *t
	c.wire, c.plain = bytes.Clone(t.wire), bytes.Clone(t.plain)
	c.hash = sha256.New()
	return &c
}

func places(b []byte, prefix string) (at []int) {
	want := []byte(prefix + placeholder)
	for i := 0; ; {
		j := bytes.Index(b[i:], want)
		if j < 0 {
			return at
		}
		at = append(at, i+j+len(prefix))
		i += j + len(want)
	}
}

// headerOf is the header with its blank line. The Message-ID holds the load id
// too, since X-Godwit-* fields do not leave an engine.
func headerOf(o Options, id string, now time.Time) []byte {
	var b bytes.Buffer
	line := func(parts ...string) {
		for _, p := range parts {
			b.WriteString(p)
		}
		b.WriteString("\r\n")
	}
	line("From: Load <", o.From, ">")
	line("To: undisclosed-recipients:;")
	line("Subject: Load test ", id)
	line("Date: ", now.Format(time.RFC1123Z))
	line("Message-ID: <", id, "@", o.From[strings.LastIndexByte(o.From, '@')+1:], ">")
	line("X-Load-Id: ", id)
	if o.Mode == ModeSMTP {
		for _, f := range []struct{ name, value string }{{"Stream", o.Stream}, {"Tenant", o.Tenant}, {"Pool", o.Pool}} {
			if f.value != "" {
				line("X-Godwit-", f.name, ": ", f.value)
			}
		}
	}
	for _, h := range o.Headers {
		line(h)
	}
	line("MIME-Version: 1.0")
	line("Content-Type: text/plain; charset=utf-8")
	if o.EightBit {
		line("Content-Transfer-Encoding: 8bit")
	}
	line()
	return b.Bytes()
}

// bodyOf is a body of about size bytes. Some of its lines begin with a dot, so
// that every message shows whether dot-stuffing works.
func bodyOf(o Options, id string, size int) []byte {
	const words = "the quick godwit flies over eleven thousand kilometres of open ocean without a single stop and "
	var b bytes.Buffer
	for n := 0; b.Len() < size; n++ {
		switch {
		case n%idEvery == 0 && !o.SameBody:
			b.WriteString("This is message " + id)
		case n%dotEvery == 1:
			b.WriteString(strings.Repeat(".", n/dotEvery%3+1)) // "." alone, "..", "..."
			b.WriteString([]string{"", " and text after dots"}[n/dotEvery%2])
		case n%dotEvery == 2 && o.EightBit:
			b.WriteString("Grüße von der Pfuhlschnepfe, 斑尾塍鹬")
		default:
			shift := int(mix(o.Seed+uint64(n)) % uint64(len(words)))
			line := words[shift:] + words[:shift]
			b.WriteString(line[:min(len(line), 72, max(1, size-b.Len()-2))])
		}
		b.WriteString("\r\n")
	}
	return b.Bytes()
}

// set makes the template the n-th message and returns its load id and the sum of its body.
func (t *template) set(n int64, plain bool) (id string, sum ledger.Sum) {
	for i := idDigits - 1; i >= 0; i-- {
		t.digits[i] = byte('0' + n%10)
		n /= 10
	}
	if !plain {
		for _, at := range t.wireIDs {
			copy(t.wire[at:], t.digits[:])
		}
	}
	if plain || t.sums {
		for _, at := range t.plainIDs {
			copy(t.plain[at:], t.digits[:])
		}
	}
	return t.prefix + string(t.digits[:]), t.bodySum()
}

func (t *template) bodySum() (s ledger.Sum) {
	if !t.sums || t.bodyIsStatic {
		return t.sum
	}
	t.hash.Reset()
	t.hash.Write(t.plain[t.plainBody:])
	var full [sha256.Size]byte
	copy(s[:], t.hash.Sum(full[:0]))
	return s
}
