package account

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
)

// eventKey names an event by whom it is of.
type eventKey struct {
	profile uint32 // dense
	metric  uint32 // its number
	uid     uint64 // hash of the unique id
}

// uidBytes is the length of a unique id's hash. A profile has few events of a metric: of a million, two are taken for the
// same with a chance of one in 37 million.
const uidBytes = 8

// hashUID is the beginning of the SHA-256.
func hashUID(uid []byte) uint64 {
	h := sha256.Sum256(uid)
	return binary.BigEndian.Uint64(h[:])
}

// hash mixes the parts; the unique id's hash is even already.
func (k *eventKey) hash() uint64 {
	h := k.uid ^ uint64(k.profile)*0x9e3779b97f4a7c15 ^ uint64(k.metric)*0xc2b2ae3d27d4eb4f
	return h ^ h>>29
}

// append appends the key of an event's row.
func (k *eventKey) append(b []byte) []byte {
	b = appendEvents(b, k.profile)
	b = binary.AppendUvarint(b, uint64(k.metric))
	return binary.BigEndian.AppendUint64(b, k.uid)
}

// appendEvents appends what the keys of a profile's events begin with.
func appendEvents(b []byte, profile uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, prefixEvent), profile)
}

// parseEventKey reads a key.
func parseEventKey(b []byte) (k eventKey, ok bool) {
	if len(b) < 5 {
		return k, false
	}
	k.profile = binary.BigEndian.Uint32(b[1:])
	metric, n := binary.Uvarint(b[5:])
	if n <= 0 || len(b) != 5+n+uidBytes {
		return k, false
	}
	k.metric, k.uid = uint32(metric), binary.BigEndian.Uint64(b[5+n:])
	return k, true
}

// dim is a value that an event has in a dimension, by the dimension's number.
type dim struct {
	number uint32
	value  uint32 // its number; 0: it goes by its text
	text   []byte // in memory that belongs to somebody else; unset if there is a number and nobody needed it
	ref    ref
}

// eventValue is what taking an event back needs. A row without it is of a profile that was deleted:
// it only says that the event was counted.
type eventValue struct {
	at    int64 // Unix seconds
	value int64 // millionths
	dims  []dim
}

// hundredth of a unit, in millionths: nearly all values are multiples of it.
const hundredth = 10_000

// appendAmount appends hundredths, shifted by one. What is not a whole number of them, or too large to be shifted, follows a 1.
func appendAmount(b []byte, millionths int64) []byte {
	if h := millionths / hundredth; h*hundredth == millionths {
		return binary.AppendVarint(b, h<<1)
	}
	return binary.AppendVarint(binary.AppendVarint(b, 1), millionths)
}

func (p *parser) amount() int64 {
	v := p.varint()
	if v&1 == 0 {
		if h := v >> 1; h >= math.MinInt64/hundredth && h <= math.MaxInt64/hundredth {
			return h * hundredth
		}
		p.bad = true
		return 0
	}
	return p.varint()
}

func (e *eventValue) append(b []byte) []byte {
	b = binary.AppendVarint(b, e.at)
	b = appendAmount(b, e.value)
	for i := range e.dims {
		d := &e.dims[i]
		b = binary.AppendUvarint(b, uint64(d.number))
		b = binary.AppendUvarint(b, uint64(d.value))
		if d.value == 0 {
			b = appendBytes(b, d.text)
		}
	}
	return b
}

// parse reads a value. What it has lies in b.
func (e *eventValue) parse(b []byte) (ok bool) {
	p := parser{b: b}
	e.at, e.value, e.dims = p.varint(), p.amount(), e.dims[:0]
	for len(p.b) > 0 && !p.bad {
		d := dim{number: p.number(), value: p.number()}
		if d.value == 0 {
			d.text = p.bytes()
		}
		e.dims = append(e.dims, d)
	}
	return !p.bad
}

// parser takes values off the front of b. After something did not fit, bad is set and all is zero.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) uvarint() uint64 {
	if len(p.b) > 0 && p.b[0] < 0x80 && !p.bad {
		v := p.b[0]
		p.b = p.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(p.b)
	if n <= 0 || p.bad {
		p.bad = true
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *parser) varint() int64 {
	v := p.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (p *parser) byte() byte {
	if b := p.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) uint64() uint64 {
	if b := p.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// number is a uvarint of 32 bits.
func (p *parser) number() uint32 {
	v := p.uvarint()
	if v > 1<<32-1 {
		p.bad = true
		return 0
	}
	return uint32(v)
}

func (p *parser) take(n uint64) []byte {
	if p.bad || n > uint64(len(p.b)) {
		p.bad = true
		return nil
	}
	out := p.b[:n:n]
	p.b = p.b[n:]
	return out
}

func (p *parser) bytes() []byte { return p.take(p.uvarint()) }

func (p *parser) string() string { return string(p.bytes()) }

func appendBytes[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
