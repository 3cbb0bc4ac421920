// Package watch is the record of what a provider saw of each sending address,
// and the judge of whether that kept to a limit.
//
// A provider simulator owns a Writer and tells it of every connection, close
// and MAIL command; the Writer stamps them on one monotonic clock under one
// lock, so the order of the file is the order of the stamps. Its own heartbeat
// goes through the same lock: where the heartbeat came late, the simulator
// stood still, and what it stamps afterwards may have arrived earlier.
//
// Read gives a Record back and Analyse holds it against a Query: the worst
// count in any sliding second and ten seconds, connections at a time, use.
// docs/formats/watch.md describes the file.
package watch

import (
	"fmt"
	"net/netip"
	"time"
)

// Verdict is how the provider took a connection or a MAIL command.
type Verdict uint8

// The verdicts. Whatever it is, the thing happened and counts.
const (
	Accepted Verdict = iota
	Limited          // above a limit of the provider
	Blocked          // the address is on the provider's block list
	Refused          // for another reason
	verdicts
)

// String is the lower case name.
func (v Verdict) String() string {
	names := [verdicts]string{"accepted", "limited", "blocked", "refused"}
	if v >= verdicts {
		return fmt.Sprintf("verdict %d", v)
	}
	return names[v]
}

// Record is what a file holds. All durations are times since Start.
type Record struct {
	Start     time.Time
	Period    time.Duration // of the heartbeat
	Sources   []netip.Addr
	Providers []string
	Conns     []Conn // in the order of opening
	Mails     []Mail // in order
	Beats     []Beat // those that were written down, in order
	Marks     []Mark
	End       time.Duration // of the last entry
	Complete  bool          // the writer was closed; false: it was ended, or the file is still being written
}

// Conn is one connection. Source and Provider index the Record's lists.
type Conn struct {
	Source, Provider int
	Port             uint16 // of the peer
	Verdict          Verdict
	Open, Close      time.Duration
	Closed           bool // false: still open where the record ends
	opened, closed   int  // places in the file, which order even what has equal stamps
}

// Mail is one MAIL command. Conn indexes Record.Conns.
type Mail struct {
	At      time.Duration
	Conn    int
	Verdict Verdict
}

// Beat is a heartbeat that is on record: one a second, and each that came late.
type Beat struct {
	At  time.Duration
	Gap time.Duration // since the heartbeat before it, on record or not
}

// Mark is a note of whoever runs the test.
type Mark struct {
	At   time.Duration
	Text string
}

// Since is the place of t on the record's clock.
func (r *Record) Since(t time.Time) time.Duration { return t.Sub(r.Start) }

// Span is the time from From to before To, since the start of a record.
type Span struct {
	From time.Duration `json:"from_ns"`
	To   time.Duration `json:"to_ns"`
}

// Length of the span.
func (s Span) Length() time.Duration { return s.To - s.From }

// Stalls are the times in which the heartbeat stood still for longer than its
// period and least: from the last beat before to the late one.
func (r *Record) Stalls(least time.Duration) []Span {
	var out []Span
	for _, b := range r.Beats {
		if b.Gap-r.Period > least {
			out = append(out, Span{b.At - b.Gap, b.At})
		}
	}
	return out
}

// Blind are the times for which no heartbeat is on record though one should
// be: there the record cannot tell whether the writer stood still.
func (r *Record) Blind() []Span {
	var out []Span
	last := time.Duration(0)
	for _, b := range r.Beats {
		if b.At-b.Gap-last > beatEvery+lateBeat+r.Period {
			out = append(out, Span{last, b.At - b.Gap})
		}
		last = b.At
	}
	if r.End-last > beatEvery+lateBeat+r.Period {
		out = append(out, Span{last, r.End})
	}
	return out
}
