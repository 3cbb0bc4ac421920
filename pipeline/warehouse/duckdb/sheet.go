//go:build cgo

package duckdb

import (
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/duckdb/duckdb-go/v2/mapping"
	"golang.org/x/sys/unix"
)

// sheet appends rows to a table, a vector of each column at a time. The driver's own Appender takes
// one boxed value after the other and makes a call into C for each text and each NULL; this one writes into
// the vectors' memory, and columns that are not set stay NULL at no cost.
type sheet struct {
	appender mapping.Appender
	chunk    mapping.DataChunk
	types    []mapping.LogicalType
	columns  []vector
	filled   []bool // which columns have got any value
	row      int
	capacity int
	text     []byte // for the texts of this chunk: memory that the garbage collector does not know
	used     int
}

// vector is the memory of one column.
type vector struct {
	vec  mapping.Vector
	data unsafe.Pointer
	mask unsafe.Pointer // a bit for each row: whether there is a value
}

const textSpace = 4 << 20

// stringView is a text as a vector has it: in place if it is short, else by its address.
type stringView struct {
	length uint32
	begin  [4]byte
	rest   [8]byte
}

const inPlace = 12

// newSheet begins appending to a table. Whatever comes of it, close must be called.
func newSheet(c *sql.Conn, catalog, schema, table string) (*sheet, error) {
	s := &sheet{capacity: int(mapping.VectorSize())}
	err := withHandle(c, func(h mapping.Connection) error {
		if mapping.AppenderCreateExt(h, catalog, schema, table, &s.appender) == mapping.StateError {
			return errors.New(mapping.AppenderError(s.appender))
		}
		return nil
	})
	if err != nil {
		mapping.AppenderDestroy(&s.appender)
		return nil, fmt.Errorf("append to %s: %w", table, err)
	}
	for i := range mapping.AppenderColumnCount(s.appender) {
		s.types = append(s.types, mapping.AppenderColumnType(s.appender, i))
	}
	s.chunk = mapping.CreateDataChunk(s.types)
	s.columns, s.filled = make([]vector, len(s.types)), make([]bool, len(s.types))
	if s.text, err = unix.Mmap(-1, 0, textSpace, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err != nil {
		s.free()
		return nil, fmt.Errorf("append to %s: %w", table, err)
	}
	s.begin()
	return s, nil
}

// withHandle calls f with the driver's connection, which it does not hand out itself.
func withHandle(c *sql.Conn, f func(mapping.Connection) error) error {
	return c.Raw(func(driverConn any) error {
		v := reflect.ValueOf(driverConn)
		if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
			return fmt.Errorf("connection is a %T", driverConn)
		}
		field := v.Elem().FieldByName("conn")
		if !field.IsValid() || field.Type() != reflect.TypeFor[mapping.Connection]() {
			return fmt.Errorf("a %T has no handle: the driver has changed", driverConn)
		}
		return f(*(*mapping.Connection)(unsafe.Pointer(field.UnsafeAddr())))
	})
}

// begin starts an empty chunk: every value NULL.
func (s *sheet) begin() {
	mapping.DataChunkReset(s.chunk)
	mapping.DataChunkSetSize(s.chunk, mapping.IdxT(s.capacity))
	for i := range s.columns {
		v := mapping.DataChunkGetVector(s.chunk, mapping.IdxT(i))
		mapping.VectorEnsureValidityWritable(v)
		s.columns[i] = vector{v, mapping.VectorGetData(v), mapping.VectorGetValidity(v)}
		clear(unsafe.Slice((*uint64)(s.columns[i].mask), (s.capacity+63)/64))
	}
	s.row, s.used = 0, 0
}

// next ends a row.
func (s *sheet) next() error {
	s.row++
	if s.row < s.capacity && s.used < textSpace/2 {
		return nil
	}
	return s.flush()
}

func (s *sheet) flush() error {
	if s.row == 0 {
		return nil
	}
	mapping.DataChunkSetSize(s.chunk, mapping.IdxT(s.row))
	if mapping.AppendDataChunk(s.appender, s.chunk) == mapping.StateError {
		return errors.New(mapping.AppenderError(s.appender))
	}
	s.begin()
	return nil
}

// close hands the rows to the table and frees the sheet.
func (s *sheet) close() error {
	err := s.flush()
	if err == nil && mapping.AppenderClose(s.appender) == mapping.StateError {
		err = errors.New(mapping.AppenderError(s.appender))
	}
	if err != nil {
		mapping.AppenderClear(s.appender)
	}
	s.free()
	return err
}

func (s *sheet) free() {
	if s.chunk.Ptr != nil {
		mapping.DestroyDataChunk(&s.chunk)
	}
	for i := range s.types {
		mapping.DestroyLogicalType(&s.types[i])
	}
	mapping.AppenderDestroy(&s.appender)
	if s.text != nil {
		_ = unix.Munmap(s.text)
		s.text = nil
	}
}

// valid marks the value of a column as there.
func (s *sheet) valid(column int) {
	word := (*uint64)(unsafe.Add(s.columns[column].mask, s.row/64*8))
	*word |= 1 << (s.row % 64)
	s.filled[column] = true
}

func put[T any](s *sheet, column int, value T) {
	*(*T)(unsafe.Add(s.columns[column].data, uintptr(s.row)*unsafe.Sizeof(value))) = value
	s.valid(column)
}

func (s *sheet) uint64(column int, v uint64) { put(s, column, v) }
func (s *sheet) uint32(column int, v uint32) { put(s, column, v) }
func (s *sheet) int64(column int, v int64)   { put(s, column, v) }
func (s *sheet) int32(column int, v int32)   { put(s, column, v) }
func (s *sheet) float(column int, v float64) { put(s, column, v) }
func (s *sheet) bool(column int, v bool)     { put(s, column, v) }

// time writes a TIMESTAMP; the zero time is NULL.
func (s *sheet) time(column int, t time.Time) {
	if !t.IsZero() {
		put(s, column, t.UnixMicro())
	}
}

// uuid writes a UUID, which is a number whose sign is turned so that it sorts as its bytes do.
func (s *sheet) uuid(column int, id [16]byte) {
	hi, lo := be64(id[:8]), be64(id[8:])
	put(s, column, [2]uint64{lo, hi ^ 1<<63})
}

func be64(b []byte) uint64 {
	return uint64(b[0])<<56 | uint64(b[1])<<48 | uint64(b[2])<<40 | uint64(b[3])<<32 | uint64(b[4])<<24 | uint64(b[5])<<16 | uint64(b[6])<<8 | uint64(b[7])
}

// string writes a text, with what is no UTF-8 replaced, for the database wants nothing else.
func (s *sheet) string(column int, v string) {
	if !utf8.ValidString(v) {
		v = strings.ToValidUTF8(v, "\uFFFD")
	}
	view := stringView{length: uint32(len(v))}
	switch {
	case len(v) <= inPlace:
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&view.begin)), inPlace), v)
	case s.used+len(v) <= len(s.text):
		at := s.text[s.used:]
		copy(at, v)
		s.used += len(v)
		copy(view.begin[:], v)
		*(*unsafe.Pointer)(unsafe.Pointer(&view.rest)) = unsafe.Pointer(&at[0])
	default:
		mapping.VectorAssignStringElementLen(s.columns[column].vec, mapping.IdxT(s.row), []byte(v))
		s.valid(column)
		return
	}
	put(s, column, view)
}

// text is string, but leaves an empty one NULL.
func (s *sheet) textOr(column int, v string) {
	if v != "" {
		s.string(column, v)
	}
}

// bytes is string of bytes; none are NULL.
func (s *sheet) bytes(column int, v []byte) {
	if len(v) > 0 {
		s.string(column, unsafe.String(&v[0], len(v)))
	}
}
