package mail

import "net"

// Composed is a message as it goes on the wire, before dot-stuffing: CR LF
// line ends, signed. Parts stay valid and unchanged until Release.
type Composed struct {
	Parts    net.Buffers
	Size     int64
	EightBit bool // bytes above 127 occur: the peer must offer 8BITMIME
	release  func()
}

// NewComposed returns a Composed over parts; release (may be nil) gives their memory back.
func NewComposed(parts net.Buffers, eightBit bool, release func()) *Composed {
	c := &Composed{Parts: parts, EightBit: eightBit, release: release}
	for _, p := range parts {
		c.Size += int64(len(p))
	}
	return c
}

// Release gives the memory back. The parts must not be used afterwards; a second call does nothing.
func (c *Composed) Release() {
	if c.release != nil {
		c.release()
		c.release = nil
	}
}
