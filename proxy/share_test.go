package proxy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// weighted has one pool, default, with sources 0, 1 … of the given weights.
func weighted(weights ...int) Options {
	o := DefaultOptions()
	pool := Pool{Name: DefaultPool}
	for i, w := range weights {
		name := fmt.Sprint(i)
		o.Sources = append(o.Sources, Source{Name: name})
		pool.Sources = append(pool.Sources, Member{name, w})
	}
	o.Pools = []Pool{pool}
	return o
}

// Whatever sources are usable when: among those that could be used all the time, messages
// follow the weights to within the largest batch, and nobody is picked who must not be.
func TestSharesFollowWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(1, 20), 2, 6).Draw(t, "weights")
		steady := rapid.IntRange(1, len(weights)).Draw(t, "steady") // the first so many can always be used
		most := rapid.IntRange(1, 50).Draw(t, "largest batch")
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		p, err := NewPools(weighted(weights...), Deps{Float: r.Float64})
		if err != nil {
			t.Fatal(err)
		}
		usable := make([]bool, len(weights))
		sent := make([]float64, len(weights))
		for step := range 3000 {
			for i := range usable {
				usable[i] = i < steady || step/100%2 == 0 && r.IntN(2) == 0
			}
			name, ok := p.Pick(DefaultPool, "p", time.Time{}, func(s string) bool { return usable[s[0]-'0'] })
			if !ok || !usable[name[0]-'0'] {
				t.Fatalf("picked %q, %v of %v", name, ok, usable)
			}
			n := 1 + r.IntN(most)
			p.Sent(DefaultPool, "p", name, n)
			sent[name[0]-'0'] += float64(n)
		}
		for i := range steady {
			for j := range steady {
				// Each is at most a batch and the start apart from where it should be.
				bound := float64(most+maxStart) * (1/float64(weights[i]) + 1/float64(weights[j]))
				if d := sent[i]/float64(weights[i]) - sent[j]/float64(weights[j]); math.Abs(d) > bound {
					t.Fatalf("sources %d and %d are %v apart, over %v: weights %v, sent %v", i, j, d, bound, weights, sent)
				}
			}
		}
	})
}

// Connections opened at once, before any message is told, spread as well.
func TestPicksWithoutMessagesSpread(t *testing.T) {
	p := newPools(t, weighted(3, 1), Deps{Float: func() float64 { return 0 }})
	got := map[string]int{}
	for range 400 {
		s, _ := p.Pick(DefaultPool, "p", time.Time{}, nil)
		got[s]++
	}
	if got["0"] < 296 || got["0"] > 304 {
		t.Errorf("%v", got)
	}
}

// A pick is one message paid in advance: it must not count twice.
func TestPicksAreNotChargedTwice(t *testing.T) {
	p := newPools(t, weighted(1, 1), Deps{Float: func() float64 { return 0 }})
	sent := map[string]int{}
	for i := range 2000 {
		s, _ := p.Pick(DefaultPool, "p", time.Time{}, nil)
		n := 1 + i%2*9 // the sources differ in what a connection carries
		if s == "1" {
			n = 1
		}
		p.Sent(DefaultPool, "p", s, n)
		sent[s] += n
	}
	if d := sent["0"] - sent["1"]; d > 20 || d < -20 {
		t.Errorf("%v", sent)
	}
}

// Over many sites with one message each the weights hold too.
func TestFirstPicksFollowWeights(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	p := newPools(t, weighted(3, 1), Deps{Float: r.Float64})
	got := map[string]int{}
	const sites = 40_000
	for i := range sites {
		s, _ := p.Pick(DefaultPool, fmt.Sprint(i), time.Time{}, nil)
		got[s]++
	}
	if share := float64(got["0"]) / sites; math.Abs(share-0.75) > 0.02 {
		t.Errorf("%v", got)
	}
	if n := len(p.shares.young) + len(p.shares.old); n > 2*maxShares {
		t.Errorf("%d shares are kept", n)
	}
}

func TestAbsenceIsNotMadeUpFor(t *testing.T) {
	p := newPools(t, weighted(1, 1), Deps{})
	sent := map[string]int{}
	for i := range 3000 {
		s, _ := p.Pick(DefaultPool, "p", time.Time{}, func(s string) bool { return s == "0" || i < 1000 || i >= 2000 })
		p.Sent(DefaultPool, "p", s, 1)
		if i >= 2000 {
			sent[s]++
		}
	}
	if sent["1"] < 490 || sent["1"] > 510 {
		t.Errorf("after it came back: %v", sent)
	}
}

func TestAhead(t *testing.T) {
	p := newPools(t, weighted(1, 1), Deps{Float: func() float64 { return 0 }})
	only := ""
	usable := func(s string) bool { return only == "" || s == only }
	first, _ := p.Pick(DefaultPool, "p", time.Time{}, usable)
	second, _ := p.Pick(DefaultPool, "p", time.Time{}, usable)
	if first == second || p.Ahead(DefaultPool, "p", first) {
		t.Fatal(first, second)
	}
	p.Sent(DefaultPool, "p", first, 10)
	if p.Ahead(DefaultPool, "p", first) {
		t.Error("after 10 messages already")
	}
	p.Sent(DefaultPool, "p", first, 15)
	if !p.Ahead(DefaultPool, "p", first) || p.Ahead(DefaultPool, "p", second) || p.Ahead(DefaultPool, "other", first) {
		t.Error("after 25 messages")
	}
	only = first
	if s, _ := p.Pick(DefaultPool, "p", time.Time{}, usable); s != first || p.Ahead(DefaultPool, "p", first) {
		t.Error("nobody else can be used, and it is ahead")
	}
	single := newPools(t, weighted(1), Deps{})
	single.Pick(DefaultPool, "p", time.Time{}, nil)
	single.Sent(DefaultPool, "p", "0", 1000)
	if single.Ahead(DefaultPool, "p", "0") {
		t.Error("ahead of itself")
	}
}

func TestUnpick(t *testing.T) {
	p := newPools(t, weighted(1, 1), Deps{Float: func() float64 { return 0 }})
	first, _ := p.Pick(DefaultPool, "p", time.Time{}, nil)
	for range 100 { // as if it had not been
		p.Unpick(DefaultPool, "p", first)
		if s, _ := p.Pick(DefaultPool, "p", time.Time{}, nil); s != first {
			t.Fatalf("%s before %s", s, first)
		}
	}
	if s, _ := p.Pick(DefaultPool, "p", time.Time{}, nil); s == first {
		t.Errorf("%s twice", s)
	}
}

func TestCanPick(t *testing.T) {
	p := newPools(t, parse(t, example), Deps{})
	for pool, want := range map[string]bool{"bulk": true, "news": false, "gone": false} {
		if got := p.CanPick(pool, func(s string) bool { return s == "s3" }); got != want {
			t.Errorf("%s: %v", pool, got)
		}
	}
	p.SetHealth("s3", false, "x")
	if p.CanPick("bulk", func(s string) bool { return s == "s3" }) || !p.CanPick("bulk", nil) {
		t.Error("health does not count")
	}
}

func TestFallback(t *testing.T) {
	p := newPools(t, parse(t, example), Deps{})
	down := map[string]bool{}
	pick := func() string {
		s, _ := p.Pick("bulk", "p", time.Time{}, func(s string) bool { return !down[s] })
		return s
	}
	for range 50 {
		s := pick()
		if s != "s1" && s != "s2" {
			t.Fatalf("%q while the pool itself can send", s)
		}
		p.Sent("bulk", "p", s, 1)
	}
	down["s1"] = true
	if s := pick(); s != "s2" {
		t.Errorf("%q", s)
	}
	p.SetProxyHealth("p2", false, "refused") // health counts without being asked for
	if s := pick(); s != "s3" {
		t.Errorf("%q", s)
	}
	p.Sent("bulk", "p", "s3", 5)
	down["s3"] = true
	if s, ok := p.Pick("bulk", "p", time.Time{}, func(s string) bool { return !down[s] }); ok {
		t.Errorf("%q", s)
	}
	if s, ok := p.Pick("news", "p", time.Time{}, nil); ok {
		t.Errorf("%q: news has no fallback", s)
	}
}

func BenchmarkPick(b *testing.B) {
	p, err := NewPools(weighted(1, 2, 3, 4, 5, 6, 7, 8), Deps{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		s, _ := p.Pick(DefaultPool, "p", time.Time{}, nil)
		p.Sent(DefaultPool, "p", s, 1)
	}
}
