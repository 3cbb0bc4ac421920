package wire

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func zip(t *testing.T, b []byte) []byte {
	t.Helper()
	out, err := Compress(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBodies(t *testing.T) {
	const limit = 64 << 10
	big := bytes.Repeat([]byte("x"), limit)
	for _, c := range []struct {
		name, kind, encoding string
		body                 []byte
		status               int // 0: fine
		size                 int
	}{
		{"plain", "application/json", "", []byte("{}"), 0, 2},
		{"charset", "application/json; charset=UTF-8", "identity", []byte("{}"), 0, 2},
		{"exactly the limit", "application/json", "", big, 0, limit},
		{"one more", "application/json", "", append(big, 'x'), 413, 0},
		{"gzip", "application/json", "gzip", zip(t, big), 0, limit},
		{"gzip bomb", "application/json", "gzip", zip(t, bytes.Repeat([]byte{0}, 30<<20)), 413, 0},
		{"not gzip", "application/json", "gzip", []byte("hello"), 400, 0},
		{"cut gzip", "application/json", "gzip", zip(t, big)[:40], 400, 0},
		{"other encoding", "application/json", "br", []byte("{}"), 415, 0},
		{"two encodings", "application/json", "gzip, gzip", []byte("{}"), 415, 0},
		{"no type", "", "", []byte("{}"), 415, 0},
		{"form", "application/x-www-form-urlencoded", "", []byte("a=b"), 415, 0},
		{"latin", "application/json; charset=latin1", "", []byte("{}"), 415, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			bodies := NewBodies(limit, 1<<20, time.Second)
			r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(c.body))
			r.Header.Set("Content-Type", c.kind)
			if c.encoding != "" {
				r.Header.Set("Content-Encoding", c.encoding)
			}
			body, p := bodies.Read(httptest.NewRecorder(), r)
			status := 0
			if p != nil {
				status = p.Status
			}
			if status != c.status {
				t.Fatalf("status %d, want %d", status, c.status)
			}
			if p == nil && len(body.Bytes) != c.size {
				t.Errorf("%d bytes, want %d", len(body.Bytes), c.size)
			}
			body.Release()
			body.Release()
			if bodies.Held() != 0 {
				t.Errorf("%d bytes are still held", bodies.Held())
			}
		})
	}
}

func TestBodiesBudget(t *testing.T) {
	bodies := NewBodies(1<<20, 300<<10, 7*time.Second)
	read := func() (*Body, *Problem) {
		r := httptest.NewRequest(http.MethodPost, "/", io.MultiReader(bytes.NewReader(make([]byte, 200<<10))))
		r.Header.Set("Content-Type", "application/json")
		return bodies.Read(httptest.NewRecorder(), r)
	}
	first, p := read()
	if p != nil {
		t.Fatal(p)
	}
	if _, p := read(); p == nil || p.Status != 503 || p.RetryAfter != 7*time.Second {
		t.Fatalf("over the budget: %v", p)
	}
	first.Release()
	if again, p := read(); p != nil {
		t.Fatal(p)
	} else {
		again.Release()
	}
	if bodies.Held() != 0 {
		t.Error("memory is still held")
	}
}

func credential(name, key string, scopes ...string) Credential {
	return Credential{Name: name, SHA256: sha256.Sum256([]byte(key)), Scopes: scopes}
}

func TestKeyring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ring := NewKeyring([]Credential{credential("a", "key-a"), credential("b", "key-b")}, 2, time.Minute)
		try := func(header, from string) (string, int) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = from
			if header != "" {
				r.Header.Set("Authorization", header)
			}
			c, p := ring.Authenticate(r)
			if p != nil {
				return "", p.Status
			}
			return c.Name, 0
		}
		step := func(header, from, name string, status int) {
			t.Helper()
			if n, s := try(header, from); n != name || s != status {
				t.Errorf("%q from %s: got %q %d, want %q %d", header, from, n, s, name, status)
			}
		}
		step("Bearer key-a", "192.0.2.1:1", "a", 0)
		step("bearer key-b", "192.0.2.1:1", "b", 0)
		step("", "192.0.2.1:1", "", 401)
		step("Bearer wrong", "192.0.2.1:2", "", 401)
		step("Basic key-a", "192.0.2.1:3", "", 429)
		step("Bearer key-a", "192.0.2.1:3", "a", 0)
		step("Bearer ", "192.0.2.2:3", "", 401)
		step("Bearer x", "[2001:db8::1]:3", "", 401)
		step("Bearer x", "[2001:db8::2]:3", "", 401)
		step("Bearer x", "[2001:db8::3]:3", "", 429) // one /64
		time.Sleep(time.Minute)
		step("Bearer wrong", "192.0.2.1:2", "", 401)
		ring = ring.Replace([]Credential{credential("c", "key-c")})
		step("Bearer key-a", "192.0.2.1:2", "", 401)
		step("Bearer key-c", "192.0.2.1:2", "c", 0)
		step("Bearer key-a", "192.0.2.1:2", "", 429) // the count outlives a reload
	})
}

func TestFailuresAreBounded(t *testing.T) {
	ring := NewKeyring(nil, 2, time.Minute)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for i := range maxAddresses + 100 {
		r.RemoteAddr = "10." + strconv.Itoa(i>>16) + "." + strconv.Itoa(i>>8&255) + "." + strconv.Itoa(i&255) + ":1"
		_, _ = ring.Authenticate(r)
	}
	if n := len(ring.fails.seen); n > maxAddresses {
		t.Errorf("%d addresses are remembered", n)
	}
}

func TestParseHash(t *testing.T) {
	h := sha256.Sum256([]byte("k"))
	if got, err := ParseHash(hex.EncodeToString(h[:])); err != nil || got != h {
		t.Error(err)
	}
	for _, bad := range []string{"", "zz", "abcd", strings.Repeat("0", 66)} {
		if _, err := ParseHash(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestMux(t *testing.T) {
	h := Guard(Mux([]Route{
		{Method: http.MethodGet, Path: "/a/{id}", Handle: func(w http.ResponseWriter, r *http.Request) { Write(w, 200, r.PathValue("id")) }},
		{Method: http.MethodPost, Path: "/a/{id}", Handle: func(http.ResponseWriter, *http.Request) { panic("boom") }},
	}), slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		method, path string
		status       int
		code, allow  string
	}{
		{"GET", "/a/7", 200, "", ""},
		{"HEAD", "/a/7", 200, "", ""},
		{"PUT", "/a/7", 405, CodeMethodNotAllowed, "GET, HEAD, POST"},
		{"GET", "/b", 404, CodeNotFound, ""},
		{"POST", "/a/7", 500, CodeInternal, ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		var doc Document
		_ = json.Unmarshal(w.Body.Bytes(), &doc)
		code := ""
		if len(doc.Errors) > 0 {
			code = doc.Errors[0].Code
		}
		if w.Code != c.status || code != c.code || w.Header().Get("Allow") != c.allow {
			t.Errorf("%s %s: %d %s %q", c.method, c.path, w.Code, code, w.Header().Get("Allow"))
		}
	}
}

// script answers one status after the other.
func script(t *testing.T, statuses ...int) (*Client, *int) {
	t.Helper()
	calls := 0
	transport := roundTrip(func(r *http.Request) (*http.Response, error) {
		status := statuses[min(calls, len(statuses)-1)]
		calls++
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		if status == 0 {
			return nil, errors.New("connection reset")
		}
		w := httptest.NewRecorder()
		if status >= 300 {
			NewProblem(status, "some_code", "").After(3 * time.Second).Write(w)
		} else {
			Write(w, status, "fine")
		}
		return w.Result(), nil
	})
	c, err := NewClient(ClientOptions{URL: "http://api.example", Key: "k", HTTP: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	return c, &calls
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestClientRetries(t *testing.T) {
	for _, c := range []struct {
		name     string
		statuses []int
		safe     bool
		calls    int
		fails    int // status of the error, 0 none, -1 another error
		waited   time.Duration
	}{
		{"fine", []int{200}, false, 1, 0, 0},
		{"put off", []int{503, 429, 200}, false, 3, 0, 6 * time.Second},
		{"refused", []int{422}, true, 1, 422, 0},
		{"put off for good", []int{503}, false, 5, 503, 12 * time.Second},
		{"broken", []int{0, 200}, false, 1, -1, 0},
		{"broken but safe", []int{0, 200}, true, 2, 0, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, calls := script(t, c.statuses...)
				start := time.Now()
				var out string
				_, err := client.Do(context.Background(), Call{Method: http.MethodPost, Path: "/x", Body: strings.Repeat("y", 5000), Safe: c.safe}, &out)
				status := 0
				var p *Problem
				if errors.As(err, &p) {
					status = p.Status
				} else if err != nil {
					status = -1
				}
				if status != c.fails || *calls != c.calls {
					t.Errorf("%d calls, %v", *calls, err)
				}
				if took := time.Since(start); c.waited >= 0 && took != c.waited {
					t.Errorf("waited %v, want %v", took, c.waited)
				}
			})
		})
	}
}

func TestClientGivesUpWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := script(t, 503)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := client.Do(ctx, Call{Method: http.MethodGet, Path: "/"}, nil)
		var p *Problem
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &p) {
			t.Errorf("got %v", err)
		}
	})
}

func TestClientCompresses(t *testing.T) {
	var got []byte
	c, err := NewClient(ClientOptions{URL: "http://api.example", HTTP: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		got, err = io.ReadAll(z)
		return httptest.NewRecorder().Result(), err
	})}})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat("z", 5000)
	if _, err := c.Do(context.Background(), Call{Method: http.MethodPost, Path: "/", Body: want}, nil); err != nil {
		t.Fatal(err)
	}
	if string(got) != `"`+want+`"` {
		t.Errorf("got %d bytes", len(got))
	}
}

func TestNewClientRefuses(t *testing.T) {
	for _, bad := range []string{"", "host:25", "ftp://x", "http://"} {
		if _, err := NewClient(ClientOptions{URL: bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
