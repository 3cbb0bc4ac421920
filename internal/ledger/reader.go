package ledger

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

var (
	// ErrTorn: the file ends inside a record. What was read before it is good;
	// the writer was ended before its last write was complete.
	ErrTorn = errors.New("ledger: the last record is incomplete")
	// ErrCorrupt: the file is not a ledger, or bytes in it were changed.
	ErrCorrupt = errors.New("ledger: corrupt record")
)

// Record is one entry; Kind says which of the two is set.
type Record struct {
	Kind     Kind
	Ack      Ack
	Delivery Delivery
}

// Reader reads records in the order in which they were written.
type Reader struct {
	r       *bufio.Reader
	started bool
	payload []byte
	offset  int64
}

// NewReader reads the format that Book writes. The magic is checked by the first Next.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 256<<10)} }

// Next returns the next record, io.EOF after the last one, ErrTorn or
// ErrCorrupt with the offset otherwise. Records of kinds that this version
// does not know are passed over.
func (r *Reader) Next() (Record, error) {
	if err := r.start(); err != nil {
		return Record{}, err
	}
	for {
		payload, err := r.frame()
		if err != nil {
			return Record{}, err
		}
		f := fields{b: payload[1:]}
		rec := Record{Kind: Kind(payload[0])}
		switch rec.Kind {
		case KindAck:
			rec.Ack = f.ack()
		case KindDelivery:
			rec.Delivery = f.delivery()
		default:
			continue
		}
		if f.bad || rec.Ack.Size < 0 || rec.Delivery.Size < 0 {
			return Record{}, fmt.Errorf("%w before byte %d", ErrCorrupt, r.offset)
		}
		return rec, nil
	}
}

func (r *Reader) start() error {
	if r.started {
		return nil
	}
	r.started = true
	magic := make([]byte, len(Magic))
	n, err := io.ReadFull(r.r, magic)
	switch {
	case err == io.EOF:
		return io.EOF
	case string(magic[:n]) != Magic[:n]:
		return fmt.Errorf("%w: not a ledger file (want %q at its start)", ErrCorrupt, Magic)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return ErrTorn
	}
	r.offset = int64(n)
	return err
}

// frame returns the next payload, never empty; it is valid until the next call.
func (r *Reader) frame() ([]byte, error) {
	var head [lengthRoom]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return nil, tornUnlessEOF(err)
	}
	n := int(head[0]) | int(head[1])<<8 | int(head[2])<<16
	if n == 0 || n > maxPayload {
		return nil, fmt.Errorf("%w at byte %d: length %d", ErrCorrupt, r.offset, n)
	}
	if cap(r.payload) < n+frameTail {
		r.payload = make([]byte, n+frameTail)
	}
	buf := r.payload[:n+frameTail]
	if _, err := io.ReadFull(r.r, buf); err != nil {
		if err == io.EOF {
			return nil, ErrTorn
		}
		return nil, tornUnlessEOF(err)
	}
	if crc32.Checksum(buf[:n], castagnoli) != binary.LittleEndian.Uint32(buf[n:]) {
		return nil, fmt.Errorf("%w at byte %d: wrong checksum", ErrCorrupt, r.offset)
	}
	r.offset += int64(lengthRoom + len(buf))
	return buf[:n], nil
}

func tornUnlessEOF(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTorn
	}
	return err
}

// Read returns all acks and deliveries of r. With ErrTorn or ErrCorrupt it also returns what stands before the damage.
func Read(r io.Reader) (acks []Ack, deliveries []Delivery, err error) {
	lr := NewReader(r)
	for {
		rec, err := lr.Next()
		switch {
		case err == io.EOF:
			return acks, deliveries, nil
		case err != nil:
			return acks, deliveries, err
		case rec.Kind == KindAck:
			acks = append(acks, rec.Ack)
		default:
			deliveries = append(deliveries, rec.Delivery)
		}
	}
}

// ReadFile is Read on the named file.
func ReadFile(path string) (acks []Ack, deliveries []Delivery, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("ledger: %w", err)
	}
	defer f.Close()
	return Read(f)
}
