package deliver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

var errCancelled = errors.New("interrupted: the engine is stopping")

// buffers lends read buffers; a session holds one only while it is at work.
type buffers struct{ pool sync.Pool }

func (b *buffers) get(size int) *[]byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, size)
	return &p
}

// wire is a connection with a reply reader, deadlines and interruption.
type wire struct {
	conn  net.Conn     // may be a *tls.Conn over base
	base  net.Conn     // what was dialled
	tcp   *net.TCPConn // conn if it takes writev, else nil
	pools *pools

	buf    *[]byte // read buffer; nil while idle
	r, w   int     // (*buf)[r:w] is unread
	parser replyParser

	iov  [6][]byte // for one writev
	bufs net.Buffers

	mu        sync.Mutex
	cancelled bool
	grace     time.Duration // what an interruption still leaves; 0: nothing
}

// pools is the memory that the sessions of a Deliverer share.
type pools struct{ read, write buffers }

func newWire(conn net.Conn, p *pools) *wire {
	w := &wire{conn: conn, base: conn, pools: p}
	w.tcp, _ = conn.(*net.TCPConn)
	return w
}

// arm gives the next reads and writes d.
func (w *wire) arm(d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancelled {
		if w.grace == 0 {
			return errCancelled
		}
		d = min(d, w.grace)
	}
	return w.conn.SetDeadline(time.Now().Add(d))
}

// watch interrupts reads and writes when ctx ends. The returned function ends
// the watch and makes the wire usable by the next.
func (w *wire) watch(ctx context.Context) (done func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.cancelled = true
		_ = w.conn.SetDeadline(time.Now().Add(w.grace))
	})
	return func() { stop() }
}

// setGrace says how long an interruption leaves for what comes now: once a
// message is written whole, its reply is worth a short wait.
func (w *wire) setGrace(d time.Duration) {
	w.mu.Lock()
	w.grace = d
	if w.cancelled && d > 0 {
		_ = w.conn.SetDeadline(time.Now().Add(d))
	}
	w.mu.Unlock()
}

// interrupted reports whether an error is due to the end of the context.
func (w *wire) interrupted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cancelled
}

// write sends b within d.
func (w *wire) write(b []byte, d time.Duration) error {
	if err := w.arm(d); err != nil {
		return err
	}
	_, err := w.conn.Write(b)
	return err
}

// readReply reads one reply into the parser. On errMalformed the parser holds the offending text.
func (w *wire) readReply(d time.Duration) error {
	each := w.parser.each
	w.parser.reset()
	w.parser.each = each
	armed := false
	for {
		line, err := w.readLine(d, &armed)
		if err != nil {
			return err
		}
		if done, err := w.parser.line(line); done || err != nil {
			return err
		}
	}
}

// readLine returns the next line with its line end, valid until the next call.
// The deadline is set when the peer has to be waited for, once per reply.
func (w *wire) readLine(d time.Duration, armed *bool) ([]byte, error) {
	if w.buf == nil {
		w.buf = w.pools.read.get(maxReplyLine)
	}
	buf := *w.buf
	searched := w.r
	for {
		if i := bytes.IndexByte(buf[searched:w.w], '\n'); i >= 0 {
			line := buf[w.r : searched+i+1]
			w.r = searched + i + 1
			return line, nil
		}
		searched = w.w
		if w.w-w.r >= len(buf) {
			w.parser.code, w.parser.text = 0, appendText(w.parser.text[:0], buf[w.r:w.w])
			return nil, fmt.Errorf("%w: a line longer than %d bytes", errMalformed, maxReplyLine)
		}
		if w.w == len(buf) || w.r == w.w {
			copy(buf, buf[w.r:w.w])
			searched -= w.r
			w.r, w.w = 0, w.w-w.r
		}
		if !*armed {
			if err := w.arm(d); err != nil {
				return nil, err
			}
			*armed = true
		}
		n, err := w.conn.Read(buf[w.w:])
		w.w += n
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// buffered is the number of bytes read but not yet looked at.
func (w *wire) buffered() int { return w.w - w.r }

// rest gives the read buffer back while nothing is expected.
func (w *wire) rest() {
	if w.buf != nil && w.r == w.w {
		w.pools.read.pool.Put(w.buf)
		w.buf, w.r, w.w = nil, 0, 0
	}
}

// awaitClose waits for the peer to close; false if it does not within d.
func (w *wire) awaitClose(d time.Duration) bool {
	if w.arm(d) != nil {
		return false
	}
	var b [16]byte
	for {
		if _, err := w.conn.Read(b[:]); err != nil {
			return !errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
}

func (w *wire) close() {
	_ = w.conn.Close()
	w.r, w.w = 0, 0
	w.rest()
}
