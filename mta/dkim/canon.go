package dkim

import (
	"encoding/binary"
	"hash"
)

// Body canonicalization runs over the body in whatever slices it comes and
// writes to a hash. Nothing is allocated per line: in a stretch that needs no
// change the hash gets the caller's own bytes in one Write.
//
// Only CR LF is a line end. A bare CR or LF, which the engine never lets in, is
// an ordinary byte.

// bodyHasher is a streaming body canonicalization. The zero value with h set is
// ready; sum ends it.
type bodyHasher struct {
	h      hash.Hash
	mode   canonicalization
	crlfs  int  // line ends seen and not yet written: they may be trailing ones
	cr     bool // a CR waits for its LF
	wsp    bool // white space seen since the last line end or byte (relaxed)
	wrote  bool // the canonical form is not empty so far
	single [2]byte
}

// reset prepares b for another body.
func (b *bodyHasher) reset(h hash.Hash, mode canonicalization) {
	h.Reset()
	*b = bodyHasher{h: h, mode: mode}
}

// write takes the next bytes of the body.
func (b *bodyHasher) write(p []byte) {
	end := len(p)
	for end > 0 && b.waits(p[end-1]) {
		end--
	}
	tail := p[end:]
	p = p[:end]
	for len(p) > 0 && b.waits(p[0]) {
		b.step(p[0])
		p = p[1:]
	}
	if len(p) > 0 {
		// p begins and ends with bytes that are certain to be in the canonical
		// form, so whatever white space it holds is decided within it.
		b.flush()
		b.wrote = true
		if b.mode == relaxed {
			b.fold(p)
		} else {
			b.h.Write(p)
		}
	}
	for _, c := range tail {
		b.step(c)
	}
}

// waits reports whether c cannot be written before what follows it is known.
func (b *bodyHasher) waits(c byte) bool {
	switch c {
	case '\r', '\n':
		return true
	case ' ', '\t':
		return b.mode == relaxed
	}
	return false
}

// step advances by one byte for which waits holds.
func (b *bodyHasher) step(c byte) {
	if b.cr {
		b.cr = false
		if c == '\n' {
			b.crlfs++
			b.wsp = false
			return
		}
		b.literal('\r')
	}
	switch c {
	case '\r':
		b.cr = true
	case '\n':
		b.literal('\n')
	default:
		b.wsp = true
	}
}

// literal writes a bare CR or LF.
func (b *bodyHasher) literal(c byte) {
	b.flush()
	b.wrote = true
	b.single[0] = c
	b.h.Write(b.single[:1])
}

// flush writes what waited, now that a byte follows it.
func (b *bodyHasher) flush() {
	if b.cr {
		b.cr = false
		b.literal('\r')
	}
	b.single = [2]byte{'\r', '\n'}
	for ; b.crlfs > 0; b.crlfs-- {
		b.h.Write(b.single[:])
	}
	if b.wsp {
		b.wsp = false
		b.single[0] = ' '
		b.h.Write(b.single[:1])
	}
}

// sum ends the body: trailing empty lines are dropped, a missing last line end
// is added. An empty body is nothing when relaxed and one CR LF when simple.
func (b *bodyHasher) sum(out *[32]byte) {
	if b.cr {
		b.cr = false
		b.literal('\r')
	}
	if b.wrote || b.mode == simple {
		b.single = [2]byte{'\r', '\n'}
		b.h.Write(b.single[:])
	}
	b.h.Sum(out[:0])
}

// fold writes p with its white space runs reduced to one space, and to nothing
// before a line end. p ends with a byte that is neither white space nor CR.
func (b *bodyHasher) fold(p []byte) {
	for from := 0; ; {
		i := nextFold(p, from)
		if i < 0 {
			b.h.Write(p[from:])
			return
		}
		run := i
		for p[run] == ' ' || p[run] == '\t' {
			run++
		}
		switch {
		case p[run] == '\r' && p[run+1] == '\n':
			b.h.Write(p[from:i])
		case p[i] == ' ':
			b.h.Write(p[from : i+1])
		default:
			b.h.Write(p[from:i])
			b.single[0] = ' '
			b.h.Write(b.single[:1])
		}
		from = run
	}
}

const (
	lowBits  = 0x0101010101010101
	highBits = 0x8080808080808080
)

// nextFold finds the next white space run at or after from that the relaxed
// canonicalization changes: a tab, or a space before white space or a line end.
// It looks at eight bytes at once; each test may give a false alarm (a borrow
// from the byte below), never a miss, and an alarm is checked byte by byte.
func nextFold(p []byte, from int) int {
	i := from
	var spaceBefore uint64 // the byte before this word is a space
	for ; i+8 <= len(p); i += 8 {
		x := binary.LittleEndian.Uint64(p[i:])
		sp := x ^ ' '*lowBits
		sp = (sp - lowBits) & ^sp & highBits
		tab := x ^ '\t'*lowBits
		tab = (tab - lowBits) & ^tab & highBits
		low := (x - 0x21*lowBits) & ^x & highBits // space, tab, CR and other controls
		if (sp<<8|spaceBefore)&low|tab != 0 {
			for j := max(i-1, from); j < i+8; j++ {
				if folds(p, j) {
					return j
				}
			}
		}
		spaceBefore = sp >> 56
	}
	for j := max(i-1, from); j < len(p); j++ {
		if folds(p, j) {
			return j
		}
	}
	return -1
}

// folds reports whether the byte at i begins a white space run to be changed.
func folds(p []byte, i int) bool {
	if p[i] == '\t' {
		return true
	}
	if p[i] != ' ' || i+1 == len(p) {
		return false
	}
	switch p[i+1] {
	case ' ', '\t':
		return true
	case '\r':
		return i+2 < len(p) && p[i+2] == '\n'
	}
	return false
}
