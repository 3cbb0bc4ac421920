package httpd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/accept"
)

// queue is an accept.Enqueuer and a Store in memory.
type queue struct {
	mu       sync.Mutex
	batches  []*mail.Batch
	receipts map[string]*mail.Receipt
	contents map[mail.ID]*mail.Batch
	status   map[mail.ID]Status
	putErr   error
	storeErr error
	gate     chan struct{} // when set, Put waits for it
	arrived  chan struct{} // when set, Put tells that it waits
}

func (q *queue) Put(_ context.Context, b *mail.Batch) error {
	if q.arrived != nil {
		q.arrived <- struct{}{}
	}
	if q.gate != nil {
		<-q.gate
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.putErr != nil {
		return q.putErr
	}
	q.batches = append(q.batches, b)
	if b.Receipt != nil {
		q.receipts[b.Receipt.Tenant+"/"+b.Receipt.Key] = b.Receipt
	}
	if !b.ContentUntil.IsZero() {
		q.contents[b.Body.ID] = b
	}
	return nil
}

func (q *queue) Large(context.Context) (accept.LargeFile, error) {
	return nil, errors.New("no large files here")
}

func (q *queue) Content(_ context.Context, tenant string, id mail.ID) (mail.BodyRef, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.contents[id]
	if q.storeErr != nil {
		return mail.BodyRef{}, q.storeErr
	}
	if b == nil || b.ContentTenant != tenant {
		return mail.BodyRef{}, mail.ErrNotFound
	}
	return mail.BodyRef{ID: id, Kind: b.Body.Kind, Size: b.Body.Size, Content: true}, nil
}

func (q *queue) Receipt(_ context.Context, tenant, key string) (*mail.Receipt, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.receipts[tenant+"/"+key], q.storeErr
}

func (q *queue) Status(_ context.Context, tenant string, id mail.ID) (Status, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s, ok := q.status[id]
	if q.storeErr != nil {
		return s, q.storeErr
	}
	if !ok || tenant != "acme" {
		return s, mail.ErrNotFound
	}
	return s, nil
}

// grammar refuses templates with the word bad.
type grammar struct{}

type mistake struct{}

func (mistake) Error() string                { return "line 3, column 7: bad" }
func (mistake) Position() (line, column int) { return 3, 7 }

func (grammar) Check(src string, _ bool) error {
	if strings.Contains(src, "{% bad") {
		return mistake{}
	}
	return nil
}

const (
	keyAcme  = "key-of-acme"
	keyOther = "key-of-other"
	keyRead  = "key-that-reads"
	keyAdmin = "key-of-admin"
)

func hash(key string) string {
	h := sha256.Sum256([]byte(key))
	return hex.EncodeToString(h[:])
}

func options() Options {
	o := DefaultOptions()
	o.MaxRequest = 2 << 20
	o.Keys = []Key{
		{Name: "acme", Tenant: "acme", SHA256: hash(keyAcme)},
		{Name: "other", Tenant: "other", SHA256: hash(keyOther)},
		{Name: "reader", Tenant: "acme", SHA256: hash(keyRead), Scopes: []string{ScopeRead}},
		{Name: "admin", Tenant: "acme", SHA256: hash(keyAdmin), Scopes: []string{ScopeAdmin}},
	}
	return o
}

// bundle is a server over a real door and a queue in memory.
type bundle struct {
	t      testing.TB
	queue  *queue
	server *Server
}

func setup(t testing.TB, change ...func(*Options)) *bundle {
	t.Helper()
	q := &queue{receipts: map[string]*mail.Receipt{}, contents: map[mail.ID]*mail.Batch{}, status: map[mail.ID]Status{}}
	door, err := accept.New(accept.DefaultOptions(), accept.Deps{Queue: q, IDs: &mail.IDs{}, Hostname: "mx.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	o := options()
	for _, f := range change {
		f(&o)
	}
	s, err := New(o, Deps{Injector: door, Store: q, Checker: grammar{}, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return &bundle{t: t, queue: q, server: s}
}

// do makes a request with the key of acme and holds it and its response to the OpenAPI document.
func (b *bundle) do(method, path, body string, header ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+keyAcme)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if r.Header.Del(header[i]); header[i+1] != "" {
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	b.server.Handler().ServeHTTP(w, r)
	b.hold(r, body, w)
	return w
}

func (b *bundle) hold(r *http.Request, body string, w *httptest.ResponseRecorder) {
	b.t.Helper()
	path := r.URL.Path
	if strings.HasPrefix(path, "/v1/messages/") {
		path = "/v1/messages/{id}"
	}
	if w.Code == http.StatusMethodNotAllowed || w.Code == http.StatusNotFound && path != "/v1/messages/{id}" {
		return // not an operation
	}
	if err := b.server.OpenAPI().CheckResponse(r.Method, path, w.Code, w.Header(), w.Body.Bytes()); err != nil {
		b.t.Errorf("response: %v: %s", err, w.Body)
	}
	if w.Code < 300 && body != "" && r.Header.Get("Content-Encoding") == "" {
		if err := b.server.OpenAPI().CheckRequest(r.Method, path, r.Header, []byte(body)); err != nil {
			b.t.Errorf("accepted request: %v", err)
		}
	}
}

// errorsOf decodes the error document.
func errorsOf(t testing.TB, w *httptest.ResponseRecorder) []wire.Error {
	t.Helper()
	var doc wire.Document
	dec := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		t.Fatalf("not an error document: %v: %s", err, w.Body)
	}
	return doc.Errors
}

func decode[T any](t testing.TB, w *httptest.ResponseRecorder, status int) T {
	t.Helper()
	var out T
	if w.Code != status {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func at(s string) time.Time {
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return v
}
