package desk

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Flows that always wait are served by their weights, however many wait in each.
func TestFairShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q fairQueue
		weights := rapid.SliceOfN(rapid.IntRange(1, 5), 1, 6).Draw(t, "weights")
		depth := rapid.SliceOfN(rapid.IntRange(1, 20), len(weights), len(weights)).Draw(t, "depth")
		push := func(i int) {
			q.push(&waiter{who: Asker{Flow: fmt.Sprint(i), Flows: weights[i]}, since: time.Time{}}, false)
		}
		total := 0
		for i := range weights {
			total += weights[i]
			for range depth[i] {
				push(i)
			}
		}
		served := make([]int, len(weights))
		const rounds = 50
		for range rounds * total {
			var i int
			w := q.pop()
			fmt.Sscan(w.who.Flow, &i)
			served[i]++
			push(i)
		}
		for i := range weights {
			if diff := math.Abs(float64(served[i] - rounds*weights[i])); diff > float64(weights[i])+1 {
				t.Fatalf("flow %d of weights %v was served %d times of %d", i, weights, served[i], rounds*total)
			}
		}
	})
}

// The queue against lists: who is there, which priority goes first, order inside a flow.
func TestFairQueueModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q fairQueue
		type place struct {
			w    *waiter
			head bool
		}
		var model []place
		without := func(w *waiter) {
			for i := range model {
				if model[i].w == w {
					model = append(model[:i:i], model[i+1:]...)
					return
				}
			}
			t.Fatal("served one that does not wait")
		}
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				w := &waiter{who: Asker{
					Flow:     rapid.StringMatching("[a-e]").Draw(t, "flow"),
					Flows:    rapid.IntRange(0, 3).Draw(t, "flows"),
					Priority: mail.Priority(rapid.IntRange(0, 2).Draw(t, "priority")),
				}}
				head := rapid.IntRange(0, 5).Draw(t, "head") == 0
				q.push(w, head)
				model = append(model, place{w, head})
			},
			"remove": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip()
				}
				w := model[rapid.IntRange(0, len(model)-1).Draw(t, "which")].w
				q.remove(w)
				q.remove(w)
				without(w)
			},
			"pop": func(t *rapid.T) {
				w := q.pop()
				if w == nil {
					if len(model) > 0 {
						t.Fatal("nobody served")
					}
					return
				}
				head := false
				for _, p := range model {
					if p.w == w {
						head = p.head
					}
				}
				for _, p := range model {
					if p.w.who.Priority > w.who.Priority {
						t.Fatal("a lower priority was served")
					}
					if p.w.who.Priority < w.who.Priority || p.w == w {
						continue
					}
					if p.head && (!head || p.w.seq < w.seq) || !p.head && !head && p.w.who.Flow == w.who.Flow && p.w.seq < w.seq {
						t.Fatal("one that came before was not served")
					}
				}
				without(w)
			},
			"": func(t *rapid.T) {
				top, weight, flows := mail.Priority(0), 0, map[string]bool{}
				for _, p := range model {
					top = max(top, p.w.who.Priority)
					if p.head {
						weight++
					} else if id := fmt.Sprint(p.w.who.Flow, p.w.who.Priority); !flows[id] {
						flows[id] = true
						weight += p.w.flow.weight
					}
				}
				n := 0
				q.each(func(*waiter) { n++ })
				if q.n != len(model) || n != q.n || q.top() != top || q.weight != weight {
					t.Fatalf("n %d of %d, top %v of %v, weight %d of %d", q.n, len(model), q.top(), top, q.weight, weight)
				}
			},
		})
	})
}

func BenchmarkFair100k(b *testing.B) {
	var q fairQueue
	for i := range 100_000 {
		q.push(&waiter{who: Asker{Flow: fmt.Sprint(i)}}, false)
	}
	b.ReportAllocs()
	for b.Loop() {
		q.push(q.pop(), false)
	}
}
