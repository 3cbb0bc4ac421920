package grant

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// writeSize is about how much goes into one write.
const writeSize = 64 << 10

// line is what both ends of a link have in common: heartbeats, the lease that they
// are, one goroutine that writes and one that reads.
type line struct {
	conn net.Conn
	now  func() time.Duration // own clock
	in   *reader

	wake chan struct{} // something waits to be written
	done chan struct{} // closed at the end

	echo   atomic.Int64 // newest own clock that came back
	seen   atomic.Int64 // newest clock of the other side
	seenAt atomic.Int64 // own clock when that arrived
	trip   atomic.Int64 // round trip as of the newest beat

	proven bool // a beat came; of the reading goroutine

	watch *time.Timer

	mu    sync.Mutex
	cause error
}

func newLine(conn net.Conn, now func() time.Duration) *line {
	return &line{conn: conn, now: now, in: newReader(conn), wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// begin sets out from a handshake: echo is our clock that came back in it, or the
// one whose echo must now come; seen is theirs.
func (l *line) begin(echo, seen int64) {
	l.echo.Store(echo)
	l.seen.Store(seen)
	l.seenAt.Store(int64(l.now()))
}

// age is the age of the newest echo.
func (l *line) age() time.Duration { return l.now() - time.Duration(l.echo.Load()) }

func (l *line) stale() bool { return l.age() >= Lease }

// guard ends the link when the lease runs out, whatever the reader and the writer wait for.
func (l *line) guard() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watch = time.AfterFunc(max(Lease-l.age(), 0), func() {
		age := l.age()
		if age >= Lease {
			l.end(ErrLost)
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.cause == nil {
			l.watch.Reset(Lease - age)
		}
	})
}

// end closes the link; the first cause counts.
func (l *line) end(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return
	}
	l.cause = cause
	if l.watch != nil {
		l.watch.Stop()
	}
	close(l.done)
	// A tls.Conn would wait seconds to say goodbye to a peer that does not read.
	if c, ok := l.conn.(interface{ NetConn() net.Conn }); ok {
		c.NetConn().Close()
	}
	l.conn.Close()
}

func (l *line) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// err is why the link ended, nil before.
func (l *line) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// kick makes the writer look.
func (l *line) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// write runs until the end. take appends what waits, at least in part, and
// tells whether there is more. One write holds all that waits up to writeSize, behind a
// Beat with the time at which it leaves. Go's TCP connections do not delay
// small writes (TCP_NODELAY is set).
func (l *line) write(take func([]byte) (b []byte, more bool)) {
	tick := time.NewTicker(BeatEvery)
	defer tick.Stop()
	var b []byte
	for {
		due := false
		select {
		case <-l.done:
			return
		case <-l.wake:
		case <-tick.C:
			due = true
		}
		for more := true; more; due = false {
			b = appendBeat(b[:0], l.nextBeat())
			empty := len(b)
			if b, more = take(b); len(b) == empty && !due {
				break
			}
			// Looked at last: a process that was paused must not go on as if it had not been.
			if l.stale() {
				l.end(ErrLost)
				return
			}
			if _, err := l.conn.Write(b); err != nil {
				l.end(err)
				return
			}
		}
		if cap(b) > 4*writeSize {
			b = nil
		}
	}
}

// nextBeat is the heartbeat of now. The reader may take another one in the middle of it.
func (l *line) nextBeat() beat {
	seen, at := l.seen.Load(), l.seenAt.Load()
	now := int64(l.now())
	return beat{clock: now, echo: seen, held: max(now-at, 0)}
}

// read runs until the end. Of all that one read brought the beats come first: sample sees
// each with its time of arrival; then batch is called, then frame for each other frame.
func (l *line) read(sample func(clock, now time.Duration), batch func() error, frame func(frameType, []byte) error) {
	for {
		if err := l.readOnce(sample, batch, frame); err != nil {
			l.end(err)
			return
		}
		if err := l.in.fill(); err != nil {
			l.end(err)
			return
		}
	}
}

func (l *line) readOnce(sample func(clock, now time.Duration), batch func() error, frame func(frameType, []byte) error) error {
	now := l.now()
	err := l.in.beats(func(b beat) error {
		if err := l.beat(b, now); err != nil {
			return err
		}
		sample(time.Duration(b.clock), now)
		return nil
	})
	if err != nil {
		return err
	}
	if err := batch(); err != nil {
		return err
	}
	for {
		t, p, ok, err := l.in.next()
		if err != nil || !ok {
			return err
		}
		if t == frameBeat {
			continue
		}
		if l.ended() || l.stale() { // while an earlier frame was dealt with
			return ErrLost
		}
		if err := frame(t, p); err != nil {
			return err
		}
	}
}

// beat takes what the other side says of the clocks. Neither of them runs backwards.
func (l *line) beat(b beat, now time.Duration) error {
	if b.clock < l.seen.Load() || b.echo < l.echo.Load() || b.echo > int64(now) || b.held < 0 {
		return fmt.Errorf("%w: clocks %+v after %d, %d at %d", errFrame, b, l.seen.Load(), l.echo.Load(), now)
	}
	l.seen.Store(b.clock)
	l.seenAt.Store(int64(now))
	l.echo.Store(b.echo)
	l.proven = true
	l.trip.Store(max(int64(now)-b.echo-b.held, 0))
	return nil
}
