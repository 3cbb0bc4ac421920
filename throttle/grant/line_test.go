package grant

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A process that was stopped must not send, on waking, what it had decided before.
func TestStaleLineWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		start, jump := time.Now(), time.Duration(0)
		l := newLine(near, func() time.Duration { return time.Since(start) + jump })
		l.begin(0, 0)
		jump = Lease // no timer has run yet
		got := make(chan int)
		go func() {
			b, _ := io.ReadAll(far)
			got <- len(b)
		}()
		l.kick()
		l.write(func(b []byte) ([]byte, bool) { return appendRefused(b, 1), false })
		if n := <-got; n != 0 || l.err() != ErrLost {
			t.Errorf("%d bytes written, ended with %v", n, l.err())
		}
	})
}

// Nor must it take for good what arrived while it was stopped.
func TestStaleLineTakesNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		jump  time.Duration // of the clock while the frames were on their way
		pause time.Duration // while the first frame is dealt with
		want  int
	}{{"in time", 0, 0, 3}, {"stopped before", Lease, 0, 0}, {"stopped meanwhile", 0, Lease, 1}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				start := time.Now()
				l := newLine(near, func() time.Duration { return time.Since(start) + c.jump })
				l.begin(0, 0)
				if c.jump == 0 {
					l.guard()
				}
				go func() {
					_, _ = far.Write(appendRefused(appendRefused(appendRefused(nil, 1), 2), 3))
					far.Close()
				}()
				n := 0
				l.read(func(_, _ time.Duration) {}, func() error { return nil }, func(frameType, []byte) error {
					n++
					time.Sleep(c.pause)
					return nil
				})
				if n != c.want {
					t.Errorf("%d frames were taken, want %d", n, c.want)
				}
			})
		})
	}
}

// A heartbeat that arrives while one is made must not make that one malformed.
func TestBeatsThatCross(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	other := newLine(far, func() time.Duration { return 1000 })
	other.begin(10, 100)
	var l *line
	l = newLine(near, func() time.Duration {
		l.seen.Store(20)
		l.seenAt.Store(300)
		return 200
	})
	l.begin(100, 10)
	l.seen.Store(10)
	if b := l.nextBeat(); other.beat(b, 1000) != nil {
		t.Errorf("%+v is malformed", b)
	}
	l.seenAt.Store(250)
	if b := l.nextBeat(); other.beat(b, 1000) != nil {
		t.Errorf("%+v is malformed", b)
	}
}
