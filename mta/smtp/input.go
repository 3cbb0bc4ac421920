package smtp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
)

const (
	smallBuffer = 4 << 10  // holds commands; part of every connection
	bigBuffer   = 64 << 10 // holds message data; borrowed from the pool while it is needed
	maxSkip     = 1 << 20  // of an over-long command line, read and thrown away before giving up
)

// How reading a command line can fail, apart from errors of the network.
var (
	errLineEnd  = errors.New("bare CR or LF in a command")
	errLineLong = errors.New("command line too long")
	errDraining = errors.New("server is draining")
	errKilled   = errors.New("server is closing")
)

// input buffers what the peer sent. Idle connections hold 4 KiB, those in the
// middle of a message 64 KiB.
type input struct {
	r, w  int
	buf   []byte
	big   *[bigBuffer]byte
	pool  *sync.Pool
	small [smallBuffer]byte
}

// pending is what has been read from the network and not been used yet; valid
// until the next read, grow or shrink.
func (in *input) pending() []byte { return in.buf[in.r:in.w] }

func (in *input) discard(n int) {
	in.r += n
	if in.r == in.w {
		in.r, in.w = 0, 0
	}
}

// grow changes to a buffer of the pool.
func (in *input) grow() {
	if in.big != nil {
		return
	}
	in.big = in.pool.Get().(*[bigBuffer]byte)
	in.move(in.big[:])
}

// shrink gives the buffer back to the pool if what is pending fits the small one.
func (in *input) shrink() {
	if in.big == nil || in.w-in.r > smallBuffer {
		return
	}
	in.move(in.small[:])
	in.pool.Put(in.big)
	in.big = nil
}

func (in *input) move(to []byte) {
	in.w = copy(to, in.pending())
	in.r, in.buf = 0, to
}

// release gives the buffer back whatever is in it.
func (in *input) release() {
	in.r, in.w = 0, 0
	in.shrink()
}

// read does one Read into the free part of the buffer, making room first.
// n > 0 unless err is set.
func (in *input) read(nc net.Conn) error {
	if in.w == len(in.buf) && in.r == 0 {
		in.grow()
	}
	if in.r > 0 {
		in.w = copy(in.buf, in.pending())
		in.r = 0
	}
	if in.w == len(in.buf) {
		return io.ErrShortBuffer // callers consume before they fill
	}
	for {
		n, err := nc.Read(in.buf[in.w:])
		in.w += n
		if n > 0 {
			return nil // err, if any, will come again
		}
		if err != nil {
			return err
		}
	}
}

// readLine returns the next command line without its CR LF, valid until the
// next read; limit counts the CR LF.
func (c *conn) readLine(limit int) ([]byte, error) {
	c.lineDeadline = zeroTime
	seen := 0 // bytes already searched
	for {
		b := c.in.pending()
		if i := bytes.IndexByte(b[seen:], '\n'); i >= 0 {
			i += seen
			c.in.discard(i + 1)
			if i == 0 || b[i-1] != '\r' || bytes.IndexByte(b[:i-1], '\r') >= 0 {
				return nil, errLineEnd
			}
			if i+1 > limit && (i+1 > c.opt.MaxAuthLine || !isAuth(b)) {
				return nil, errLineLong
			}
			return b[:i-1], nil
		}
		if i := bytes.IndexByte(b[seen:], '\r'); i >= 0 && seen+i < len(b)-1 {
			return nil, errLineEnd
		}
		if len(b) >= limit && (len(b) >= c.opt.MaxAuthLine || !isAuth(b)) {
			return nil, c.skipLine()
		}
		seen = len(b)
		if seen > 0 && b[seen-1] == '\r' {
			seen--
		}
		if err := c.fill(forCommand); err != nil {
			return nil, err
		}
	}
}

// isAuth finds an AUTH command, which may be longer than others for its
// initial response (RFC 4954 section 4).
func isAuth(line []byte) bool {
	return len(line) > 5 && bytes.EqualFold(line[:5], []byte("AUTH "))
}

// skipLine throws away the rest of an over-long line, so that its tail is not
// taken for a command. It returns errLineLong when that worked.
func (c *conn) skipLine() error {
	for skipped := 0; skipped < maxSkip; {
		b := c.in.pending()
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			c.in.discard(i + 1)
			if i == 0 || b[i-1] != '\r' || bytes.IndexByte(b[:i-1], '\r') >= 0 {
				return errLineEnd
			}
			return errLineLong
		}
		if i := bytes.IndexByte(b, '\r'); i >= 0 && i < len(b)-1 {
			return errLineEnd
		}
		n := len(b)
		if n > 0 && b[n-1] == '\r' {
			n-- // may be the first half of the line end
		}
		c.in.discard(n)
		skipped += n
		if err := c.fill(forCommand); err != nil {
			return err
		}
	}
	return errLineEnd // as hopeless as a peer without line ends
}
