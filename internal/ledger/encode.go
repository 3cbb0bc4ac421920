package ledger

import (
	"encoding/binary"
	"hash/crc32"
)

// Magic opens every ledger file.
const Magic = "GWLEDG1\n"

// Kind says which record follows.
type Kind byte

// The kinds of records.
const (
	KindAck      Kind = 1
	KindDelivery Kind = 2
)

const (
	maxString  = 4096    // longer strings are cut: an address or id never is that long
	maxPayload = 1 << 20 // a longer one is damage, not data
	frameTail  = 4       // CRC-32C
	lengthRoom = 3       // bytes of the length, always written in full so that it can be filled in afterwards
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendAck appends the framed record to b.
func AppendAck(b []byte, a *Ack) []byte {
	b, start := openFrame(b, KindAck)
	b = binary.LittleEndian.AppendUint64(b, uint64(a.At))
	b = binary.LittleEndian.AppendUint64(b, uint64(a.Began))
	b = binary.AppendUvarint(b, uint64(a.Size))
	b = append(b, a.Sum[:]...)
	b = appendString(b, a.Key)
	b = appendString(b, a.ID)
	b = appendString(b, a.Recipient)
	return closeFrame(b, start)
}

// AppendDelivery appends the framed record to b.
func AppendDelivery(b []byte, d *Delivery) []byte {
	b, start := openFrame(b, KindDelivery)
	b = binary.LittleEndian.AppendUint64(b, uint64(d.At))
	b = binary.AppendUvarint(b, uint64(d.Size))
	b = append(b, d.Sum[:]...)
	b = appendString(b, d.Key)
	b = appendString(b, d.Recipient)
	b = appendString(b, d.ReversePath)
	b = appendString(b, d.Peer)
	b = appendString(b, d.Provider)
	return closeFrame(b, start)
}

func openFrame(b []byte, k Kind) ([]byte, int) {
	start := len(b)
	return append(b, 0, 0, 0, byte(k)), start
}

// closeFrame fills in the length and appends the checksum of the payload.
func closeFrame(b []byte, start int) []byte {
	payload := b[start+lengthRoom:]
	n := len(payload)
	b[start], b[start+1], b[start+2] = byte(n), byte(n>>8), byte(n>>16)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(payload, castagnoli))
}

func appendString(b []byte, s string) []byte {
	if len(s) > maxString {
		s = s[:maxString]
	}
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// fields reads a payload from its front; bad is set by the first thing that does not fit.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n uint64) []byte {
	if f.bad || n > uint64(len(f.b)) {
		f.bad = true
		return nil
	}
	p := f.b[:n]
	f.b = f.b[n:]
	return p
}

func (f *fields) nanos() Nanos {
	p := f.take(8)
	if f.bad {
		return 0
	}
	return Nanos(binary.LittleEndian.Uint64(p))
}

func (f *fields) number() uint64 {
	v, n := binary.Uvarint(f.b)
	if f.bad || n <= 0 {
		f.bad = true
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) text() string { return string(f.take(f.number())) }

func (f *fields) sum() (s Sum) {
	copy(s[:], f.take(uint64(len(s))))
	return s
}

func (f *fields) ack() Ack {
	return Ack{At: f.nanos(), Began: f.nanos(), Size: int64(f.number()), Sum: f.sum(), Key: f.text(), ID: f.text(), Recipient: f.text()}
}

func (f *fields) delivery() Delivery {
	return Delivery{At: f.nanos(), Size: int64(f.number()), Sum: f.sum(), Key: f.text(), Recipient: f.text(), ReversePath: f.text(), Peer: f.text(), Provider: f.text()}
}
