package injectapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/wire"
)

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestOneKeyPerCall: the repeats of a call carry its key, another call another one.
func TestOneKeyPerCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys []string
		fails := []error{errors.New("reset"), nil, nil}
		c, err := NewClient(ClientOptions{URL: "http://api.example", HTTP: &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			keys = append(keys, r.Header.Get(HeaderIdempotencyKey))
			if err := fails[len(keys)-1]; err != nil {
				return nil, err
			}
			w := httptest.NewRecorder()
			wire.Write(w, http.StatusCreated, ContentResponse{ID: "x", ExpiresAt: time.Now()})
			return w.Result(), nil
		})}})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if out, err := c.StoreContent(context.Background(), Content{Text: "x"}, ""); err != nil || out.ID != "x" {
				t.Fatal(out, err)
			}
		}
		if len(keys) != 3 || keys[0] == "" || keys[0] != keys[1] || keys[1] == keys[2] {
			t.Errorf("keys %q", keys)
		}
	})
}

func TestCode(t *testing.T) {
	if got := Code(wire.NewProblem(422, CodeTemplate, "")); got != CodeTemplate {
		t.Error(got)
	}
	if got := Code(errors.New("x")); got != "" {
		t.Error(got)
	}
}
