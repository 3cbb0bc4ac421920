package crowd

import (
	"errors"
	"math"
	"time"
)

// Burst makes the rate of a load rise again and again, as on a Black Friday.
type Burst struct {
	Factor float64       // what the rate is multiplied by; 0: no bursts
	Every  time.Duration // from the beginning of one burst to that of the next
	For    time.Duration // length of a burst; the load begins with the calm before one
}

// maxOnset is how long it takes until a burst is at its full rate, and back: people come within seconds, not at once.
const maxOnset = 5 * time.Second

// onset is the length of either flank; both lie within the burst.
func (b Burst) onset() time.Duration { return min(maxOnset, b.For/4) }

func (b Burst) validate(rate float64) error {
	switch {
	case b.Factor == 0:
		return nil
	case b.Factor < 1:
		return errors.New("crowd: a burst multiplies the rate by at least 1")
	case b.For <= 0 || b.For >= b.Every:
		return errors.New("crowd: a burst is shorter than the time from one to the next")
	case rate <= 0:
		return errors.New("crowd: bursts need a rate that they multiply")
	}
	return nil
}

// piece is a part of a burst's period in which the rate changes evenly.
type piece struct {
	begin, length float64 // seconds
	events        float64 // due at its begin, since the begin of the period
	rate, slope   float64 // at its begin, in events/s; and how it changes, in events/s²
}

// schedule tells when each event is due.
type schedule struct {
	burst  Burst
	rate   float64
	pieces []piece
	events float64 // of a period
}

func newSchedule(rate float64, b Burst) *schedule {
	s := &schedule{burst: b, rate: rate}
	if b.Factor == 0 {
		return s
	}
	on := b.onset().Seconds()
	high := rate * b.Factor
	at := 0.0
	for _, p := range []piece{
		{length: (b.Every - b.For).Seconds(), rate: rate},
		{length: on, rate: rate, slope: (high - rate) / on},
		{length: b.For.Seconds() - 2*on, rate: high},
		{length: on, rate: high, slope: (rate - high) / on},
	} {
		p.begin, p.events = at, s.events
		at += p.length
		s.events += p.length * (p.rate + p.slope*p.length/2)
		s.pieces = append(s.pieces, p)
	}
	return s
}

// due is when the n-th event is to be sent, from the beginning of the load.
func (s *schedule) due(n uint64) time.Duration {
	if len(s.pieces) == 0 {
		return seconds(float64(n) / s.rate)
	}
	periods, left := math.Modf(float64(n) / s.events)
	left *= s.events
	p := s.pieces[0]
	for _, next := range s.pieces[1:] {
		if next.events <= left {
			p = next
		}
	}
	left -= p.events
	// left = rate*t + slope*t²/2, solved for t in the form that also holds for a slope of 0
	t := 2 * left / (p.rate + math.Sqrt(max(p.rate*p.rate+2*p.slope*left, 0)))
	return time.Duration(periods)*s.burst.Every + seconds(p.begin+t)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// bursting reports whether a time from the beginning of the load lies in a burst.
func (s *schedule) bursting(at time.Duration) bool {
	return len(s.pieces) > 0 && at%s.burst.Every >= s.burst.Every-s.burst.For
}

// inBursts is how much of the time until at lies in bursts.
func (s *schedule) inBursts(at time.Duration) time.Duration {
	if len(s.pieces) == 0 {
		return 0
	}
	return at/s.burst.Every*s.burst.For + max(at%s.burst.Every-(s.burst.Every-s.burst.For), 0)
}
