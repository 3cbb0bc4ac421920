package compose

import (
	"bytes"
	"encoding/base64"
)

// The content transfer encodings (RFC 2045 §6) that leave here.
const (
	sevenBitCTE        = "7bit"
	quotedPrintableCTE = "quoted-printable"
	base64CTE          = "base64"
)

// encodedLine is the longest line of an encoding, without CR LF.
const encodedLine = 76

// chooseEncoding picks the encoding that makes data 7-bit safe: none for short
// ASCII lines, else the shorter one.
func chooseEncoding(data []byte) string {
	escaped, column, long := 0, 0, false
	for i, c := range data {
		switch {
		case c == '\n' && i > 0 && data[i-1] == '\r':
			column = -1
		case c == '\r' && i+1 < len(data) && data[i+1] == '\n':
			continue
		case c != '\t' && (c < ' ' || c > '~'):
			escaped++
		}
		column++
		long = long || column > encodedLine
	}
	switch {
	case escaped == 0 && !long:
		return sevenBitCTE
	case 2*escaped > len(data)/3+8:
		return base64CTE
	}
	return quotedPrintableCTE
}

// appendEncoded appends data in the given encoding.
func appendEncoded(dst, data []byte, encoding string) []byte {
	switch encoding {
	case quotedPrintableCTE:
		return appendQuoted(dst, data)
	case base64CTE:
		return appendBase64(dst, data)
	}
	return append(dst, data...)
}

// appendBase64 appends data in lines of 76 characters, each with CR LF but the last.
func appendBase64(dst, data []byte) []byte {
	const perLine = encodedLine / 4 * 3
	for len(data) > perLine {
		dst = base64.StdEncoding.AppendEncode(dst, data[:perLine])
		dst = append(dst, '\r', '\n')
		data = data[perLine:]
	}
	return base64.StdEncoding.AppendEncode(dst, data)
}

// appendQuoted appends data as quoted-printable. A CR LF is a line end; a bare
// CR or LF is data and escaped, so that the decoded bytes are data again.
func appendQuoted(dst, data []byte) []byte {
	for {
		end := bytes.Index(data, []byte("\r\n"))
		if end < 0 {
			return appendQuotedLine(dst, data)
		}
		dst = appendQuotedLine(dst, data[:end])
		dst = append(dst, '\r', '\n')
		data = data[end+2:]
	}
}

// appendQuotedLine appends one line with soft line breaks. White space at its end is
// escaped, and so is the F of "From " at its start, which mailbox files change.
func appendQuotedLine(dst, line []byte) []byte {
	column := 0
	for i, c := range line {
		last := i == len(line)-1
		plain := '!' <= c && c <= '~' && c != '=' || (c == ' ' || c == '\t') && !last
		if i == 0 && bytes.HasPrefix(line, []byte("From ")) {
			plain = false
		}
		width := 1
		if !plain {
			width = 3
		}
		// The last column is for the = of a soft break, except on the last piece.
		if column+width > encodedLine-1 && !(last && column+width == encodedLine) {
			dst = append(dst, '=', '\r', '\n')
			column = 0
		}
		if plain {
			dst = append(dst, c)
		} else {
			dst = append(dst, '=', hexDigits[c>>4], hexDigits[c&15])
		}
		column += width
	}
	return dst
}
