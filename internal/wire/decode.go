package wire

import (
	"encoding"
	"encoding/base64"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Decoder reads JSON into a T, strictly: unknown and duplicate fields, wrong
// types, bad UTF-8 and trailing data are errors that name the place by JSON
// pointer (RFC 6901). Field names are compared exactly. The zero value is not
// usable; build one with NewDecoder when the server is built and share it.
type Decoder[T any] struct{ read reader }

// NewDecoder prepares to read a T. It fails when T holds a type that the
// decoder does not know, which a test of the caller finds.
func NewDecoder[T any]() (*Decoder[T], error) {
	read, err := readerOf(reflect.TypeFor[T]())
	if err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	return &Decoder[T]{read: read}, nil
}

// Decode reads exactly one value from data. The error is a *DecodeError. The
// result does not refer to data.
func (d *Decoder[T]) Decode(data []byte) (*T, error) {
	v := new(T)
	s := scanner{data: data}
	if err := d.decode(&s, v); err != nil {
		err.locate(data)
		return nil, err
	}
	return v, nil
}

func (d *Decoder[T]) decode(s *scanner, v *T) *DecodeError {
	s.space()
	if err := d.read(s, reflect.ValueOf(v).Elem()); err != nil {
		return err
	}
	s.space()
	if s.pos < len(s.data) {
		return s.fail(CodeInvalidJSON, "data follows the JSON value")
	}
	return nil
}

// DecodeError says what is wrong with a document and where.
type DecodeError struct {
	Code    string // one of the Code constants
	Detail  string // for people
	Pointer string // JSON pointer of the value, "" for the document
	Field   string // the field's own name where one is at fault
	Offset  int    // of the byte where reading stopped
	Line    int    // 1 for the first
	Column  int    // in bytes, 1 for the first
}

// Error implements error.
func (e *DecodeError) Error() string {
	if e.Pointer == "" {
		return fmt.Sprintf("line %d column %d: %s", e.Line, e.Column, e.Detail)
	}
	return fmt.Sprintf("line %d column %d: %s: %s", e.Line, e.Column, e.Pointer, e.Detail)
}

// under notes on the way out of the recursion that e happened below token;
// so the way in costs nothing.
func (e *DecodeError) under(token string) *DecodeError {
	e.Pointer = "/" + escapePointer(token) + e.Pointer
	if e.Field == "" && !isIndex(token) {
		e.Field = token
	}
	return e
}

func (e *DecodeError) locate(data []byte) {
	e.Line, e.Column = 1, 1
	for _, c := range data[:min(e.Offset, len(data))] {
		e.Column++
		if c == '\n' {
			e.Line, e.Column = e.Line+1, 1
		}
	}
}

func escapePointer(token string) string {
	if !strings.ContainsAny(token, "~/") {
		return token
	}
	return strings.ReplaceAll(strings.ReplaceAll(token, "~", "~0"), "/", "~1")
}

func isIndex(token string) bool { _, err := strconv.Atoi(token); return err == nil }

// reader reads the value at the scanner's position into v.
type reader func(s *scanner, v reflect.Value) *DecodeError

func readerOf(t reflect.Type) (reader, error) {
	switch {
	case t == reflect.TypeFor[Object]():
		return readObject, nil
	case t == reflect.TypeFor[time.Time]():
		return readTime, nil
	case t == reflect.TypeFor[[]byte]():
		return readBytes, nil
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return readText, nil
	}
	switch t.Kind() {
	case reflect.String:
		return readString, nil
	case reflect.Bool:
		return readBool, nil
	case reflect.Int, reflect.Int64:
		return readInt, nil
	case reflect.Float64:
		return readFloat, nil
	case reflect.Pointer:
		return pointerReader(t)
	case reflect.Slice:
		return sliceReader(t)
	case reflect.Map:
		return mapReader(t)
	case reflect.Struct:
		return structReader(t)
	}
	return nil, fmt.Errorf("cannot decode %v", t)
}

func readString(s *scanner, v reflect.Value) *DecodeError {
	b, err := s.text("a string")
	if err == nil {
		v.SetString(string(b))
	}
	return err
}

func readBool(s *scanner, v reflect.Value) *DecodeError {
	switch {
	case s.word("true"):
		v.SetBool(true)
	case s.word("false"):
		v.SetBool(false)
	default:
		return s.wrong("true or false")
	}
	return nil
}

func readInt(s *scanner, v reflect.Value) *DecodeError {
	start := s.pos
	b, err := s.number()
	if err != nil {
		return err
	}
	n, bad := strconv.ParseInt(string(b), 10, 64)
	if bad != nil || v.OverflowInt(n) {
		s.pos = start
		return s.wrong("a whole number")
	}
	v.SetInt(n)
	return nil
}

func readFloat(s *scanner, v reflect.Value) *DecodeError {
	start := s.pos
	b, err := s.number()
	if err != nil {
		return err
	}
	n, bad := strconv.ParseFloat(string(b), 64)
	if bad != nil {
		s.pos = start
		return s.fail(CodeInvalidValue, "number is out of range")
	}
	v.SetFloat(n)
	return nil
}

func readObject(s *scanner, v reflect.Value) *DecodeError {
	if s.word("null") {
		return nil
	}
	b, err := s.object()
	if err == nil {
		v.SetBytes(b)
	}
	return err
}

func readTime(s *scanner, v reflect.Value) *DecodeError {
	start := s.pos
	b, err := s.text("a time")
	if err != nil {
		return err
	}
	t, bad := time.Parse(time.RFC3339Nano, string(b))
	if bad != nil {
		s.pos = start
		return s.fail(CodeInvalidValue, "must be an RFC 3339 time such as 2026-01-02T15:04:05Z")
	}
	v.Set(reflect.ValueOf(t.UTC()))
	return nil
}

func readBytes(s *scanner, v reflect.Value) *DecodeError {
	if s.word("null") {
		return nil
	}
	start := s.pos
	b, err := s.text("a base64 string")
	if err != nil {
		return err
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, bad := base64.StdEncoding.Decode(out, b)
	if bad != nil {
		s.pos = start
		return s.fail(CodeInvalidValue, "is not base64 (RFC 4648 section 4, with padding)")
	}
	v.SetBytes(out[:n])
	return nil
}

func readText(s *scanner, v reflect.Value) *DecodeError {
	start := s.pos
	b, err := s.text("a string")
	if err != nil {
		return err
	}
	if bad := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(b); bad != nil {
		s.pos = start
		return s.fail(CodeInvalidValue, bad.Error())
	}
	return nil
}
