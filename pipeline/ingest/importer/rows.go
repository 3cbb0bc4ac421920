package importer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// source reads rows one after the other, and knows where it is.
type source struct {
	r      *bufio.Reader
	comma  byte // 0: one JSON object a line
	header []string
	text   map[string]bool
	most   int // bytes of a row

	offset int64 // behind the last row
	line   int64 // on which the next row begins, from 1
	buf    []byte
	fields []string
}

// row is what was read of one.
type row struct {
	line  int64
	value map[string]any
	err   error // the row cannot be used; those behind it can
}

var mark = []byte("\xef\xbb\xbf") // of UTF-8, at the front of a file

// start passes the mark and, of a CSV file, the header.
func (s *source) start() error {
	s.line = 1
	if b, err := s.r.Peek(len(mark)); err == nil && bytes.Equal(b, mark) {
		_, _ = s.r.Discard(len(mark)) // they are there
		s.offset += int64(len(mark))
	}
	if s.comma == 0 {
		return nil
	}
	err := s.record()
	if err == io.EOF {
		return errors.New("the file is empty: it needs a line with the names of the columns")
	}
	if err != nil {
		return fmt.Errorf("line 1: %w", err)
	}
	seen := map[string]bool{}
	for _, name := range s.fields {
		name = string(bytes.TrimSpace([]byte(name)))
		if name == "" || seen[name] {
			return fmt.Errorf("line 1: the column %q has no name, or one that is there twice", name)
		}
		seen[name] = true
		s.header = append(s.header, name)
	}
	return nil
}

// next returns the next row, io.EOF behind the last one. Another error ends the reading.
func (s *source) next() (row, error) {
	for {
		out := row{line: s.line}
		var err error
		if s.comma == 0 {
			err = s.object(&out)
		} else {
			err = s.columns(&out)
		}
		if bad := new(rowError); errors.As(err, &bad) {
			out.err = bad
			return out, nil
		}
		if err != nil || out.value != nil {
			return out, err
		}
	}
}

// rowError says why a row cannot be used.
type rowError struct{ text string }

func (e *rowError) Error() string { return e.text }

func refuse(format string, args ...any) error { return &rowError{fmt.Sprintf(format, args...)} }

// byte reads one, and counts.
func (s *source) byte() (byte, error) {
	c, err := s.r.ReadByte()
	if err == nil {
		s.offset++
		if c == '\n' {
			s.line++
		}
	}
	return c, err
}

// object reads a line of NDJSON. Empty lines leave out.value nil.
func (s *source) object(out *row) error {
	s.buf = s.buf[:0]
	long := false
	for {
		c, err := s.byte()
		if err == io.EOF && len(s.buf) > 0 {
			break
		}
		if err != nil {
			return err
		}
		if c == '\n' {
			break
		}
		if long = long || len(s.buf) >= s.most; !long {
			s.buf = append(s.buf, c)
		}
	}
	line := bytes.TrimSpace(s.buf)
	switch {
	case long:
		return refuse("the line is longer than %d bytes", s.most)
	case len(line) == 0:
		return nil
	case !utf8.Valid(line):
		return refuse("the line is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	if err == nil {
		if _, e := d.Token(); e != io.EOF {
			err = errors.New("something follows the object")
		}
	}
	if err != nil {
		return refuse("the line is not JSON: %v", err)
	}
	var ok bool
	if out.value, ok = v.(map[string]any); !ok {
		return refuse("the line is not a JSON object")
	}
	return nil
}

// columns reads a record of CSV.
func (s *source) columns(out *row) error {
	if err := s.record(); err != nil {
		return err
	}
	if len(s.fields) == 1 && s.fields[0] == "" {
		return nil // an empty line
	}
	if len(s.fields) != len(s.header) {
		return refuse("the row has %d columns, the first line has %d", len(s.fields), len(s.header))
	}
	out.value = make(map[string]any, len(s.fields))
	for i, f := range s.fields {
		if !utf8.ValidString(f) {
			out.value = nil
			return refuse("column %q is not UTF-8", s.header[i])
		}
		if f != "" {
			out.value[s.header[i]] = s.guess(s.header[i], f)
		}
	}
	return nil
}

// guess makes a number or a boolean of a text that can be nothing else: numbers have at most 15 digits, no
// zeros before them and no exponent, so that ids and codes stay as they are.
func (s *source) guess(column, f string) any {
	switch {
	case s.text[column]:
		return f
	case f == "true":
		return true
	case f == "false":
		return false
	}
	digits := 0
	for i := range len(f) {
		switch c := f[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c != '-' && c != '.':
			return f
		}
	}
	if digits == 0 || digits > 15 || !json.Valid([]byte(f)) {
		return f
	}
	return json.Number(f)
}

// record reads a record of RFC 4180 into s.fields. What is behind a closing quote, or too long, spoils the record up
// to the end of its line.
func (s *source) record() error {
	s.fields = s.fields[:0]
	s.buf = s.buf[:0]
	began, size := s.offset, 0
	var bad error
	quoted, closed := false, false // within quotes; behind them
	for {
		c, err := s.byte()
		if err == io.EOF && s.offset > began {
			if quoted {
				return refuse("a quote is not closed until the end of the file")
			}
			s.field()
			return bad
		}
		if err != nil {
			return err
		}
		if size++; size > s.most && bad == nil {
			if bad = refuse("the row is longer than %d bytes", s.most); quoted {
				bad = refuse("the row is longer than %d bytes: perhaps a quote is not closed", s.most)
			}
			quoted, closed = false, true
		}
		switch {
		case quoted && c == '"':
			quoted, closed = false, true
		case quoted:
			s.buf = append(s.buf, c)
		case c == '"' && closed && bad == nil: // a doubled quote
			quoted, closed = true, false
			s.buf = append(s.buf, c)
		case c == '\n':
			s.field()
			return bad
		case c == s.comma:
			s.field()
			closed = false
		case c == '"' && len(s.buf) == 0 && bad == nil:
			quoted = true
		case closed:
			if c != '\r' && bad == nil {
				bad = refuse("something follows a closing quote")
			}
		default:
			s.buf = append(s.buf, c)
		}
	}
}

// field ends a field. A carriage return at the end of a line is not part of it.
func (s *source) field() {
	s.fields = append(s.fields, string(bytes.TrimSuffix(s.buf, []byte{'\r'})))
	s.buf = s.buf[:0]
}
