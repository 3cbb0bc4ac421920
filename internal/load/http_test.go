package load

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/godwit-mta/godwit/internal/ledger"
)

// fakeAPI answers as the injection API does, and remembers.
type fakeAPI struct {
	mu       sync.Mutex
	requests []messagesJSON
	contents []contentJSON
	next     int
	refuse   func(n int) (status int, code string) // n-th request; status 0 accepts, -1 breaks the connection
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(r.Body)
	}
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.Header.Get("Authorization") != "Bearer sesame":
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"errors":[{"code":"unauthorized"}]}`)
	case r.URL.Path == "/v1/contents":
		var c contentJSON
		_ = json.NewDecoder(body).Decode(&c)
		f.contents = append(f.contents, c)
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"id":"content-1"}`)
	case r.URL.Path == "/v1/messages":
		var m messagesJSON
		_ = json.NewDecoder(body).Decode(&m)
		f.requests = append(f.requests, m)
		f.answer(w, m)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (f *fakeAPI) answer(w http.ResponseWriter, m messagesJSON) {
	if f.refuse != nil {
		if status, code := f.refuse(len(f.requests)); status > 0 {
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"errors":[{"code":%q}]}`, code)
			return
		} else if status < 0 {
			panic(http.ErrAbortHandler)
		}
	}
	var out answerJSON
	for _, r := range m.Recipients {
		if strings.HasPrefix(r.Address, "bad") {
			out.Rejected = append(out.Rejected, struct {
				Code string `json:"code"`
			}{"suppressed"})
			continue
		}
		f.next++
		out.Messages = append(out.Messages, struct {
			ID        string `json:"id"`
			Recipient string `json:"recipient"`
		}{fmt.Sprintf("id-%d", f.next), r.Address})
	}
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(out)
}

func runHTTP(t *testing.T, f *fakeAPI, change func(*Options)) (*Report, []ledger.Ack) {
	t.Helper()
	srv := httptest.NewServer(f)
	defer srv.Close()
	o := DefaultOptions()
	o.Mode, o.Target, o.Count, o.Connections, o.Recipients = ModeHTTP, srv.URL, 25, 2, 10
	o.HTTP.Key = "sesame"
	o.Ledger = filepath.Join(t.TempDir(), "load.ledger")
	change(&o)
	l, err := New(o, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	acks, _, err := ledger.ReadFile(o.Ledger)
	if err != nil {
		t.Fatal(err)
	}
	return r, acks
}

func TestHTTPRaw(t *testing.T) {
	for _, zip := range []bool{true, false} {
		f := &fakeAPI{}
		r, acks := runHTTP(t, f, func(o *Options) { o.HTTP.Gzip, o.Stream = zip, "s" })
		if r.Acked != 25 || r.Transactions != 3 || len(acks) != 25 || !r.OK() {
			t.Fatalf("%+v", r)
		}
		m := f.requests[0]
		if !strings.Contains(m.Content.Raw, "Message-ID: <"+r.Run+"-0000") || m.ReversePath != "load@source.test" || m.Stream != "s" {
			t.Errorf("%+v", m)
		}
		if a := acks[0]; !strings.HasPrefix(a.Key, r.Run+"-") || !strings.HasPrefix(a.ID, "id-") || a.Sum.IsZero() || a.At < a.Began {
			t.Errorf("%+v", a)
		}
	}
}

func TestHTTPParts(t *testing.T) {
	f := &fakeAPI{}
	_, acks := runHTTP(t, f, func(o *Options) { o.HTTP.Content = ContentParts })
	if c := f.requests[0].Content; c.Raw != "" || c.Text == "" || *c.Templates || c.Text == f.requests[1].Content.Text {
		t.Errorf("%+v", c)
	}
	if a := acks[0]; a.Key != a.ID || !a.Sum.IsZero() {
		t.Errorf("%+v", a)
	}
}

func TestHTTPStored(t *testing.T) {
	f := &fakeAPI{}
	r, acks := runHTTP(t, f, func(o *Options) { o.HTTP.Content, o.HTTP.Substitute = ContentStored, true })
	if len(f.contents) != 1 || !strings.Contains(f.contents[0].Text, "{{ name }}") || !*f.contents[0].Templates {
		t.Errorf("%+v", f.contents)
	}
	for _, m := range f.requests {
		if m.ContentID != "content-1" || m.Content != nil || m.Recipients[0].Substitutions["name"] == "" {
			t.Errorf("%+v", m)
		}
	}
	if r.Acked != 25 || len(acks) != 25 {
		t.Errorf("%+v", r)
	}
}

func TestHTTPRefusals(t *testing.T) {
	f := &fakeAPI{refuse: func(n int) (int, string) {
		switch n {
		case 1:
			return 503, "queue_full"
		case 2:
			return -1, ""
		}
		return 0, ""
	}}
	r, acks := runHTTP(t, f, func(o *Options) {
		o.Connections, o.Count, o.Locals = 1, 40, []string{"u", "bad"}
	})
	if r.Acked != 10 || r.Refused != 20 || r.Unknown != 10 || len(acks) != 10 {
		t.Errorf("%+v", r)
	}
	if r.Errors["http 503 queue_full"] != 1 || r.Errors["rejected suppressed"] != 10 {
		t.Error(r.Errors)
	}
}

func TestHTTPWrongKey(t *testing.T) {
	r, _ := runHTTP(t, &fakeAPI{}, func(o *Options) { o.HTTP.Key = "x" })
	if r.Acked != 0 || r.Refused != 25 || r.Errors["http 401 unauthorized"] != 3 {
		t.Errorf("%+v", r)
	}
}
