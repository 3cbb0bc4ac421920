package pace

import (
	"testing"
	"testing/synctest"
	"time"
)

// rested is how long a number of steps rested that were an interval apart.
func rested(p *Pace, steps int, apart time.Duration) time.Duration {
	var total time.Duration
	for range steps {
		time.Sleep(apart) // work, in a bubble
		before := time.Now()
		p.Step()
		total += time.Since(before)
	}
	return total
}

func TestRestsAsLongAsItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		p.Step()
		if got := rested(&p, 100, 100*time.Microsecond); got != 10*time.Millisecond {
			t.Errorf("10 ms of work rested %v", got)
		}
	})
}

func TestHurries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hurry := true
		p := New(func() bool { return hurry })
		p.Step()
		if got := rested(&p, 100, 100*time.Microsecond); got != 0 {
			t.Errorf("rested %v in a hurry", got)
		}
		hurry = false
		if got := rested(&p, 100, 100*time.Microsecond); got < 9*time.Millisecond {
			t.Errorf("10 ms of work after a hurry rested %v", got)
		}
	})
}

// A step after a long time of waiting rests only briefly: it was not all work.
func TestRestIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pace
		if got := rested(&p, 1, time.Hour); got != 0 {
			t.Errorf("the first step rested %v", got)
		}
		if got := rested(&p, 1, time.Hour); got != 2*stretch {
			t.Errorf("rested %v after an hour", got)
		}
	})
}
