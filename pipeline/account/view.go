package account

import (
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// view is what this stage needs of a fact that is an event. It lies in the record's data, and nothing behind the
// dimensions is looked at: reading all of it, as fact.Fact does, costs as much as counting it. The format is in docs/formats/pipeline.md.
type view struct {
	tenant        []byte
	profile       fact.ProfileID
	at            int64 // accepted, Unix milliseconds
	from          fact.Origin
	metric        fact.MetricID
	service, name []byte
	time          int64 // Unix seconds
	value         int64 // millionths
	uid           []byte
	dims          []viewDim
}

type viewDim struct{ name, value []byte }

// Of the format of a fact.
const (
	factVersion   = 1
	factEvent     = 1 << 0 // there is one
	factOrigin    = 1 << 6 // likewise
	factForeign   = 1<<2 | 1<<7
	factHeadBytes = 3
)

// parseEvent reads an event. It returns false for what is another kind of fact, which must be a valid one.
func (v *view) parseEvent(data []byte) (bool, error) {
	if len(data) < factHeadBytes || data[0] != factVersion {
		return false, fact.ErrFormat
	}
	has := data[2]
	if fact.Kind(data[1]) != fact.KindEvent || has&factEvent == 0 {
		return false, nil
	}
	p := parser{b: data[factHeadBytes:], bad: has&factForeign != 0}
	v.tenant = p.bytes()
	copy(v.profile[:], p.take(uint64(len(v.profile))))
	v.at = p.millis()
	for n := p.uvarint(); n > 0 && !p.bad; n-- {
		p.take(1)
		p.bytes()
	}
	v.from = fact.Origin{}
	if has&factOrigin != 0 {
		v.origin(&p)
	}
	v.event(&p)
	if p.bad {
		return false, fact.ErrFormat
	}
	return true, nil
}

func (v *view) origin(p *parser) {
	v.from.Stage = fact.Stage(p.byte())
	v.from.Partition, v.from.Offset = int32(p.uvarint()), int64(p.uvarint())
	v.from.N, v.from.Generation = int32(p.uvarint()), int64(p.uvarint())
	p.bad = p.bad || v.from.N <= 0 || v.from.Partition < 0 || v.from.Offset < 0
}

func (v *view) event(p *parser) {
	v.metric = fact.MetricID(p.uint64())
	p.take(1)
	v.time = floorDiv(p.millis(), 1000)
	v.value = p.varint()
	v.service, v.name, v.uid = p.bytes(), p.bytes(), p.bytes()
	p.bytes() // currency
	v.dims = v.dims[:0]
	for n := p.uvarint(); n > 0 && !p.bad; n-- {
		v.dims = append(v.dims, viewDim{p.bytes(), p.bytes()})
	}
}

// millis reads a time as Unix milliseconds.
func (p *parser) millis() int64 {
	switch ms := p.varint(); {
	case ms == 0:
		return time.Time{}.UnixMilli()
	case ms > 0:
		return ms - 1
	default:
		return ms
	}
}
