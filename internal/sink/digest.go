package sink

import (
	"bytes"
	"crypto/sha256"
	"hash"

	"github.com/godwit-mta/godwit/internal/ledger"
)

const maxHeader = 256 << 10 // of a longer header only the first part is searched for the key

// digest reads a message, without dot-stuffing, as it passes by: its size, the
// sum of its body and the header that identifies it. It is reused.
type digest struct {
	// What to look at; the rest costs nothing.
	sums, eight, strict bool

	size   int64
	header []byte // up to and with the blank line
	inBody bool
	sum    hash.Hash
	last   byte // of what was written before, for a CR LF that is cut in two
	bare   bool // a CR or LF that stands alone
	high   bool // a byte above 127
}

func (m *digest) reset() {
	m.size, m.header, m.inBody, m.last, m.bare, m.high = 0, m.header[:0], false, 0, false, false
	if m.sum != nil {
		m.sum.Reset()
	}
}

// Write takes the next bytes. It never fails.
func (m *digest) Write(p []byte) (int, error) {
	n := len(p)
	if n == 0 {
		return 0, nil
	}
	m.size += int64(n)
	if m.strict && !m.bare {
		m.bare = bareLineEnd(m.last, p)
	}
	if m.eight && !m.high {
		m.high = !ascii(p)
	}
	m.last = p[n-1]
	if !m.inBody {
		p = m.takeHeader(p)
	}
	if m.inBody && m.sums && len(p) > 0 {
		if m.sum == nil {
			m.sum = sha256.New()
		}
		m.sum.Write(p)
	}
	return n, nil
}

// takeHeader moves header bytes of p into m.header and returns what belongs to the body.
func (m *digest) takeHeader(p []byte) []byte {
	if len(m.header) > maxHeader {
		m.header = append(m.header[:maxHeader], m.header[len(m.header)-3:]...) // the blank line may be cut in two
	}
	from := max(0, len(m.header)-3)
	m.header = append(m.header, p...)
	end := blankLine(m.header, from)
	if end < 0 {
		return nil
	}
	body := len(m.header) - end
	m.header = m.header[:end]
	m.inBody = true
	return p[len(p)-body:]
}

// blankLine returns the offset after the blank line that ends a header, -1 if there is none yet.
func blankLine(h []byte, from int) int {
	if bytes.HasPrefix(h, []byte("\r\n")) {
		return 2 // no header at all
	}
	if i := bytes.Index(h[from:], []byte("\r\n\r\n")); i >= 0 {
		return from + i + 4
	}
	return -1
}

// bareLineEnd tells whether p, which follows the byte last, has a CR without
// LF or an LF without CR. A CR at the end of p is judged with what follows.
func bareLineEnd(last byte, p []byte) bool {
	if last == '\r' && p[0] != '\n' {
		return true
	}
	pairs := 0
	for i := 0; ; {
		j := bytes.IndexByte(p[i:], '\n')
		if j < 0 {
			break
		}
		i += j
		if i > 0 && p[i-1] == '\r' {
			pairs++
		} else if i > 0 || last != '\r' {
			return true
		}
		i++
	}
	crs := bytes.Count(p, []byte{'\r'})
	if p[len(p)-1] == '\r' {
		crs--
	}
	return crs != pairs
}

// fault returns the reply to a message that cannot be taken as it is; code 0 if it can.
func (m *digest) fault(v *visit) reply {
	limit := int64(v.owner.behaviour().MaxSize)
	switch {
	case limit > 0 && m.size > limit:
		return reply{552, "5.3.4", "Message is larger than the limit"}
	case m.bare:
		return reply{554, "5.6.0", "Bare CR or LF inside the message"}
	case m.eight && m.high:
		return reply{554, "5.6.1", "8-bit data, and 8BITMIME is not offered"}
	}
	return reply{}
}

// bodySum is the sum of what follows the blank line; zero when sums are off.
func (m *digest) bodySum() (s ledger.Sum) {
	if !m.sums {
		return s
	}
	if m.sum == nil {
		m.sum = sha256.New()
	}
	var full [sha256.Size]byte
	copy(s[:], m.sum.Sum(full[:0]))
	return s
}

// key is the load id, or else the Message-ID without brackets, or else "".
func (m *digest) key() string {
	if v := fieldValue(m.header, "x-load-id"); v != nil {
		return string(v)
	}
	return string(bytes.Trim(fieldValue(m.header, "message-id"), "<>"))
}

// fieldValue returns the value of the first field of that name (in lower case), nil if there is none. A value on a
// continuation line (RFC 5322 §2.2.3) is found too.
func fieldValue(h []byte, name string) []byte {
	for i := 0; i < len(h); {
		end := bytes.IndexByte(h[i:], '\n')
		if end < 0 {
			end = len(h)
		} else {
			end += i + 1
		}
		if len(h)-i > len(name) && h[i+len(name)] == ':' && foldEqual(h[i:i+len(name)], name) {
			for end < len(h) && (h[end] == ' ' || h[end] == '\t') {
				next := bytes.IndexByte(h[end:], '\n')
				if next < 0 {
					end = len(h)
					break
				}
				end += next + 1
			}
			return bytes.TrimSpace(h[i+len(name)+1 : end])
		}
		i = end
	}
	return nil
}

// foldEqual compares b with the lower case ASCII text s.
func foldEqual(b []byte, s string) bool {
	for i := range len(s) {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != s[i] {
			return false
		}
	}
	return true
}
