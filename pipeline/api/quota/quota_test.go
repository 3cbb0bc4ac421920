package quota

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func at(s float64) time.Time {
	return time.Unix(1_800_000_000, 0).Add(time.Duration(s * float64(time.Second)))
}

func TestTake(t *testing.T) {
	l := New([]Rule{{Tenant: "*", Operation: "*", Burst: 2, Steady: 3}, {Tenant: "big", Operation: "*"}, {Tenant: "*", Operation: "createEvent", Burst: 1}})
	for i, c := range []struct {
		tenant, operation string
		at                float64
		want              Verdict
	}{
		{"a", "getLists", 0.25, Verdict{true, true, 2, 1, 750 * time.Millisecond}},
		{"a", "getList", 0.5, Verdict{true, true, 2, 0, 500 * time.Millisecond}},
		{"a", "getLists", 0.5, Verdict{true, false, 2, 0, 500 * time.Millisecond}},
		{"b", "getLists", 0.5, Verdict{true, true, 2, 1, 500 * time.Millisecond}},
		{"a", "createEvent", 0.5, Verdict{true, true, 1, 0, 500 * time.Millisecond}},
		{"a", "createEvent", 0.5, Verdict{true, false, 1, 0, 500 * time.Millisecond}},
		{"big", "createEvent", 0.5, Verdict{OK: true}},
		{"a", "getLists", 1, Verdict{true, true, 3, 0, 59 * time.Second}},
		{"a", "getLists", 2, Verdict{true, false, 3, 0, 58 * time.Second}},
		{"a", "getLists", 60, Verdict{true, true, 2, 1, time.Second}},
	} {
		if got := l.Take(c.tenant, c.operation, at(c.at)); got != c.want {
			t.Errorf("%d: %+v, want %+v", i, got, c.want)
		}
	}
	if v := New(nil).Take("a", "x", at(0)); !v.OK || v.Limited {
		t.Error(v)
	}
}

// TestNeverMore: whatever comes when, no window passes more than its limit, and one with room passes.
func TestNeverMore(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	l := New([]Rule{{Tenant: "*", Operation: "*", Burst: 5, Steady: 40}})
	now, seconds, minutes := at(0), map[int64]int{}, map[int64]int{}
	for range 20_000 {
		now = now.Add(time.Duration(random.IntN(300)) * time.Millisecond)
		s, m := now.Unix(), now.Unix()/60
		want := seconds[s] < 5 && minutes[m] < 40
		if got := l.Take("a", "x", now).OK; got != want {
			t.Fatalf("%v: %v with %d in the second and %d in the minute", now, got, seconds[s], minutes[m])
		}
		if want {
			seconds[s]++
			minutes[m]++
		}
	}
}

func TestValidate(t *testing.T) {
	known := func(s string) bool { return s == "createEvent" }
	for key, r := range map[string]Rule{"tenant": {Operation: "*"}, "operation": {Tenant: "*", Operation: "x"},
		"burst": {Tenant: "*", Operation: "*", Burst: -1}, "steady": {Tenant: "*", Operation: "createEvent", Steady: -1}} {
		if err := r.Validate(known); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: %v", key, err)
		}
	}
	if err := (Rule{Tenant: "a", Operation: "createEvent", Burst: 1}).Validate(known); err != nil {
		t.Error(err)
	}
}
