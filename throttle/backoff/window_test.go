package backoff_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle/backoff"
)

// TestWindowsAgainstModel: random replies of several sources, against counting all of them anew each time.
func TestWindowsAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		threshold := rapid.IntRange(1, 5).Draw(rt, "threshold")
		window := time.Duration(rapid.IntRange(1, 20).Draw(rt, "window")) * time.Second
		text := strings.Replace(testRules, "threshold = 3\nwindow = \"10m\"\nfor = \"1h\"",
			fmt.Sprintf("threshold = %d\nwindow = %q\nfor = \"10s\"", threshold, units.Duration(window)), 1)
		orders := backoff.NewOrders()
		e, err := backoff.New(backoff.DefaultOptions(), backoff.Deps{Rules: testSet(t, text), Orders: orders})
		if err != nil {
			rt.Fatal(err)
		}
		seen := map[string][]time.Time{} // since the last trigger
		until := map[string]time.Time{}
		now := start
		for range rapid.IntRange(1, 60).Draw(rt, "replies") {
			now = now.Add(time.Duration(rapid.IntRange(0, 4).Draw(rt, "pause")) * time.Second)
			source := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "source")
			a := attempt("suspend me")
			a.Source = source
			got := e.Feed(now, a)

			seen[source] = append(seen[source], now)
			n := 0
			for _, at := range seen[source] {
				if now.Sub(at) < window {
					n++
				}
			}
			triggered := n >= threshold
			if triggered {
				seen[source] = nil
			}
			wants := triggered && now.Add(10*time.Second).Sub(until[source]) >= time.Second
			if wants {
				until[source] = now.Add(10 * time.Second)
			}
			if (len(got) == 1) != wants {
				rt.Fatalf("at %s from %s: %v, want an order: %v", now.Sub(start), source, got, wants)
			}
			o, blocked := orders.Blocked(source, "p", "mx", now)
			if blocked != now.Before(until[source]) || blocked && !o.Until.Equal(until[source]) {
				rt.Fatalf("at %s: %s blocked %v until %s, want until %s", now.Sub(start), source, blocked, o.Until, until[source])
			}
		}
	})
}
