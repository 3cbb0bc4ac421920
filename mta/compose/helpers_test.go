package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	msgauth "github.com/emersion/go-msgauth/dkim"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/dkim"
)

var (
	messageID  = mail.ID{0x01, 0x90, 0x0a, 0x5d, 0xac, 0x96, 0x77, 0x4b, 0xbc, 0xce, 0xb3, 0x02, 0x09, 0x9a, 0x80, 0x57}
	bodyID     = mail.ID{0x01, 0x90, 0x0a, 0x5d, 0xac, 0x96, 0x70, 0x00, 0x80, 0, 0, 0, 0, 0, 0, 1}
	acceptedAt = time.Date(2026, 11, 21, 14, 3, 5, 123456789, time.FixedZone("", 3600))
)

// memory is a Bodies with one body; it checks that every release comes, once.
type memory struct {
	data  []byte
	err   error
	loads atomic.Int32
	held  atomic.Int32
}

func (b *memory) Body(context.Context, *mail.Message) ([]byte, func(), error) {
	if b.err != nil {
		return nil, nil, b.err
	}
	b.loads.Add(1)
	b.held.Add(1)
	return b.data, func() { b.held.Add(-1) }, nil
}

// fakeRenderer knows {{ name }} and fails at {{ bad }}, telling the place.
type fakeRenderer struct{}

type placeError struct{ line, column int }

func (e *placeError) Error() string {
	return fmt.Sprintf("line %d, column %d: unknown filter", e.line, e.column)
}
func (e *placeError) Position() (int, int) { return e.line, e.column }

var tag = regexp.MustCompile(`\{\{ *(\w+) *\}\}`)

func (f fakeRenderer) Check(src string, _ bool) error {
	before, _, found := strings.Cut(src, "{{ bad }}")
	if !found {
		return nil
	}
	lines := strings.Split(before, "\n")
	return &placeError{len(lines), len([]rune(lines[len(lines)-1])) + 1}
}

func (f fakeRenderer) Render(ctx context.Context, src string, vars map[string]any, escape bool) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := f.Check(src, escape); err != nil {
		return "", err
	}
	return tag.ReplaceAllStringFunc(src, func(t string) string {
		value := fmt.Sprint(vars[tag.FindStringSubmatch(t)[1]])
		if escape {
			value = html.EscapeString(value)
		}
		return value
	}), nil
}

// signer signs for example.com by RSA and Ed25519.
func signer(t testing.TB) (*dkim.Signer, map[string]string) {
	t.Helper()
	o := dkim.DefaultOptions()
	records := map[string]string{}
	for i, algorithm := range []string{dkim.RSA2048, dkim.Ed25519} {
		g, err := dkim.Generate(algorithm, "example.com", fmt.Sprint("s", i))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(file, g.Private, 0o600); err != nil {
			t.Fatal(err)
		}
		o.Keys = append(o.Keys, dkim.Key{Domain: "example.com", Selector: fmt.Sprint("s", i), File: file})
		records[g.Name] = g.Value
	}
	s, err := dkim.New(o, dkim.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return s, records
}

// verify checks all signatures of a message and returns their number.
func verify(t testing.TB, records map[string]string, message []byte) int {
	t.Helper()
	checks, err := msgauth.VerifyWithOptions(bytes.NewReader(message), &msgauth.VerifyOptions{
		LookupTXT: func(name string) ([]string, error) {
			if value, ok := records[name]; ok {
				return []string{value}, nil
			}
			return nil, errors.New("no record")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range checks {
		if c.Err != nil {
			t.Errorf("signature of %s: %v\n%s", c.Domain, c.Err, message)
		}
	}
	return len(checks)
}

func newComposer(t testing.TB, b Bodies, s Signer) *Composer {
	t.Helper()
	c, err := New(DefaultOptions(), Deps{Bodies: b, Renderer: fakeRenderer{}, Signer: s, Hostname: "mx.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func message(kind mail.BodyKind, substitutions string) *mail.Message {
	m := &mail.Message{
		ID: messageID, Accepted: acceptedAt, Recipient: "joe@example.org",
		Body: mail.BodyRef{ID: bodyID, Kind: kind},
	}
	if substitutions != "" {
		m.Substitutions = []byte(substitutions)
	}
	return m
}

func contentJSON(t testing.TB, content mail.Content) []byte {
	t.Helper()
	data, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// compose composes twice, sees both be equal and all memory given back, and
// returns the bytes and the 8-bit flag, which must tell the truth.
func compose(t testing.TB, c *Composer, m *mail.Message) []byte {
	t.Helper()
	first := composeOnce(t, c, m)
	later := *m
	later.Accepted = m.Accepted.UTC() // as the spool may give it back
	if second := composeOnce(t, c, &later); !bytes.Equal(first, second) {
		t.Fatalf("a retry composes other bytes:\n%s\n---\n%s", first, second)
	}
	return first
}

func composeOnce(t testing.TB, c *Composer, m *mail.Message) []byte {
	t.Helper()
	composed, err := c.Compose(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	defer composed.Release()
	var out bytes.Buffer
	for _, p := range composed.Parts {
		out.Write(p)
	}
	if int64(out.Len()) != composed.Size {
		t.Errorf("size %d, %d bytes", composed.Size, out.Len())
	}
	if composed.EightBit == ascii(out.Bytes()) {
		t.Errorf("EightBit is %v", composed.EightBit)
	}
	return out.Bytes()
}

// failure composes and returns the outcome of the error.
func failure(t testing.TB, c *Composer, m *mail.Message) mail.Outcome {
	t.Helper()
	composed, err := c.Compose(context.Background(), m)
	if err == nil {
		composed.Release()
		t.Fatal("no error")
	}
	e, ok := errors.AsType[*mail.OutcomeError](err)
	if !ok {
		t.Fatalf("%T: %v", err, err)
	}
	return e.Outcome
}

func crlfText(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
