package fact

import (
	"encoding/binary"
	"time"
)

func flag(on bool) byte {
	if on {
		return 1
	}
	return 0
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendBytes(b, s []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendIdentifier(b []byte, id Identifier) []byte {
	return appendString(append(b, byte(id.Kind)), id.Value)
}

// appendTime writes milliseconds, counted so that 0 is left for the zero time.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	ms := t.UnixMilli()
	if ms >= 0 {
		ms++
	}
	return binary.AppendVarint(b, ms)
}

// parser takes values off a record. After something did not fit, bad is set and all is zero.
type parser struct {
	b   []byte
	s   string // b, if strings share their memory
	at  int
	bad bool
}

// maxShared is the longest record that is copied whole for its strings: one allocation instead of one for each.
const maxShared = 2 << 10

func newParser(data []byte) parser {
	p := parser{b: data}
	if len(data) <= maxShared {
		p.s = string(data)
	}
	return p
}

// end reports whether all was there and nothing is left.
func (p *parser) end() error {
	if p.bad || p.at != len(p.b) {
		return ErrFormat
	}
	return nil
}

// skip moves over n bytes and reports where they begin.
func (p *parser) skip(n uint64) (from int, ok bool) {
	if p.bad || n > uint64(len(p.b)-p.at) {
		p.bad = true
		return 0, false
	}
	from = p.at
	p.at += int(n)
	return from, true
}

func (p *parser) take(n uint64) []byte {
	from, ok := p.skip(n)
	if !ok {
		return nil
	}
	return p.b[from:p.at:p.at]
}

func (p *parser) byte() byte {
	if from, ok := p.skip(1); ok {
		return p.b[from]
	}
	return 0
}

func (p *parser) uint64() uint64 {
	if from, ok := p.skip(8); ok {
		return binary.BigEndian.Uint64(p.b[from:])
	}
	return 0
}

func (p *parser) uvarint() uint64 {
	if p.at < len(p.b) && p.b[p.at] < 0x80 {
		return uint64(p.byte())
	}
	v, n := binary.Uvarint(p.b[p.at:])
	if n <= 0 || p.bad {
		p.bad = true
		return 0
	}
	p.at += n
	return v
}

func (p *parser) varint() int64 {
	u := p.uvarint()
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

// count is how many things follow, each of at least size bytes.
func (p *parser) count(size int) int {
	n := p.uvarint()
	if n > uint64((len(p.b)-p.at)/size) {
		p.bad = true
		return 0
	}
	return int(n)
}

func (p *parser) bytes() []byte {
	n := p.uvarint()
	if n == 0 {
		return nil
	}
	return p.take(n)
}

func (p *parser) string() string {
	from, ok := p.skip(p.uvarint())
	if !ok || from == p.at {
		return ""
	}
	if p.s != "" {
		return p.s[from:p.at]
	}
	return string(p.b[from:p.at])
}

func (p *parser) time() time.Time {
	ms := p.varint()
	if ms == 0 {
		return time.Time{}
	}
	if ms > 0 {
		ms--
	}
	return time.UnixMilli(ms).UTC()
}

func (p *parser) identifier() Identifier {
	k := IdentifierKind(p.byte())
	if k > ByAnonymous {
		p.bad = true
		return Identifier{}
	}
	return Identifier{k, p.string()}
}
