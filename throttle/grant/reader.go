package grant

import (
	"encoding/binary"
	"io"
)

const readSize = 64 << 10 // holds at least one frame

// reader cuts what a connection brings into frames, without copying.
type reader struct {
	src  io.Reader
	buf  []byte
	r, w int // buf[r:w] is read and not yet taken
}

func newReader(src io.Reader) *reader { return &reader{src: src, buf: make([]byte, readSize)} }

// fill reads once, as much as there is.
func (r *reader) fill() error {
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	return err
}

// frameAt is the complete frame at offset i; ok is false if more must be read first.
func (r *reader) frameAt(i int) (t frameType, payload []byte, next int, ok bool, err error) {
	if r.w-i < headerSize {
		return 0, nil, i, false, nil
	}
	n := int(binary.LittleEndian.Uint16(r.buf[i+1:]))
	if n > maxPayload {
		return 0, nil, i, false, errFrame
	}
	next = i + headerSize + n
	if next > r.w {
		return 0, nil, i, false, nil
	}
	return frameType(r.buf[i]), r.buf[i+headerSize : next : next], next, true, nil
}

// next takes a frame. The payload is valid until the next fill.
func (r *reader) next() (t frameType, payload []byte, ok bool, err error) {
	t, payload, r.r, ok, err = r.frameAt(r.r)
	return t, payload, ok, err
}

// beats shows the Beats among the complete frames, and takes nothing.
func (r *reader) beats(show func(beat) error) error {
	for i := r.r; ; {
		t, p, next, ok, err := r.frameAt(i)
		if err != nil || !ok {
			return err
		}
		if t == frameBeat {
			b, err := decodeBeat(p)
			if err != nil {
				return err
			}
			if err := show(b); err != nil {
				return err
			}
		}
		i = next
	}
}

// magic takes the first bytes of a connection.
func (r *reader) magic() error {
	for r.w-r.r < len(Magic) {
		if err := r.fill(); err != nil {
			return err
		}
	}
	if string(r.buf[r.r:r.r+len(Magic)]) != Magic {
		return ErrMagic
	}
	r.r += len(Magic)
	return nil
}

// wait takes the next frame, reading until it is there.
func (r *reader) wait() (t frameType, payload []byte, err error) {
	for {
		t, payload, ok, err := r.next()
		if ok || err != nil {
			return t, payload, err
		}
		if err := r.fill(); err != nil {
			return 0, nil, err
		}
	}
}
