package customer

import (
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// aheadMost is how many records are read before the first of them is applied.
const aheadMost = 1024

// lookahead has records that come next, and the keys that they will ask the state for.
type lookahead struct {
	facts []fact.Fact
	rooms []fact.Room // of the facts
	errs  []error
	slab  []byte   // the keys
	ends  []int    // of each in slab
	keys  [][]byte // the keys again, for Tx.Look
}

// lookAhead reads records and has the state look for what they will need: heads of profiles that are not known, and rows of
// events, which mostly are not there. It changes nothing, so it does not matter if a record then needs something else.
func (p *processor) lookAhead(recs []stream.Record) error {
	a := &p.ahead
	if n := len(recs); len(a.facts) < n {
		a.facts, a.rooms, a.errs = make([]fact.Fact, n), make([]fact.Room, n), make([]error, n)
	}
	a.slab, a.ends = a.slab[:0], a.ends[:0]
	for i := range recs {
		f := &a.facts[i]
		if a.errs[i] = f.ParseInto(recs[i].Data, &a.rooms[i]); a.errs[i] == nil && (f.Kind == fact.KindEvent || f.Kind == fact.KindChange) {
			p.expectKeys(f)
		}
	}
	a.keys = a.keys[:0]
	begin := 0
	for _, end := range a.ends {
		a.keys = append(a.keys, a.slab[begin:end])
		begin = end
	}
	return p.st.tx.Look(a.keys)
}

// expectKeys notes the keys that a fact will ask for.
func (p *processor) expectKeys(f *fact.Fact) {
	a := &p.ahead
	w := whoOf(p.tenant(f.Tenant), f.Profile)
	s := p.known.find(w)
	if _, changed := p.touched[w]; !changed && s == nil {
		a.slab = append(append(a.slab, prefixHead), w[:]...)
		a.ends = append(a.ends, len(a.slab))
	}
	if f.Event != nil {
		if s != nil && p.filter.Covers(s.since) && !p.filter.Has(eventHash(p.eventKey(w, f.Event))) {
			return
		}
		a.slab = append(a.slab, p.eventKey(w, f.Event)...)
		a.ends = append(a.ends, len(a.slab))
	}
}
