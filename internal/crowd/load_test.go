package crowd

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// server takes everything and keeps the bodies by API key and path.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	bodies map[string][][]byte
}

func newServer(t *testing.T) *server {
	s := &server{bodies: map[string][][]byte{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		key := strings.TrimPrefix(r.Header.Get("Authorization"), "Klaviyo-API-Key ") + " " + r.URL.Path
		s.mu.Lock()
		s.bodies[key] = append(s.bodies[key], b)
		s.mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestLoadProfiles(t *testing.T) {
	s := newServer(t)
	w := benchWorld(t, func(o *Options) { o.Profiles = 2500 })
	l, err := NewLoad(w, LoadOptions{Target: s.URL, Keys: []string{"a", "b"}, Connections: 3, Batch: 700, Profiles: true})
	if err != nil {
		t.Fatal(err)
	}
	r := l.Run(t.Context())
	if r.Events != 5000 || r.Requests != 8 || r.FirstFail != "" || l.Acked() != 5000 {
		t.Errorf("%+v", r)
	}
	for _, key := range []string{"a", "b"} {
		seen := map[string]bool{}
		for _, b := range s.bodies[key+" /api/profile-bulk-import-jobs"] {
			var doc struct {
				Data struct {
					Attributes struct {
						Profiles struct {
							Data []struct {
								Attributes struct {
									Email    string
									External string `json:"external_id"`
								}
							}
						}
					}
				}
			}
			if err := json.Unmarshal(b, &doc); err != nil {
				t.Fatal(err)
			}
			for _, p := range doc.Data.Attributes.Profiles.Data {
				seen[p.Attributes.Email+" "+p.Attributes.External] = true
			}
		}
		with := 0
		for i := range 2500 {
			external := ""
			if w.known(i) {
				external = ExternalOf(i)
				with++
			}
			if !seen[EmailOf(i)+" "+external] {
				t.Fatalf("%s: no profile %d with %q", key, i, external)
			}
		}
		if len(seen) != 2500 || with < 400 || with > 600 {
			t.Errorf("%s: %d profiles, %d with an external id", key, len(seen), with)
		}
	}
}

func TestLoadSendsEachEventOnce(t *testing.T) {
	s := newServer(t)
	w := benchWorld(t, nil)
	l, err := NewLoad(w, LoadOptions{Target: s.URL, Keys: []string{"a", "b"}, Connections: 4, Batch: 100, First: 7, Count: 1234})
	if err != nil {
		t.Fatal(err)
	}
	r := l.Run(t.Context())
	next := uint64(7)
	for _, a := range r.Acks {
		if a.First != next || !a.Known || a.At.IsZero() {
			t.Fatalf("%+v, not from %d", a, next)
		}
		next += a.N
	}
	if next != 7+1234 || r.Events != 1234 || r.Requests != 13 {
		t.Errorf("until %d: %+v", next, r)
	}
}

func TestBurstOptions(t *testing.T) {
	good := Burst{Factor: 10, Every: time.Minute, For: 10 * time.Second}
	for _, c := range []struct {
		change func(*Burst)
		rate   float64
		ok     bool
	}{
		{func(*Burst) {}, 100, true},
		{func(b *Burst) { *b = Burst{} }, 0, true},
		{func(*Burst) {}, 0, false},
		{func(b *Burst) { b.Factor = 0.5 }, 100, false},
		{func(b *Burst) { b.For = 0 }, 100, false},
		{func(b *Burst) { b.For = time.Minute }, 100, false},
	} {
		b := good
		c.change(&b)
		if _, err := NewLoad(benchWorld(t, nil), LoadOptions{Target: "x", Keys: []string{"a"}, Count: 1, Rate: c.rate, Burst: b}); (err == nil) != c.ok {
			t.Errorf("%+v: %v", b, err)
		}
	}
	if _, err := NewLoad(benchWorld(t, nil), LoadOptions{Target: "x", Keys: []string{"a"}, Profiles: true, First: 1_000_000}); err == nil {
		t.Error("there are no profiles behind the last")
	}
}

func TestSchedule(t *testing.T) {
	calm := newSchedule(1000, Burst{})
	if calm.due(2500) != 2500*time.Millisecond || calm.bursting(time.Second) || calm.inBursts(time.Hour) != 0 {
		t.Error("without bursts")
	}
	s := newSchedule(1000, Burst{Factor: 10, Every: time.Minute, For: 20 * time.Second})
	perSecond := make([]int, 180)
	last := time.Duration(-1)
	for n := uint64(0); ; n++ {
		at := s.due(n)
		if at < last {
			t.Fatalf("event %d is due at %v, the one before at %v", n, at, last)
		}
		if last = at; at >= 3*time.Minute {
			break
		}
		perSecond[at/time.Second]++
	}
	for i, got := range perSecond {
		want := 1000.0
		switch at := float64(i%60) - 40 + 0.5; { // seconds since the burst began, in the middle of the second
		case at < 0:
		case at < 5:
			want += 9000 * at / 5
		case at < 15:
			want = 10_000
		default:
			want += 9000 * (20 - at) / 5
		}
		if math.Abs(float64(got)-want) > 2 {
			t.Errorf("second %d: %d events, not %.0f", i, got, want)
		}
	}
	for _, c := range []struct {
		at, inside time.Duration
		burst      bool
	}{{39 * time.Second, 0, false}, {41 * time.Second, time.Second, true}, {61 * time.Second, 20 * time.Second, false}, {2*time.Minute - 1, 40*time.Second - 1, true}} {
		if s.inBursts(c.at) != c.inside || s.bursting(c.at) != c.burst {
			t.Errorf("at %v: %v of bursts, in one: %v", c.at, s.inBursts(c.at), s.bursting(c.at))
		}
	}
}

func TestReportTellsBurstsApart(t *testing.T) {
	s := newServer(t)
	l, err := NewLoad(benchWorld(t, nil), LoadOptions{Target: s.URL, Keys: []string{"a"}, Connections: 2, Batch: 50, Rate: 2000, Count: 2000,
		Burst: Burst{Factor: 5, Every: 200 * time.Millisecond, For: 100 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	r := l.Run(t.Context())
	inside, outside := r.BurstRates()
	if r.Burst == nil || r.Events != 2000 || r.Burst.Events == 0 || r.Burst.Events == r.Events || r.Burst.Took > r.Took {
		t.Fatalf("%+v", r)
	}
	if got := perSecond(r.Burst.Events, r.Burst.Took); got != inside || fmt.Sprintf("%.3f", outside) != fmt.Sprintf("%.3f", float64(r.Events-r.Burst.Events)/(r.Took-r.Burst.Took).Seconds()) {
		t.Errorf("%v inside, %v outside of %+v", inside, outside, r.Burst)
	}
}
