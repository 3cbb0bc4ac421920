package throttle

import (
	"strings"
	"testing"
	"time"
)

func TestDailyLimit(t *testing.T) {
	morning := time.Date(2026, 3, 4, 23, 0, 0, 0, time.UTC)
	o := DefaultOptions()
	var w *world
	shift := time.Duration(0)
	o.Wall = func() time.Time {
		if w == nil {
			return morning
		}
		return morning.Add(w.now + shift)
	}
	w = ready(t, o, "a", "b")
	l := Limits{Daily: 500}
	w.want("a", Send, 1e6, l)
	w.want("b", Send, 1e6, l)
	out := w.collect(time.Minute)
	if n := grantedOf(out, "", Send); n != 500 {
		t.Fatalf("%d permits, want 500", n)
	}
	h := hintsOf(out, "b")
	if len(h) != 1 || h[0].Reason != "daily limit 500 reached" || h[0].After > time.Hour || h[0].After < 59*time.Minute {
		t.Errorf("hints %+v", h)
	}
	w.a.Unused("a", testKey, Send, 7, w.now)
	w.a.Unused("a", testKey, Connect, 7, w.now)
	if n := grantedOf(w.collect(time.Minute), "", Send); n != 7 {
		t.Errorf("7 lapsed and %d were granted again", n)
	}
	if s := w.status(); s.Today != 500 {
		t.Errorf("today %d", s.Today)
	}
	w.advance(time.Hour - w.now - time.Second)
	if n := grantedOf(w.collect(100*ms), "", Send); n != 0 {
		t.Errorf("%d before midnight", n)
	}
	if n := grantedOf(w.collect(2*time.Second), "", Send); n != 500 {
		t.Errorf("%d after midnight, want 500", n)
	}
	shift = -time.Minute // over midnight, back
	w.want("a", Send, 1e6, l)
	if n := grantedOf(w.collect(10*time.Minute), "", Send); n != 0 {
		t.Errorf("%d because the clock went back", n)
	}
	w.a.Charge("a", testKey, 100, w.now)
	shift = 24 * time.Hour
	w.a.SetShare(2, w.now)
	if n := grantedOf(w.collect(lookAgain), "", Send); n != 250 {
		t.Errorf("%d in the half of a day's limit", n)
	}
}

func TestSaveAndRestore(t *testing.T) {
	wall := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	o := DefaultOptions()
	o.Wall = func() time.Time { return wall }
	w := ready(t, o, "a")
	w.want("a", Send, 300, Limits{Daily: 500})
	w.advance(time.Second)
	b, err := w.a.Save()
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"version":1,"day":"2026-03-04","counts":[{"source":"s1","provider":"google","count":300}]}`; string(b) != want {
		t.Errorf("saved %s, want as docs/formats/daily-counts.md says %s", b, want)
	}
	w = ready(t, o, "a")
	if err := w.a.Restore(b); err != nil {
		t.Fatal(err)
	}
	w.want("a", Send, 300, Limits{Daily: 500})
	if n := grantedOf(w.collect(time.Second), "a", Send); n != 200 {
		t.Errorf("%d permits, 200 were left", n)
	}
	wall = wall.Add(24 * time.Hour)
	w = ready(t, o, "a")
	if err := w.a.Restore(b); err != nil {
		t.Fatal(err)
	}
	w.want("a", Send, 300, Limits{Daily: 500})
	if n := grantedOf(w.collect(time.Second), "a", Send); n != 300 {
		t.Errorf("%d permits: yesterday counts", n)
	}
	for _, bad := range []string{"", "{", `{"version":2,"day":"2026-03-04"}`, `{"version":1,"day":"today"}`} {
		if err := w.a.Restore([]byte(bad)); err == nil || !strings.HasPrefix(err.Error(), "throttle: daily counts: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
