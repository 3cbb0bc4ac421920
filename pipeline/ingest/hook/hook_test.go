package hook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/ingest"
	"github.com/godwit-mta/godwit/pipeline/ingest/mapping"
)

var now = time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)

const secret = "0123456789abcdef0123"

func secretFile(t *testing.T, s string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(s+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func sign(key string, parts ...string) []byte {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(strings.Join(parts, "")))
	return m.Sum(nil)
}

// orders maps the body of a shop.
func orders() mapping.Event {
	return mapping.Event{
		Profile: mapping.Profile{Email: "$.customer.email", External: "$.customer.id", Attributes: map[string]string{"first_name": "$.customer.first", "location.city": "$.ship.city"}},
		Metric:  "Placed Order", Service: "shop", Time: "$.created", TimeFormat: "unix", Value: "$.total", Currency: "$.currency", UniqueID: "$.id",
	}
}

func newHandler(t *testing.T, k Hook) (*Handler, stream.Topic) {
	t.Helper()
	tp, err := stream.NewMemory().Topic(context.Background(), "intake", 1)
	if err != nil {
		t.Fatal(err)
	}
	d, err := ingest.New(ingest.DefaultOptions(), ingest.Deps{Intake: tp, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	h, err := New([]Hook{k}, Deps{Door: d, MaxPayload: 4 << 10, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return h, tp
}

func post(h http.Handler, body string, header ...string) (int, answer) {
	r := httptest.NewRequest(http.MethodPost, "/hooks/shop", strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var a answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		a.Error = err.Error()
	}
	return w.Code, a
}

func taken(t *testing.T, tp stream.Topic) (out []*fact.Intake) {
	t.Helper()
	end, _ := tp.End(context.Background(), 0)
	if end == 0 {
		return nil
	}
	r, _ := tp.Read(context.Background(), 0, 0)
	recs, err := r.Next(context.Background(), int(end))
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range recs {
		in := new(fact.Intake)
		if err := in.Parse(rec.Data); err != nil {
			t.Fatal(err)
		}
		out = append(out, in)
	}
	return out
}

const order = `{"id":77,"created":1795251600.5,"total":"12.50","currency":"EUR","customer":{"id":9,"email":"Ann@Example.com","first":"Ann"},"ship":{"city":"Bern"},"URL":"https://x.example/<a>"}`

func TestHook(t *testing.T) {
	h, tp := newHandler(t, Hook{Name: "shop", Tenant: "acme", Auth: Auth{Unsigned: true}, Event: orders()})
	if code, a := post(h, order); code != http.StatusAccepted || a.Accepted != 1 {
		t.Fatal(code, a)
	}
	in := taken(t, tp)[0]
	e := in.Event
	if in.Tenant != "acme" || len(in.Who) != 2 || in.Who[0].Value != "9" || e.Name != "Placed Order" || e.Service != "shop" || e.Value != 125e5 || e.Currency != "EUR" ||
		e.UID != "77" || !e.Time.Equal(now.Add(500*time.Millisecond)) {
		t.Errorf("%+v %+v", in, e)
	}
	if got := string(in.Change.Attributes); !strings.Contains(got, `"first_name":"Ann"`) || !strings.Contains(got, `"location":{"city":"Bern"}`) {
		t.Error(got)
	}
	var want, got any
	_ = json.Unmarshal([]byte(order), &want)
	if err := json.Unmarshal(e.Properties, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s", e.Properties)
	}
}

func TestHookRefuses(t *testing.T) {
	k := Hook{Name: "shop", Tenant: "acme", Auth: Auth{Unsigned: true}, Event: orders(), Each: "$.orders"}
	for _, c := range []struct {
		body string
		code int
		want answer
	}{
		{`{"orders":[{"customer":{"email":"x"}},5,` + order + `,{"customer":{"email":"a@b.example"},"total":"much"},{"customer":{"email":"a@b.example"},"created":"today"},{"customer":{"email":[]}}]}`,
			http.StatusAccepted, answer{Accepted: 1, Refused: []refusal{
				{1, "", "is not an object"}, {3, "$.total", `"much" is not a number`}, {4, "$.created", `"today" is not a time of the configured form`},
				{5, "$.customer.email", "is neither text nor a number"}, {0, "$.customer.email", "not an email address: it has no @"},
			}}},
		{`{"orders":[{}]}`, http.StatusBadRequest, answer{Error: "none of the events could be used",
			Refused: []refusal{{0, "", "needs one of id, email, phone_number, external_id and anonymous_id"}}}},
		{`{"orders":{}}`, http.StatusBadRequest, answer{Error: "$.orders: is not an array of events"}},
		{`{"orders":[]} {}`, http.StatusBadRequest, answer{Error: "the body is not JSON: something follows it"}},
		{`{"orders":[]}`, http.StatusAccepted, answer{}},
		{strings.Repeat(" ", 5000), http.StatusRequestEntityTooLarge, answer{Error: "a body has at most 4KiB"}},
	} {
		h, _ := newHandler(t, k)
		if code, a := post(h, c.body); code != c.code || !reflect.DeepEqual(a, c.want) {
			t.Errorf("%s\n%d %+v", c.body, code, a)
		}
	}
	h, _ := newHandler(t, k)
	r := httptest.NewRequest(http.MethodGet, "/hooks/shop", nil)
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != http.StatusMethodNotAllowed {
		t.Error(w.Code)
	}
	r = httptest.NewRequest(http.MethodPost, "/hooks/other", nil)
	w = httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != http.StatusNotFound {
		t.Error(w.Code)
	}
}

func TestSignatures(t *testing.T) {
	const body = `{"customer":{"email":"a@b.example"}}`
	stamp := strconv.FormatInt(now.Unix()-30, 10)
	old := strconv.FormatInt(now.Unix()-400, 10)
	hexed := func(parts ...string) string { return hex.EncodeToString(sign(secret, parts...)) }
	based := func(key string, parts ...string) string {
		return base64.StdEncoding.EncodeToString(sign(key, parts...))
	}
	file := secretFile(t, secret)
	coded := secretFile(t, "whsec_"+base64.StdEncoding.EncodeToString([]byte("another secret key")))
	plain := Auth{SecretFile: file}
	prefixed := Auth{SecretFile: file, Header: "X-Hub-Signature-256", Prefix: "sha256="}
	standard := Auth{SecretFile: coded, Header: "webhook-signature", Prefix: "v1,", Encoding: "base64", Signed: "{webhook-id}.{webhook-timestamp}.{body}",
		Timestamp: "webhook-timestamp", Tolerance: units.Duration(5 * time.Minute)}
	const key = "another secret key"
	token := Auth{TokenFile: file}
	for _, c := range []struct {
		name   string
		auth   Auth
		header []string
		code   int
	}{
		{"none", plain, nil, 401},
		{"right", plain, []string{"X-Signature", hexed(body)}, 202},
		{"upper case", plain, []string{"X-Signature", strings.ToUpper(hexed(body))}, 202},
		{"of another body", plain, []string{"X-Signature", hexed(body, " ")}, 401},
		{"cut short", plain, []string{"X-Signature", hexed(body)[:32]}, 401},
		{"empty", plain, []string{"X-Signature", ""}, 401},
		{"not hex", plain, []string{"X-Signature", "zz"}, 401},
		{"one of two", plain, []string{"X-Signature", hexed("x") + ", " + hexed(body)}, 202},
		{"one of two headers", plain, []string{"X-Signature", hexed("x"), "X-Signature", hexed(body)}, 202},
		{"prefix", prefixed, []string{"X-Hub-Signature-256", "sha256=" + hexed(body)}, 202},
		{"without prefix", prefixed, []string{"X-Hub-Signature-256", hexed(body)}, 401},
		{"header not meant", prefixed, []string{"X-Signature", "sha256=" + hexed(body)}, 401},
		{"standard", standard, []string{"webhook-id", "m1", "webhook-timestamp", stamp, "webhook-signature", "v1,AAAA v1," + based(key, "m1.", stamp, ".", body)}, 202},
		{"standard, other id", standard, []string{"webhook-id", "m2", "webhook-timestamp", stamp, "webhook-signature", "v1," + based(key, "m1.", stamp, ".", body)}, 401},
		{"standard, too old", standard, []string{"webhook-id", "m1", "webhook-timestamp", old, "webhook-signature", "v1," + based(key, "m1.", old, ".", body)}, 401},
		{"standard, no time", standard, []string{"webhook-id", "m1", "webhook-signature", "v1," + based(key, "m1.", "", ".", body)}, 401},
		{"token", token, []string{"Authorization", "bearer " + secret}, 202},
		{"wrong token", token, []string{"Authorization", "Bearer " + secret + "x"}, 401},
		{"no token", token, nil, 401},
		{"basic", token, []string{"Authorization", "Basic " + secret}, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, tp := newHandler(t, Hook{Name: "shop", Tenant: "acme", Auth: c.auth, Event: orders()})
			code, a := post(h, body, c.header...)
			if code != c.code || (code == 202) != (len(taken(t, tp)) == 1) {
				t.Errorf("%d %+v", code, a)
			}
		})
	}
}

func TestRepeatedDelivery(t *testing.T) {
	h, tp := newHandler(t, Hook{Name: "shop", Tenant: "acme", Auth: Auth{Unsigned: true}, Delivery: "webhook-id",
		Event: mapping.Event{Profile: mapping.Profile{Email: "mail"}, Metric: "Ping", Properties: []string{"$.a.b", "c"}}})
	const body = `[{"mail":"a@b.example","a":{"b":1},"c":null},{"mail":"a@b.example"}]`
	for _, id := range []string{"d1", "d1", "d2", ""} {
		if code, a := post(h, body, "Webhook-Id", id); code != 202 || a.Accepted != 2 {
			t.Fatal(code, a)
		}
	}
	got := taken(t, tp)
	uid := func(i int) string { return got[i].Event.UID }
	if len(got) != 8 || uid(0) != uid(2) || uid(1) != uid(3) || uid(0) == uid(1) || uid(0) == uid(4) || uid(6) != strconv.FormatInt(now.Unix(), 10) {
		for i := range got {
			t.Error(uid(i))
		}
	}
	if string(got[0].Event.Properties) != `{"b":1}` {
		t.Errorf("%s", got[0].Event.Properties)
	}
}

func TestConfiguration(t *testing.T) {
	file, short := secretFile(t, secret), secretFile(t, "short")
	good := Hook{Name: "shop", Tenant: "acme", Auth: Auth{SecretFile: file}, Event: orders()}
	for _, c := range []struct {
		want   string
		change func(*Hook)
	}{
		{"name:", func(k *Hook) { k.Name = "a/b" }},
		{"tenant:", func(k *Hook) { k.Tenant = "" }},
		{"auth.secret_file: exactly one", func(k *Hook) { k.Auth = Auth{} }},
		{"auth.secret_file: exactly one", func(k *Hook) { k.Auth.Unsigned = true }},
		{"auth.secret_file: what it names", func(k *Hook) { k.Auth.SecretFile = short }},
		{"auth.secret_file: open", func(k *Hook) { k.Auth.SecretFile = short + "x" }},
		{"auth.token_env: what it names", func(k *Hook) { k.Auth = Auth{TokenEnv: "GODWIT_TEST_UNSET"} }},
		{"auth.encoding:", func(k *Hook) { k.Auth.Encoding = "base32" }},
		{"auth.signed: must contain", func(k *Hook) { k.Auth.Signed = "{x}" }},
		{"auth.signed: has a {", func(k *Hook) { k.Auth.Signed = "{body" }},
		{"auth.tolerance:", func(k *Hook) { k.Auth.Timestamp = "T" }},
		{"auth.timestamp_header:", func(k *Hook) { k.Auth.Timestamp, k.Auth.Tolerance = "T", 1e9 }},
		{"each:", func(k *Hook) { k.Each = "$..a" }},
		{"event.metric:", func(k *Hook) { k.Event.Metric = "" }},
		{"event.metric:", func(k *Hook) { k.Event.MetricFrom = "$.m" }},
		{"event.profile:", func(k *Hook) { k.Event.Profile = mapping.Profile{} }},
		{"event.profile.email:", func(k *Hook) { k.Event.Profile.Email = "$x" }},
		{"event.time_zone:", func(k *Hook) { k.Event.TimeZone = "Mars" }},
		{"event.properties:", func(k *Hook) { k.Event.Properties = []string{"$"} }},
	} {
		k := good
		c.change(&k)
		_, err := New([]Hook{k}, Deps{Door: new(ingest.Door)})
		if err == nil || !strings.HasPrefix(err.Error(), "hook "+strconv.Quote(k.Name)+": "+c.want) {
			t.Errorf("%s: %v", c.want, err)
		}
	}
	if _, err := New([]Hook{good, good}, Deps{Door: new(ingest.Door)}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Error(err)
	}
}

type closed struct{}

func (closed) Bulk(context.Context, string, []byte, string) (ingest.Position, *ingest.Report, error) {
	return nil, nil, errors.New("disk full")
}

func TestHookUnavailable(t *testing.T) {
	h, err := New([]Hook{{Name: "shop", Tenant: "acme", Auth: Auth{Unsigned: true}, Event: orders()}}, Deps{Door: closed{}})
	if err != nil {
		t.Fatal(err)
	}
	if code, a := post(h, order); code != http.StatusServiceUnavailable || strings.Contains(a.Error, "disk") {
		t.Error(code, a)
	}
}

// TestDocumentedHook reads the example of docs/ingest.md, strictly.
func TestDocumentedHook(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "ingest.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```toml\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("the page has no example")
	}
	example = strings.ReplaceAll(example, "/etc/godwit/shop.secret", secretFile(t, secret))
	var c struct {
		Hooks []Hook `toml:"hooks"`
	}
	if err := toml.NewDecoder(strings.NewReader(example)).DisallowUnknownFields().Decode(&c); err != nil {
		t.Fatal(err)
	}
	if _, err := New(c.Hooks, Deps{Door: new(ingest.Door)}); err != nil || len(c.Hooks) != 1 {
		t.Fatal(c, err)
	}
}
