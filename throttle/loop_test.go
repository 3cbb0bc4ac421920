package throttle

import (
	"math"
	"testing"
	"time"
)

func TestClosedLoop(t *testing.T) {
	loop := Loop{High: .2, Low: .05, Decrease: .5, Increase: .1, Floor: .1, Window: time.Minute, Least: 20}
	for _, c := range []struct {
		name    string
		samples []Sample // one a minute
		want    []float64
	}{
		{"all is well", []Sample{{100, 0}, {100, 4}}, []float64{1, 1}},
		{"halves and rises", []Sample{{50, 50}, {100, 0}, {100, 0}}, []float64{.5, .6, .7}},
		{"between low and high nothing changes", []Sample{{50, 50}, {85, 15}, {80, 20}}, []float64{.5, .5, .5}},
		{"floor", []Sample{{0, 30}, {0, 30}, {0, 30}, {0, 30}, {0, 30}}, []float64{.5, .25, .125, .1, .1}},
		{"never above all", []Sample{{0, 30}, {99, 0}, {99, 0}, {99, 0}, {99, 0}, {99, 0}, {99, 0}}, []float64{.5, .6, .7, .8, .9, 1, 1}},
		{"too few to judge by", []Sample{{0, 9}, {0, 9}, {0, 9}}, []float64{1, 1, .5}},
		{"nonsense", []Sample{{-5, 50}, {50, -5}}, []float64{1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := ready(t, DefaultOptions(), "a", "b")
			l := Limits{MessageRate: perSecond(100), Loop: loop}
			w.want("a", Send, 1e6, l)
			w.want("b", Send, 1e6, l)
			w.a.Observe("a", testKey, Sample{}, w.now)
			before, seq := 1.0, uint64(0)
			for i, s := range c.samples {
				w.advance(loop.Window)
				w.a.Observe("a", testKey, s, w.now)
				changes := 0
				for _, o := range w.collect(10 * ms) {
					if ch := o.Change; ch != nil {
						changes++
						if math.Abs(ch.Factor-c.want[i]) > 1e-9 || ch.Reason == "" || ch.Seq != seq+1 {
							t.Errorf("minute %d: %+v, want factor %v, seq %d", i, ch, c.want[i], seq+1)
						}
					}
				}
				switch {
				case c.want[i] == before && changes != 0:
					t.Errorf("minute %d: told a change", i)
				case c.want[i] != before && changes != 2:
					t.Errorf("minute %d: %d clients were told", i, changes)
				case changes > 0:
					seq++
				}
				before = c.want[i]
				if f := w.status().Factor; math.Abs(f-c.want[i]) > 1e-9 {
					t.Errorf("minute %d: factor %v, want %v", i, f, c.want[i])
				}
			}
			if n, want := grantedOf(w.collect(10*time.Second), "", Send), 980*before; math.Abs(float64(n)-want) > 2 {
				t.Errorf("%d permits in 10 s with factor %v", n, before)
			}
		})
	}
}

func TestLoopIsPutInForceWithLimits(t *testing.T) {
	loop := Loop{High: .2, Low: .05, Decrease: .5, Increase: .1, Floor: .1, Window: time.Minute, Least: 1}
	w := ready(t, DefaultOptions(), "a", "b")
	l := Limits{MessageRate: perSecond(100), Loop: loop}
	w.want("a", Send, 10, l)
	w.a.Observe("a", testKey, Sample{}, w.now)
	w.advance(time.Minute)
	w.a.Observe("a", testKey, Sample{Deferred: 9}, w.now)
	w.advance(10 * ms)
	w.want("b", Send, 1, l)
	told := 0
	for _, o := range w.collect(10 * ms) {
		if o.Change != nil && o.Client == "b" && o.Change.Factor == .5 && o.Change.Reason == "" && o.Change.Seq == 1 {
			told++
		}
	}
	if told != 1 {
		t.Error("a client that came later does not know the rate in force")
	}
	w.advance(10 * time.Minute)
	if f := w.status().Factor; f != .5 {
		t.Errorf("factor %v after ten idle minutes", f)
	}
	w.a.Observe("a", testKey, Sample{Deferred: 9}, w.now)
	if f := w.status().Factor; f != .5 {
		t.Errorf("factor %v: what was ten minutes ago counts", f)
	}
	l.Loop.Floor = .8
	w.want("a", Send, 1, l)
	w.want("b", Send, 1, l)
	if f := w.status().Factor; f != .8 {
		t.Errorf("factor %v under the new floor", f)
	}
	l.Loop = Loop{}
	w.want("a", Send, 1, l)
	w.want("b", Send, 1, l)
	if f := w.status().Factor; f != 1 {
		t.Errorf("factor %v without a loop", f)
	}
}
