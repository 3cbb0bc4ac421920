// Package pace lets long work of a batch rest as often as it works. A CPU that is wanted for a moment, by a request or a record, is then to
// be had within about a millisecond, whatever the Go scheduler's own slice is (10 ms).
package pace

import "time"

// stretch is how long is worked before a rest.
const stretch = time.Millisecond

// Pace is that of one piece of work, for one goroutine at a time. The zero Pace never hurries.
type Pace struct {
	hurry func() bool
	since time.Time // of working without a rest; zero before the first step
}

// New returns a pace that does not rest while hurry reports true: then there is too much to do. Nil is never.
func New(hurry func() bool) Pace { return Pace{hurry: hurry} }

// Step rests if it was worked long enough, for as long as that took. What was not work is not known here: a step after
// waiting rests too. Steps should be a small part of a millisecond apart.
func (p *Pace) Step() {
	now := time.Now()
	worked := now.Sub(p.since)
	if worked < stretch {
		return
	}
	if !p.since.IsZero() && (p.hurry == nil || !p.hurry()) {
		time.Sleep(min(worked, 2*stretch))
		now = time.Now()
	}
	p.since = now
}
