package sink

import "bytes"

// dotReader finds the end of DATA in raw input and removes dot-stuffing (RFC
// 5321 §4.5.2). Only CR LF "." CR LF ends a message: anything looser would
// let a sender smuggle a second one.
type dotReader struct {
	started bool // the start of the data counts as the start of a line
}

// next takes input from the front of p and writes the message's bytes to m. It
// returns how many bytes it used and whether the message is complete. When it
// is not, the caller reads more and calls again with what is left and the new bytes.
func (d *dotReader) next(p []byte, m *digest) (used int, done bool) {
	if !d.started {
		// As if a CR LF stood before the data: handle a dot in the very first line.
		switch atLineStart(p) {
		case lineEndOfData:
			return 3, true
		case lineUnknown:
			return 0, false
		case lineStuffed:
			used = 1
		}
		d.started = true
	}
	for {
		i := bytes.Index(p[used:], []byte("\r\n."))
		if i < 0 {
			break
		}
		line := used + i + 2
		what := atLineStart(p[line:])
		if what == lineUnknown {
			break
		}
		m.Write(p[used:line])
		if what == lineEndOfData {
			return line + 3, true
		}
		used = line + 1
	}
	keep := endInDoubt(p[used:])
	m.Write(p[used : len(p)-keep])
	return len(p) - keep, false
}

const (
	linePlain = iota
	lineStuffed
	lineEndOfData
	lineUnknown // too short to tell
)

// atLineStart judges the first bytes of a line.
func atLineStart(p []byte) int {
	switch {
	case len(p) == 0:
		return lineUnknown
	case p[0] != '.':
		return linePlain
	case bytes.HasPrefix(p, []byte(".\r\n")):
		return lineEndOfData
	case bytes.HasPrefix([]byte(".\r\n"), p):
		return lineUnknown
	}
	return lineStuffed
}

// endInDoubt is the number of bytes at the end of p that may begin CR LF "." CR LF.
func endInDoubt(p []byte) int {
	const terminator = "\r\n.\r\n"
	for n := min(len(terminator)-1, len(p)); n > 0; n-- {
		if string(p[len(p)-n:]) == terminator[:n] {
			return n
		}
	}
	return 0
}
