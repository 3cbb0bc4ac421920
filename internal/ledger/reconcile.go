package ledger

import (
	"slices"
	"strings"
	"time"
)

// Altered is a copy that arrived with another body than was sent.
type Altered struct {
	Ack      Ack      `json:"ack"`
	Delivery Delivery `json:"delivery"`
}

// Duplicate is a copy that was delivered more often than it was acknowledged.
type Duplicate struct {
	Key       string  `json:"key"`
	Recipient string  `json:"recipient"`
	Times     []Nanos `json:"times"` // of all its deliveries, in order
}

// Report is what a comparison found.
type Report struct {
	Acked      int         `json:"acked"`     // copies that the source has an acknowledgement for
	Delivered  int         `json:"delivered"` // of these, how many arrived at least once
	Deliveries int         `json:"deliveries"`
	Missing    []Ack       `json:"missing"`    // acknowledged, never arrived
	Settled    []Ack       `json:"settled"`    // taken out of Missing by Settle: they came to another known end
	Altered    []Altered   `json:"altered"`    // arrived with another body
	Duplicates []Duplicate `json:"duplicates"` // arrived more often than acknowledged
	Unknown    []Delivery  `json:"unknown"`    // arrived, though the source never got its acknowledgement
}

type copyKey struct{ key, recipient string }

type copyBooks struct {
	acks  []*Ack
	times []Nanos
}

// Reconcile compares the source's acknowledgements with the simulator's
// deliveries. Copies are matched by key (see MatchKey) and recipient; bodies
// are compared where both sides have a sum. An unknown delivery is no fault of
// the engine's: the connection broke between its promise and the source.
func Reconcile(source []Ack, sink []Delivery) *Report {
	r := &Report{Acked: len(source), Deliveries: len(sink)}
	books := make(map[copyKey]*copyBooks, len(source))
	for i := range source {
		k := keyOf(source[i].Key, source[i].Recipient)
		b := books[k]
		if b == nil {
			b = &copyBooks{}
			books[k] = b
		}
		b.acks = append(b.acks, &source[i])
	}
	for i := range sink {
		b := books[keyOf(sink[i].Key, sink[i].Recipient)]
		if b == nil {
			r.Unknown = append(r.Unknown, sink[i])
			continue
		}
		b.times = append(b.times, sink[i].At)
		if a := b.acks[0]; !a.Sum.IsZero() && !sink[i].Sum.IsZero() && a.Sum != sink[i].Sum {
			r.Altered = append(r.Altered, Altered{Ack: *a, Delivery: sink[i]})
		}
	}
	r.judge(source, books)
	return r
}

func keyOf(key, recipient string) copyKey {
	return copyKey{MatchKey(key), strings.ToLower(recipient)}
}

// judge walks the copies in the source's order, so that reports are stable.
func (r *Report) judge(source []Ack, books map[copyKey]*copyBooks) {
	for i := range source {
		b := books[keyOf(source[i].Key, source[i].Recipient)]
		if b.acks[0] != &source[i] {
			continue // judged with the first ack of the same copy
		}
		got, owed := len(b.times), len(b.acks)
		r.Delivered += min(got, owed)
		for j := got; j < owed; j++ {
			r.Missing = append(r.Missing, *b.acks[j])
		}
		if got > owed {
			slices.Sort(b.times)
			r.Duplicates = append(r.Duplicates, Duplicate{Key: source[i].Key, Recipient: source[i].Recipient, Times: b.times})
		}
	}
}

// Settle moves copies from Missing to Settled that known says came to another
// end: bounced, expired, or still in a queue.
func (r *Report) Settle(known func(Ack) bool) {
	r.Missing = slices.DeleteFunc(r.Missing, func(a Ack) bool {
		if !known(a) {
			return false
		}
		r.Settled = append(r.Settled, a)
		return true
	})
}

// OK reports whether everything acknowledged arrived (or is settled) unaltered. Duplicates are judged by Late.
func (r *Report) OK() bool { return len(r.Missing) == 0 && len(r.Altered) == 0 }

// Surplus is the number of deliveries beyond what was acknowledged.
func (r *Report) Surplus() int { return r.Deliveries - r.Delivered - len(r.Unknown) }

// Late returns the duplicates that a power cut does not excuse. An engine that
// groups its completions may repeat what it delivered shortly before a cut: so
// of a copy's deliveries each but the last must lie within the given time
// before one of the cuts. A cut is the instant at which the process was dead:
// what it still delivered while dying lies before it.
func (r *Report) Late(cuts []time.Time, within time.Duration) []Duplicate {
	var late []Duplicate
	for _, d := range r.Duplicates {
		for _, at := range d.Times[:len(d.Times)-1] {
			if !excused(at.Time(), cuts, within) {
				late = append(late, d)
				break
			}
		}
	}
	return late
}

func excused(at time.Time, cuts []time.Time, within time.Duration) bool {
	for _, cut := range cuts {
		if before := cut.Sub(at); before >= 0 && before <= within {
			return true
		}
	}
	return false
}
