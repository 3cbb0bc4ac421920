package deliver

import (
	"bytes"
	"net"
	"time"
)

const (
	// blockSize is what one deadline covers when a message is written.
	blockSize = 256 << 10
	// copySize is the buffer for a message that cannot be written from where it lies.
	copySize = 32 << 10
	// pieceSize is how much is stuffed at once: it can grow by half and must fit into copySize.
	pieceSize = 8 << 10
)

var (
	crlf         = []byte("\r\n")
	lineDot      = []byte("\n.")
	endOfData    = []byte(".\r\n")
	endOfDataToo = []byte("\r\n.\r\n") // after a message without a final line end
)

// needsDots reports whether a line of the message begins with a dot.
func needsDots(parts net.Buffers) bool {
	lineStart := true
	for _, p := range parts {
		if len(p) == 0 {
			continue
		}
		if lineStart && p[0] == '.' || bytes.Contains(p, lineDot) {
			return true
		}
		lineStart = p[len(p)-1] == '\n'
	}
	return false
}

// stuff appends p to dst with a second dot before each dot that begins a line
// (RFC 5321 §4.5.2). A bare LF counts as a line end too: a peer that takes it
// for one must not see an end-of-data there. lineStart tells whether p begins
// a line; the one returned, whether what follows does.
func stuff(dst, p []byte, lineStart bool) ([]byte, bool) {
	if len(p) == 0 {
		return dst, lineStart
	}
	if lineStart && p[0] == '.' {
		dst = append(dst, '.')
	}
	for {
		i := bytes.Index(p, lineDot)
		if i < 0 {
			return append(dst, p...), p[len(p)-1] == '\n'
		}
		dst = append(dst, p[:i+2]...)
		dst = append(dst, '.')
		p = p[i+2:]
		if len(p) == 0 {
			return dst, false
		}
	}
}

// endsLine reports whether the message ends in CR LF, also across parts. An empty one does.
func endsLine(parts net.Buffers) bool {
	var tail [2]byte
	n := 0
	for i := len(parts) - 1; i >= 0 && n < 2; i-- {
		p := parts[i]
		for j := len(p) - 1; j >= 0 && n < 2; j-- {
			tail[1-n] = p[j]
			n++
		}
	}
	return n == 0 || n == 2 && tail[0] == '\r' && tail[1] == '\n'
}

// writeData sends the message of DATA, dot-stuffed and ended. The timeout holds per block.
func (w *wire) writeData(parts net.Buffers, size int64, timeout time.Duration) error {
	end := endOfData
	if !endsLine(parts) {
		end = endOfDataToo
	}
	if !needsDots(parts) {
		return w.writeParts(nil, parts, size, end, timeout)
	}
	buf := w.pools.write.get(copySize)
	defer w.pools.write.pool.Put(buf)
	out := (*buf)[:0]
	lineStart := true
	for _, p := range parts {
		for len(p) > 0 {
			if len(out)+2*pieceSize > cap(out) {
				if err := w.write(out, timeout); err != nil {
					return err
				}
				out = out[:0]
			}
			piece := p[:min(len(p), pieceSize)]
			// A dot that begins the next piece belongs to this one's line end.
			out, lineStart = stuff(out, piece, lineStart)
			p = p[len(piece):]
		}
	}
	return w.write(append(out, end...), timeout)
}

// writeParts sends before, the parts and after unchanged: in one writev where
// the connection takes it and all is one block, else copied together.
func (w *wire) writeParts(before []byte, parts net.Buffers, size int64, after []byte, timeout time.Duration) error {
	if w.tcp != nil && size <= blockSize && len(parts)+2 <= len(w.iov) {
		iov := w.iov[:0]
		if len(before) > 0 {
			iov = append(iov, before)
		}
		iov = append(iov, parts...)
		if len(after) > 0 {
			iov = append(iov, after)
		}
		if err := w.arm(timeout); err != nil {
			return err
		}
		w.bufs = iov
		_, err := w.bufs.WriteTo(w.tcp)
		w.bufs, w.iov = nil, [6][]byte{}
		return err
	}
	buf := w.pools.write.get(copySize)
	defer w.pools.write.pool.Put(buf)
	out, err := w.copyOut((*buf)[:0], before, timeout)
	for i := 0; i < len(parts) && err == nil; i++ {
		out, err = w.copyOut(out, parts[i], timeout)
	}
	if err == nil {
		out, err = w.copyOut(out, after, timeout)
	}
	if err != nil || len(out) == 0 {
		return err
	}
	return w.write(out, timeout)
}

// copyOut collects p in out; what does not fit is written, big pieces from where they lie.
func (w *wire) copyOut(out, p []byte, timeout time.Duration) ([]byte, error) {
	if len(out)+len(p) <= cap(out) {
		return append(out, p...), nil
	}
	if len(out) > 0 {
		if err := w.write(out, timeout); err != nil {
			return nil, err
		}
		out = out[:0]
	}
	for len(p) > cap(out) {
		block := p[:min(len(p), blockSize)]
		if err := w.write(block, timeout); err != nil {
			return nil, err
		}
		p = p[len(block):]
	}
	return append(out, p...), nil
}

// headerASCII reports whether no byte above 127 comes before the empty line that ends the header.
func headerASCII(parts net.Buffers) bool {
	lineEnded := false
	for _, p := range parts {
		if lineEnded && bytes.HasPrefix(p, crlf) {
			return true
		}
		end := bytes.Index(p, []byte("\r\n\r\n"))
		if end >= 0 {
			return asciiOnly(p[:end])
		}
		if !asciiOnly(p) {
			return false
		}
		lineEnded = bytes.HasSuffix(p, crlf)
	}
	return true
}
