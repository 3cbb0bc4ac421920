package customer

import (
	"encoding/binary"
	"fmt"
)

// errDamaged is the error of a row that cannot be read.
func errDamaged(what string) error { return fmt.Errorf("customer: %s is damaged", what) }

// decoder takes values off the front of b. After something did not fit, bad is set and all is zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// bytes is nil when they are empty. They lie in what is decoded.
func (d *decoder) bytes() []byte {
	if n := d.uvarint(); n > 0 {
		return d.take(n)
	}
	return nil
}

func (d *decoder) string() string { return string(d.bytes()) }

// count is how many things follow, each of at least size bytes.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.bad, d.b = true, nil
		return 0
	}
	return int(n)
}

func (d *decoder) end(what string) error {
	if d.bad || len(d.b) > 0 {
		return errDamaged(what)
	}
	return nil
}

func appendBytes(b, s []byte) []byte { return append(binary.AppendUvarint(b, uint64(len(s))), s...) }

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func flag(on bool) byte {
	if on {
		return 1
	}
	return 0
}
