package fact

import (
	"encoding/binary"
	"time"
)

// Raw is a record of the first log of which only the head is read. Event, change and object become
// a Fact as they are. It may be used for one record after the other; what it has lies in the data.
type Raw struct {
	Kind   Kind
	Fresh  bool
	Tenant []byte
	At     time.Time
	Who    []RawIdentifier
	From   Origin

	has    byte
	middle []byte // time and identifiers
	rest   []byte
}

// RawIdentifier is an Identifier that lies in the data of a record.
type RawIdentifier struct {
	Kind  IdentifierKind
	Value []byte
}

// Copy is the identifier on its own.
func (r RawIdentifier) Copy() Identifier { return Identifier{r.Kind, string(r.Value)} }

// Parse reads the head of a record. What follows it is not looked at.
func (r *Raw) Parse(data []byte) error {
	p := parser{b: data}
	if p.byte() != version {
		return ErrFormat
	}
	r.Kind, r.has = Kind(p.byte()), p.byte()
	r.Fresh = r.has&isFresh != 0
	r.Tenant = p.bytes()
	var none ProfileID
	copy(none[:], p.take(16))
	from := p.at
	r.At = p.time()
	r.Who = r.Who[:0]
	for range p.count(2) {
		k := IdentifierKind(p.byte())
		if k > ByAnonymous {
			p.bad = true
		}
		r.Who = append(r.Who, RawIdentifier{k, p.bytes()})
	}
	r.middle = data[from:p.at]
	r.From = Origin{}
	if r.has&hasOrigin != 0 {
		r.From.parse(&p)
	}
	if p.bad || !none.IsZero() || r.passes() && r.has&(hasClaim|hasMerge|hasTransfer) != 0 {
		return ErrFormat
	}
	r.rest = data[p.at:]
	return nil
}

// passes reports whether the record becomes a Fact as it is.
func (r *Raw) passes() bool {
	return r.Kind == KindEvent || r.Kind == KindChange || r.Kind == KindObject
}

// AppendFact appends the Fact that an event, change or object becomes under a profile, in its binary form.
func (r *Raw) AppendFact(b []byte, profile ProfileID, from Origin) []byte {
	b = append(b, version, byte(r.Kind), r.has&(hasEvent|hasChange|hasObject)|hasOrigin)
	b = append(binary.AppendUvarint(b, uint64(len(r.Tenant))), r.Tenant...)
	b = append(b, profile[:]...)
	b = append(b, r.middle...)
	b = from.append(b)
	return append(b, r.rest...)
}

// FactLen is not less than the length of what AppendFact appends.
func (r *Raw) FactLen() int { return 3 + 10 + len(r.Tenant) + 16 + len(r.middle) + 41 + len(r.rest) }
