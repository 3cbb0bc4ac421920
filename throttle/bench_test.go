package throttle

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkGrant is the cost of a permit at 1,000 a second for each of three sources, with
// three clients that say their wants again after every grant, coalesced as by a Keeper.
func BenchmarkGrant(b *testing.B) {
	w := ready(b, DefaultOptions(), "a", "b", "c")
	l := Limits{MessageRate: perSecond(1000), Connections: 100}
	want := func(client string, k Key) {
		w.a.Want(client, Want{Key: k, Kind: Send, N: 50, Limits: l, Flows: 3}, w.now)
	}
	for i := range 3 {
		for _, c := range []string{"a", "b", "c"} {
			want(c, Key{Source: fmt.Sprintf("s%d", i), Provider: "google"})
		}
	}
	granted := 0
	b.ReportAllocs()
	for granted < b.N {
		w.now = max(w.a.Next(), w.now+coalesce)
		out, _ := w.a.Tick(w.now)
		for _, o := range out {
			if o.Grant != nil {
				granted += o.Grant.N
				want(o.Client, o.Grant.Key)
			}
		}
	}
}

// BenchmarkManyKeys is the cost of a permit when 100,000 keys wait, each for a permit every half minute.
func BenchmarkManyKeys(b *testing.B) {
	w := ready(b, DefaultOptions(), "a", "b")
	l := Limits{MessageRate: perSecond(1000), Connections: 10}
	l.MessageRate.Per = 30_000 * time.Second
	want := func(k Key) { w.a.Want("a", Want{Key: k, Kind: Send, N: 3, Limits: l}, w.now) }
	for i := range 100_000 {
		w.now += 300 * time.Microsecond
		want(Key{Source: "s1", Site: fmt.Sprintf("mx%d.example", i)})
		w.a.Tick(w.now)
	}
	granted := 0
	b.ReportAllocs()
	b.ResetTimer()
	for granted < b.N {
		w.now = max(w.a.Next(), w.now+coalesce)
		out, _ := w.a.Tick(w.now)
		for _, o := range out {
			if o.Grant != nil {
				granted += o.Grant.N
				want(o.Grant.Key)
			}
		}
	}
}

// BenchmarkAbsent is the cost of a change of contact with 100,000 keys: grants wait for it.
func BenchmarkAbsent(b *testing.B) {
	w := ready(b, DefaultOptions(), "a", "b")
	l := Limits{MessageRate: perSecond(1), Connections: 10}
	for i := range 100_000 {
		w.a.Want("a", Want{Key: Key{Source: "s1", Site: fmt.Sprintf("mx%d.example", i)}, Kind: Send, N: 3, Limits: l}, w.now)
	}
	w.a.Tick(w.now)
	b.ResetTimer()
	for i := range b.N {
		w.now += ms
		w.a.SetAbsent(1+i%2, 3, w.now)
	}
}
