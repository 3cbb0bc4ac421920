package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// TestLoadEvents: profiles come first, then events with mail among them, and bursts are told apart.
func TestLoadEvents(t *testing.T) {
	var mu sync.Mutex
	var paths []string
	mail := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		paths = append(paths, r.URL.Path)
		mail += strings.Count(string(b), `"name":"Received Email","service":"godwit"`)
		mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
	}))
	defer s.Close()
	base := []string{"load", "events", s.URL, "--key", "k", "--profiles", "6000", "--profiles-first", "--connections", "1", "-n", "1000", "--batch", "100",
		"--mail", "0.5", "--rate", "5000", "--burst", "4", "--burst-every", "100ms", "--burst-for", "50ms"}
	contains(t, want(t, 0, base...).out, "profiles", "6,000 at ", "1,000 events", "in bursts", "outside of them")
	if len(paths) != 12 || paths[1] != "/api/profile-bulk-import-jobs" || paths[2] != "/api/event-bulk-create-jobs" || mail < 300 || mail > 450 {
		t.Errorf("%d deliveries; %v", mail, paths)
	}
	var report struct {
		Events   int `json:"events"`
		Profiles struct {
			Events int `json:"events"`
		} `json:"profiles"`
		Burst struct {
			Events int `json:"events"`
		} `json:"burst"`
	}
	if err := json.Unmarshal([]byte(want(t, 0, append(base, "--json")...).out), &report); err != nil {
		t.Fatal(err)
	}
	if report.Events != 1000 || report.Profiles.Events != 6000 || report.Burst.Events == 0 {
		t.Errorf("%+v", report)
	}
	want(t, 2, "load", "events", s.URL, "--key", "k", "-n", "1", "--burst", "4") // of no rate
}

// TestLoadEventsFails: without the profiles no events are sent.
func TestLoadEventsFails(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "profile") {
			t.Errorf("%s was called", r.URL.Path)
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer s.Close()
	contains(t, want(t, 1, "load", "events", s.URL, "--key", "k", "-n", "1", "--profiles", "10", "--profiles-first").err, "403")
}
