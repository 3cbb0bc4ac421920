package smtp

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	gosmtp "github.com/emersion/go-smtp"
)

// Defects of a message's text, collected while it is read.
const (
	bareCR defect = 1 << iota
	bareLF
	hasNUL
	longLine
)

type defect uint8

// scanner checks text piece by piece, wherever the network cut it.
//
// It searches for line ends with bytes.IndexByte and counts the CRs of a whole piece
// at once: every CR must belong to a CR LF, so any surplus is a bare one.
type scanner struct {
	bol     bool // at the beginning of a line; only CR LF leads there
	cr      bool // the last byte was a CR that waits for its LF
	line    int  // length of the line so far, without CR LF
	maxLine int
	bad     defect
}

// scan takes text from w and returns how much. With dots it stops before a
// '.' at the beginning of a line, for the caller to look at.
func (s *scanner) scan(w []byte, dots bool) int {
	pos, pairs := 0, 0
	if s.cr && len(w) > 0 {
		s.cr = false
		if w[0] == '\n' {
			s.endLine()
			pos = 1
		} else {
			s.bad |= bareCR
		}
	}
	for pos < len(w) && !(dots && s.bol && w[pos] == '.') {
		i := bytes.IndexByte(w[pos:], '\n')
		if i < 0 {
			s.line += len(w) - pos
			s.bol = false
			pos = len(w)
			if w[pos-1] == '\r' {
				s.cr = true
				s.line--
				pairs++
			}
			break
		}
		if i > 0 && w[pos+i-1] == '\r' {
			pairs++
			s.line += i - 1
			s.endLine()
		} else {
			s.bad |= bareLF
			s.bol, s.line = false, 0
		}
		pos += i + 1
	}
	if bytes.Count(w[:pos], []byte{'\r'}) != pairs {
		s.bad |= bareCR
	}
	if bytes.IndexByte(w[:pos], 0) >= 0 {
		s.bad |= hasNUL
	}
	s.checkLine()
	return pos
}

func (s *scanner) endLine() {
	s.checkLine()
	s.bol, s.line = true, 0
}

func (s *scanner) checkLine() {
	if s.maxLine > 0 && s.line > s.maxLine {
		s.bad |= longLine
	}
}

// refusal is the reply to text with defects, nil if it has none.
func (d defect) refusal(maxLine int) *gosmtp.SMTPError {
	text := ""
	switch {
	case d == 0:
		return nil
	case d&(bareCR|bareLF) != 0:
		text = "Message has a bare CR or LF, lines must end in CR LF"
	case d&hasNUL != 0:
		text = "Message has a NUL character, encode it"
	default:
		text = fmt.Sprintf("Message has a line longer than %d bytes, encode it as quoted-printable or base64", maxLine)
	}
	return &gosmtp.SMTPError{Code: 550, EnhancedCode: ec(5, 6, 0), Message: text}
}

// errBodyDone is what a Session gets that reads on after Data has returned.
var errBodyDone = errors.New("smtp: message reader used after Data returned")

// body is the content of one message as the Session reads it: dot-stuffing
// undone, chunks joined. It gives out slices of the input buffer that have been
// checked, so a message is copied once, from there to where the Session wants it.
//
// It ends in io.EOF only when the whole message was read and is without fault.
type body struct {
	c     *conn
	scan  scanner
	avail int    // bytes at the front of the input that may be given out
	extra []byte // given out instead of input: the CR LF that a chunked message lacks
	end   bool   // nothing comes after avail
	size  int64  // of the message so far
	err   error  // what next returns once avail is used up

	refused *gosmtp.SMTPError // the message as such is refused; the stream goes on
	cut     error             // the stream cannot be read any further

	// BDAT
	chunked bool
	chunk   int64 // size of the current chunk
	left    int64 // of it
	last    bool
	line    error // cut: the next command could not be read
}

func newBody(c *conn) *body {
	return &body{c: c, scan: scanner{bol: true, maxLine: c.opt.MaxTextLine}}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	w, err := b.next()
	if err != nil {
		return 0, err
	}
	n := copy(p, w)
	b.take(n)
	return n, nil
}

// WriteTo implements io.WriterTo: it writes straight from the input buffer.
func (b *body) WriteTo(dst io.Writer) (int64, error) {
	var total int64
	for {
		w, err := b.next()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := dst.Write(w)
		b.take(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
		if n < len(w) {
			return total, io.ErrShortWrite
		}
	}
}

// next returns checked content, at least a byte, valid until the next call.
func (b *body) next() ([]byte, error) {
	for b.avail == 0 {
		switch {
		case b.err != nil:
			return nil, b.err
		case b.end:
			b.err = io.EOF
		default:
			b.advance()
			if b.cut != nil {
				b.err = b.cut
			} else if b.refused != nil {
				b.err = b.refused
				b.take(b.avail)
			}
		}
	}
	if len(b.extra) > 0 {
		return b.extra, nil
	}
	return b.c.in.pending()[:b.avail], nil
}

func (b *body) take(n int) {
	b.avail -= n
	if len(b.extra) > 0 {
		b.extra = b.extra[n:]
		return
	}
	b.c.in.discard(n)
}

// advance finds the next piece of content and sets avail, end, refused or cut.
func (b *body) advance() {
	if b.chunked {
		b.advanceChunk()
	} else {
		b.advanceData()
	}
	b.size += int64(b.avail)
	if b.refused != nil {
		return
	}
	if limit := int64(b.c.opt.MaxMessageBytes); limit > 0 && b.size > limit {
		b.refused = gosmtp.ErrDataTooLarge
	} else if r := b.scan.bad.refusal(b.scan.maxLine); r != nil {
		b.refused = r
	}
}

// advanceData looks for the end of the data, CR LF "." CR LF, and takes off the
// dots that were put before other lines (RFC 5321 section 4.5.2). A dot counts only
// behind a true CR LF, and only a true CR LF behind it makes it the end.
func (b *body) advanceData() {
	in := &b.c.in
	for {
		w := in.pending()
		if len(w) > 0 && b.scan.bol && w[0] == '.' {
			if len(w) >= 3 && w[1] == '\r' && w[2] == '\n' {
				in.discard(3)
				b.end = true
				return
			}
			if len(w) > 2 || len(w) == 2 && w[1] != '\r' {
				in.discard(1)
				b.scan.bol = false
				w = w[1:]
			} else {
				w = nil // cannot tell yet
			}
		}
		if len(w) > 0 {
			b.avail = b.scan.scan(w, true)
			return
		}
		if !b.fill() {
			return
		}
	}
}

// fill reads more from the network. A stream that breaks off is never io.EOF.
func (b *body) fill() bool {
	if err := b.c.fill(forBody); err != nil {
		if err == io.EOF {
			b.cut = io.ErrUnexpectedEOF
		} else {
			b.cut = fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
		}
		return false
	}
	return true
}

// advanceChunk takes from the current chunk, or goes on to the next BDAT.
func (b *body) advanceChunk() {
	for b.left == 0 {
		if b.last {
			b.closeText()
			return
		}
		if !b.c.nextChunk(b) {
			return
		}
	}
	w := b.c.in.pending()
	if len(w) == 0 {
		if !b.fill() {
			return
		}
		w = b.c.in.pending()
	}
	w = w[:min(int64(len(w)), b.left)]
	b.avail = b.scan.scan(w, false)
	b.left -= int64(b.avail)
}

// closeText is the end of a chunked message. If its last line lacks the CR LF
// that a message ended by "." always has, it gets one: the next hop may not speak BDAT.
func (b *body) closeText() {
	b.end = true
	switch {
	case b.scan.cr:
		b.scan.bad |= bareCR
	case !b.scan.bol:
		b.extra = []byte("\r\n")
		b.avail = len(b.extra)
	}
}

// drain reads what the Session left of a message, at most max bytes, so that
// the next command is found behind it. Of a chunked message that failed
// only the current chunk is read; the peer will be told that the next ones are out of order.
// It returns false if there was more.
func (b *body) drain(limit int64, failed bool) bool {
	var drained int64
	for b.cut == nil {
		drained += int64(b.avail)
		b.take(b.avail)
		if b.end {
			return true
		}
		if drained > limit {
			return false
		}
		if b.chunked && b.left == 0 && !b.last && (failed || b.refused != nil) {
			return true
		}
		b.advance()
	}
	return true
}
