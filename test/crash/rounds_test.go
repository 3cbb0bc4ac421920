//go:build crash

package crash

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// rate is what the sources inject together, in copies a second.
const rate = 1000

// TestKill: SIGKILL at random moments under load.
func TestKill(t *testing.T) {
	w := newWorld(t, seeded(t), "")
	w.rounds(rounds(t), w.kill, func(int) {})
}

// TestPowerCut: the file system loses what it had not been told to keep, in
// half of the rounds with the process dead, else up to 20 ms before it dies.
func TestPowerCut(t *testing.T) {
	v := newVolume(t, 512<<20)
	w := newWorld(t, seeded(t), v.path("spool"))
	cut := func() {
		if w.r.IntN(2) == 0 {
			w.kill()
			v.shutdown()
			return
		}
		from := time.Now()
		v.shutdown()
		time.Sleep(time.Duration(w.r.IntN(20)) * time.Millisecond)
		w.kill()
		w.dark = append(w.dark, span{from, time.Now()})
	}
	w.rounds(rounds(t), cut, func(round int) {
		v.unmount()
		if round%7 == 0 {
			t.Logf("round %d: e2fsck says: %s", round, v.check())
		}
		v.mount()
	})
}

// rounds cuts the engine off under load again and again, and reconciles at the end.
func (w *world) rounds(n int, cut func(), between func(round int)) {
	w.start()
	w.startLoad(rate)
	begin := time.Now()
	var starts []time.Duration
	for round := range n {
		time.Sleep(time.Duration(200+w.r.IntN(1800)) * time.Millisecond)
		cut()
		between(round + 1)
		starts = append(starts, w.start())
	}
	acked, _, _ := w.counts()
	took := time.Since(begin)
	slices.Sort(starts)
	w.t.Logf("%d rounds in %v, %d copies acknowledged, %.0f/s with the pauses", n, took.Round(time.Millisecond), acked, float64(acked)/took.Seconds())
	w.t.Logf("process start to serving: median %v, longest %v", starts[n/2].Round(time.Millisecond), starts[n-1].Round(time.Millisecond))
	if int(acked) < 20*n {
		w.t.Errorf("only %d copies acknowledged: the rounds prove little", acked)
	}
	if damage := strings.Count(w.engine.Log(), "damaged"); damage > 0 {
		w.t.Errorf("the engine complained %d times of damage", damage)
	}
	w.settle()
}
