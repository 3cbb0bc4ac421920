package watch

import (
	"cmp"
	"slices"
	"time"
)

// Windows is what was found of one width of sliding window. A window of width
// w that begins at x holds what happened from x to before x+w, so two events
// share one exactly when they are less than w apart.
type Windows struct {
	Width time.Duration `json:"width_ns"`
	// Worst is the highest count in any window that touches no zone.
	Worst Peak `json:"worst"`
	// Certain is the highest count of events that fell into one window
	// however long those in a zone had waited for their stamp. All windows are looked at.
	Certain Peak `json:"certain"`
	// ExemptWorst is the highest count, by stamps, in a window that touches a zone.
	ExemptWorst Peak `json:"exempt_worst"`
	// Exempt of Total windows touch a zone; those counted begin at an event each.
	Exempt int `json:"exempt"`
	Total  int `json:"total"`
}

// Peak is a count and where it is: the first event of the window, or the moment.
type Peak struct {
	N  int           `json:"n"`
	At time.Duration `json:"at_ns"`
}

func (p *Peak) raise(n int, at time.Duration) {
	if n > p.N {
		*p = Peak{n, at}
	}
}

// zone is a time, both ends within, whose events may have waited for their stamps since it began.
type zone struct{ from, to time.Duration }

// zonesOf makes the zones of stalls: each from its beginning until as long
// after its end as it lasted. Those that overlap are one; the result is in order.
func zonesOf(stalls []Span) []zone {
	zones := make([]zone, 0, len(stalls))
	for _, s := range stalls {
		zones = append(zones, zone{s.From, s.To + s.Length()})
	}
	slices.SortFunc(zones, func(a, b zone) int { return cmp.Compare(a.from, b.from) })
	merged := zones[:0]
	for _, z := range zones {
		if last := len(merged) - 1; last >= 0 && z.from <= merged[last].to {
			merged[last].to = max(merged[last].to, z.to)
			continue
		}
		merged = append(merged, z)
	}
	return merged
}

// slide looks at all windows of a width over events, which are in order.
func slide(at []time.Duration, width time.Duration, zones []zone) Windows {
	w := Windows{Width: width, Total: len(at)}
	w.clear(at, zones)
	w.certain(at, zones)
	w.exempt(at, zones)
	return w
}

// clear finds Worst. A window that touches no zone lies between two of them,
// and if a gap between zones is longer than the width, then for each event in it
// there is such a window that ends just behind the event.
func (w *Windows) clear(at []time.Duration, zones []zone) {
	first := 0
	for i := range len(zones) + 1 {
		from, to := time.Duration(-1), time.Duration(1)<<62
		if i > 0 {
			from = zones[i-1].to
		}
		if i < len(zones) {
			to = zones[i].from
		}
		for first < len(at) && at[first] <= from {
			first++
		}
		last := first
		for last < len(at) && at[last] < to {
			last++
		}
		// The first gap has no beginning and the last no end.
		if i == 0 || i == len(zones) || to-from > w.Width {
			w.Worst = worse(w.Worst, densest(at[first:last], at[first:last], w.Width))
		}
		first = last
	}
}

func worse(a, b Peak) Peak {
	if b.N > a.N {
		return b
	}
	return a
}

// densest returns the largest number of events that surely lie in one window,
// where event k happened at some time from earliest[k] to at[k]. Both lists are
// in order; with equal ones it is the highest count in a window. An event that is
// as uncertain as the window is wide counts in none.
func densest(at, earliest []time.Duration, width time.Duration) Peak {
	var p Peak
	i := 0
	for j := range at {
		for i <= j && at[j]-earliest[i] >= width {
			i++
		}
		if i <= j {
			p.raise(j-i+1, earliest[i])
		}
	}
	return p
}

// certain finds Certain: an event in a zone may have happened at any time from the zone's beginning to its stamp.
func (w *Windows) certain(at []time.Duration, zones []zone) {
	earliest := slices.Clone(at)
	z := 0
	for i, t := range at {
		for z < len(zones) && zones[z].to < t {
			z++
		}
		if z < len(zones) && zones[z].from <= t {
			earliest[i] = zones[z].from
		}
	}
	w.Certain = densest(at, earliest, w.Width)
}

// exempt finds the windows that touch a zone. Of those with a given content one
// that begins at an event, or one that ends just behind an event, touches a zone too and holds no less.
func (w *Windows) exempt(at []time.Duration, zones []zone) {
	end := 0
	for i, x := range at {
		for end < len(at) && at[end] < x+w.Width {
			end++
		}
		if touches(zones, x, x+w.Width) {
			w.Exempt++
			w.ExemptWorst.raise(end-i, x)
		}
	}
	begin := 0
	for j, t := range at {
		x := t + 1 - w.Width
		for at[begin] < x {
			begin++
		}
		if touches(zones, x, t+1) {
			w.ExemptWorst.raise(j-begin+1, at[begin])
		}
	}
}

// touches tells whether any zone has a moment of the window from x to before end.
func touches(zones []zone, x, end time.Duration) bool {
	i, _ := slices.BinarySearchFunc(zones, x, func(z zone, x time.Duration) int {
		if z.to < x {
			return -1
		}
		return 1
	})
	return i < len(zones) && zones[i].from < end
}
