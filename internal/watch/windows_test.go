package watch

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// naive looks at every window there is, one nanosecond after the other.
type naive struct {
	clear, touched, certain int
	exempt                  int
}

func look(at []time.Duration, width time.Duration, stalls []Span) (n naive) {
	zones := make([]zone, 0, len(stalls))
	for _, s := range stalls {
		zones = append(zones, zone{s.From, s.To + (s.To - s.From)})
	}
	touched := func(x time.Duration) bool {
		return slices.ContainsFunc(zones, func(z zone) bool { return z.from < x+width && z.to >= x })
	}
	for x := -width; x <= 200; x++ {
		count, sure := 0, 0
		for _, t := range at {
			if t >= x && t < x+width {
				count++
			}
			if earliest(t, zones) >= x && t < x+width {
				sure++
			}
		}
		n.certain = max(n.certain, sure)
		if touched(x) {
			n.touched = max(n.touched, count)
		} else {
			n.clear = max(n.clear, count)
		}
	}
	for _, t := range at {
		if touched(t) {
			n.exempt++
		}
	}
	return n
}

// earliest goes back from t through all zones that hang together.
func earliest(t time.Duration, zones []zone) time.Duration {
	reach := zone{t, t}
	for again := true; again; {
		again = false
		for _, z := range zones {
			if z.from <= reach.to && z.to >= reach.from && (z.from < reach.from || z.to > reach.to) {
				reach = zone{min(reach.from, z.from), max(reach.to, z.to)}
				again = true
			}
		}
	}
	return reach.from
}

func TestWindowsAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.SliceOfN(rapid.Int64Range(0, 120), 0, 40).Draw(t, "at")
		slices.Sort(at)
		events := make([]time.Duration, len(at))
		for i, v := range at {
			events[i] = time.Duration(v)
		}
		var stalls []Span
		for range rapid.IntRange(0, 4).Draw(t, "stalls") {
			from := time.Duration(rapid.Int64Range(0, 120).Draw(t, "from"))
			stalls = append(stalls, Span{from, from + time.Duration(rapid.Int64Range(1, 12).Draw(t, "length"))})
		}
		width := time.Duration(rapid.Int64Range(1, 30).Draw(t, "width"))
		want := look(events, width, stalls)
		got := slide(events, width, zonesOf(stalls))
		if got.Worst.N != want.clear || got.ExemptWorst.N != want.touched || got.Certain.N != want.certain ||
			got.Exempt != want.exempt || got.Total != len(events) {
			t.Fatalf("got %+v\nwant %+v", got, want)
		}
		for _, p := range []Peak{got.Worst, got.ExemptWorst} {
			if n := within(events, Span{p.At, p.At + width}); n < p.N {
				t.Fatalf("the window from %d holds %d, not %d", p.At, n, p.N)
			}
		}
	})
}

// TestBorders: two events that are a second apart to the nanosecond are not in one window.
func TestBorders(t *testing.T) {
	const s = time.Second
	tests := []struct {
		name string
		at   []time.Duration
		want int
	}{
		{"none", nil, 0},
		{"one", []time.Duration{0}, 1},
		{"a second apart", []time.Duration{0, s}, 1},
		{"a nanosecond less", []time.Duration{0, s - 1}, 2},
		{"equal stamps", []time.Duration{5, 5, 5}, 3},
		{"every 100 ms", []time.Duration{0, s / 10, 2 * s / 10, 3 * s / 10, 4 * s / 10, 5 * s / 10, 6 * s / 10, 7 * s / 10, 8 * s / 10, 9 * s / 10, s, 11 * s / 10}, 10},
	}
	for _, tt := range tests {
		if got := slide(tt.at, s, nil).Worst.N; got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// TestStallBorders: a window is exempt when it holds any moment from the stall's beginning to its length behind its end.
func TestStallBorders(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	stalls := []Span{{5 * s, 5*s + 40*ms}} // the zone ends at 5.080, within
	tests := []struct {
		name           string
		at             []time.Duration
		worst, certain int
	}{
		{"ends before it", []time.Duration{4*s + ms, 5*s - 1}, 2, 2},
		{"its first moment", []time.Duration{4*s + ms, 5 * s}, 1, 2},
		{"its last moment", []time.Duration{5*s + 80*ms, 5*s + 81*ms}, 1, 2},
		{"begins behind it", []time.Duration{5*s + 80*ms + 1, 6 * s}, 2, 2},
		{"queued, and in the window whenever it came", []time.Duration{4*s + 70*ms, 5*s + 50*ms}, 1, 2},
		{"queued, and may have come before the window", []time.Duration{5*s + 50*ms, 6 * s}, 1, 1},
	}
	for _, tt := range tests {
		got := slide(tt.at, s, zonesOf(stalls))
		if got.Worst.N != tt.worst || got.Certain.N != tt.certain {
			t.Errorf("%s: worst %d certain %d, want %d and %d", tt.name, got.Worst.N, got.Certain.N, tt.worst, tt.certain)
		}
	}
}

// TestNoGapIsWideEnough: with a stall every half second no window is clear, and the certain count still judges.
func TestNoGapIsWideEnough(t *testing.T) {
	var stalls []Span
	var at []time.Duration
	for i := range 20 {
		from := time.Duration(i) * time.Second / 2
		stalls = append(stalls, Span{from, from + 35*time.Millisecond})
		for j := range 10 {
			at = append(at, from+100*time.Millisecond+time.Duration(j)*time.Millisecond)
		}
	}
	got := slide(at, time.Second, zonesOf(stalls))
	if got.Worst.N != 10 { // behind the last stall
		t.Errorf("worst %d: those are the ten behind the last stall", got.Worst.N)
	}
	if got.Certain.N != 20 || got.Exempt != 190 {
		t.Errorf("certain %d, exempt %d", got.Certain.N, got.Exempt)
	}
}
