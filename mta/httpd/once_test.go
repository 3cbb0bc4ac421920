package httpd

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/injectapi"
	"github.com/google/go-cmp/cmp"
)

const mixed = `{"content":{"from":"a@example.com","text":"x"},"recipients":[{"address":"a@Example.org"},{"address":"bad"},{"address":"c@example.org"},{"address":"worse"}]}`

func TestReplay(t *testing.T) {
	b := setup(t)
	first := b.do("POST", "/v1/messages", mixed, "Idempotency-Key", "k 1")
	if first.Code != 202 || first.Header().Get("Idempotency-Replayed") != "" {
		t.Fatalf("%d %s", first.Code, first.Body)
	}
	again := b.do("POST", "/v1/messages", mixed, "Idempotency-Key", "k 1")
	if again.Code != 202 || again.Header().Get("Idempotency-Replayed") != "true" {
		t.Fatalf("%d %v", again.Code, again.Header())
	}
	if diff := cmp.Diff(first.Body.String(), again.Body.String()); diff != "" {
		t.Error(diff)
	}
	if len(b.queue.batches) != 1 {
		t.Errorf("%d batches", len(b.queue.batches))
	}
	if n := len(b.queue.batches[0].Receipt.Answer); n > 200 {
		t.Errorf("the receipt takes %d bytes", n)
	}
	for name, c := range map[string]struct{ path, body, auth string }{
		"other body": {"/v1/messages", simple, keyAcme},
		"other path": {"/v1/contents", mixed, keyAcme},
	} {
		w := b.do("POST", c.path, c.body, "Idempotency-Key", "k 1", "Authorization", "Bearer "+c.auth)
		if w.Code != 422 || errorsOf(t, w)[0].Code != injectapi.CodeIdempotencyConflict {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if w := b.do("POST", "/v1/messages", simple, "Idempotency-Key", "k 1", "Authorization", "Bearer "+keyOther); w.Code != 202 {
		t.Errorf("another tenant's key: %d", w.Code)
	}
}

func TestReceiptOfTenThousandIsSmall(t *testing.T) {
	b := setup(t)
	body := `{"content":{"from":"a@example.com","text":"x"},"recipients":[` + strings.TrimSuffix(strings.Repeat(`{"address":"a@example.org"},{"address":"bad"},`, 5000), ",") + `]}`
	first := b.do("POST", "/v1/messages", body, "Idempotency-Key", "k")
	again := b.do("POST", "/v1/messages", body, "Idempotency-Key", "k")
	if first.Code != 202 || first.Body.String() != again.Body.String() {
		t.Errorf("%d, equal %v", first.Code, first.Body.String() == again.Body.String())
	}
	if n := len(b.queue.batches[0].Receipt.Answer); n > 60_000 {
		t.Errorf("the receipt takes %d bytes", n)
	}
}

func TestBadKeys(t *testing.T) {
	b := setup(t)
	for _, key := range []string{strings.Repeat("k", 256), "é", "a\x01b"} {
		if w := b.do("POST", "/v1/messages", simple, "Idempotency-Key", key); w.Code != 400 || errorsOf(t, w)[0].Field != "Idempotency-Key" {
			t.Errorf("%q: %d %s", key, w.Code, w.Body)
		}
	}
	r := httptest.NewRequest("POST", "/v1/messages", strings.NewReader(simple))
	r.Header = http.Header{"Authorization": {"Bearer " + keyAcme}, "Content-Type": {"application/json"}, "Idempotency-Key": {""}}
	w := httptest.NewRecorder()
	if b.server.Handler().ServeHTTP(w, r); w.Code != 400 {
		t.Errorf("empty key: %d", w.Code)
	}
}

// TestSameKeyAtOnce: of many requests with one key at the same time one makes the batch and all get its answer.
func TestSameKeyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := setup(t)
		b.queue.gate = make(chan struct{})
		var wg sync.WaitGroup
		answers := make([]*httptest.ResponseRecorder, 8)
		for i := range answers {
			wg.Go(func() { answers[i] = b.do("POST", "/v1/messages", mixed, "Idempotency-Key", "k") })
		}
		synctest.Wait()
		close(b.queue.gate)
		wg.Wait()
		if len(b.queue.batches) != 1 {
			t.Errorf("%d batches", len(b.queue.batches))
		}
		fresh := 0
		for _, w := range answers {
			if w.Code != 202 || w.Body.String() != answers[0].Body.String() {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if w.Header().Get("Idempotency-Replayed") == "" {
				fresh++
			}
		}
		if fresh != 1 {
			t.Errorf("%d answers are not replays", fresh)
		}
		if b.server.flights.Len() != 0 {
			t.Error("a flight is left")
		}
	})
}

// TestWaiterGoesAway: who waits for another's request and gives up leaves nothing behind.
func TestWaiterGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := setup(t)
		b.queue.gate = make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { b.do("POST", "/v1/messages", simple, "Idempotency-Key", "k") })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r := httptest.NewRequestWithContext(ctx, "POST", "/v1/messages", strings.NewReader(simple))
		r.Header = http.Header{"Authorization": {"Bearer " + keyAcme}, "Content-Type": {"application/json"}, "Idempotency-Key": {"k"}}
		w := httptest.NewRecorder()
		b.server.Handler().ServeHTTP(w, r)
		if w.Code != 503 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		close(b.queue.gate)
		wg.Wait()
		if len(b.queue.batches) != 1 || b.server.flights.Len() != 0 {
			t.Error("the first request was disturbed")
		}
	})
}

// TestClientGoesAway: a write with a key goes on without its client, so that the repeat finds the receipt.
func TestClientGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := setup(t)
		b.queue.gate = make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			r := httptest.NewRequestWithContext(ctx, "POST", "/v1/messages", strings.NewReader(mixed))
			r.Header = http.Header{"Authorization": {"Bearer " + keyAcme}, "Content-Type": {"application/json"}, "Idempotency-Key": {"k"}}
			b.server.Handler().ServeHTTP(httptest.NewRecorder(), r)
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		var again *httptest.ResponseRecorder
		wg.Go(func() { again = b.do("POST", "/v1/messages", mixed, "Idempotency-Key", "k") })
		synctest.Wait()
		close(b.queue.gate)
		wg.Wait()
		if len(b.queue.batches) != 1 || again.Header().Get("Idempotency-Replayed") != "true" {
			t.Errorf("%d batches, %d %v", len(b.queue.batches), again.Code, again.Header())
		}
	})
}

// TestFailureIsNotRemembered: a refused request may be sent again under its key.
func TestFailureIsNotRemembered(t *testing.T) {
	b := setup(t)
	b.queue.putErr = mail.ErrQueueFull
	if w := b.do("POST", "/v1/messages", simple, "Idempotency-Key", "k"); w.Code != 503 {
		t.Fatal(w.Code)
	}
	b.queue.putErr = nil
	if w := b.do("POST", "/v1/messages", mixed, "Idempotency-Key", "k"); w.Code != 202 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestContentOnce(t *testing.T) {
	b := setup(t)
	const body = `{"from":"a@example.com","text":"x"}`
	first := b.do("POST", "/v1/contents", body, "Idempotency-Key", "k")
	again := b.do("POST", "/v1/contents", body, "Idempotency-Key", "k")
	if first.Code != 201 || first.Body.String() != again.Body.String() || again.Header().Get("Idempotency-Replayed") != "true" {
		t.Errorf("%s\n%s", first.Body, again.Body)
	}
	if len(b.queue.batches) != 1 {
		t.Errorf("%d batches", len(b.queue.batches))
	}
}
