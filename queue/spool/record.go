package spool

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/godwit-mta/godwit/internal/mail"
)

// rowSpan is where a row's frame lies inside its record's data.
type rowSpan struct{ off, len uint32 }

// encoded is a batch ready to append: the parts of the record, and where each row lies.
type encoded struct {
	parts [][]byte
	rows  []rowSpan
	size  int
}

// encodeBatch lays a batch out without copying its body.
//
//	version | frame(header) | frame(body)? | frame(receipt)? | u32 rows | frame(row)…
func (c rowCodec) encodeBatch(b *mail.Batch) encoded {
	h := headerOf(b)
	front := make([]byte, 0, 320)
	front = append(front, batchVersion)
	front = frame(front, encodeHeader(&h))
	var out encoded
	back := make([]byte, 0, 64+96*len(b.Messages))
	if h.bodyInline {
		front = binary.LittleEndian.AppendUint32(front, uint32(len(b.Body.Data)))
		out.parts = append(out.parts, front, b.Body.Data)
		back = binary.LittleEndian.AppendUint32(back, crc32.Checksum(b.Body.Data, castagnoli))
		out.size = len(front) + len(b.Body.Data)
	} else {
		out.parts = append(out.parts, front)
		out.size = len(front)
	}
	if b.Receipt != nil {
		back = frame(back, encodeReceipt(b.Receipt))
	}
	back = binary.LittleEndian.AppendUint32(back, uint32(len(b.Messages)))
	out.rows = make([]rowSpan, len(b.Messages))
	for i, m := range b.Messages {
		start := len(back)
		back = append(back, 0, 0, 0, 0)
		back = c.encode(back, &h, m, i)
		row := back[start+4:]
		binary.LittleEndian.PutUint32(back[start:], uint32(len(row)))
		back = binary.LittleEndian.AppendUint32(back, crc32.Checksum(row, castagnoli))
		out.rows[i] = rowSpan{off: uint32(out.size + start), len: uint32(len(back) - start)}
	}
	out.parts = append(out.parts, back)
	out.size += len(back)
	return out
}

func headerOf(b *mail.Batch) header {
	h := header{contentUntil: b.ContentUntil, contentOwner: b.ContentTenant, hasReceipt: b.Receipt != nil}
	if len(b.Messages) > 0 {
		m := b.Messages[0]
		h.batch, h.first, h.accepted = m.Batch, m.ID, m.Accepted
		h.body = m.Body
		h.hasDefaults, h.defaults = true, *m
		h.defaults.DSN.OriginalRecipient = ""
	}
	if b.Body != nil {
		h.body = mail.BodyRef{ID: b.Body.ID, Kind: b.Body.Kind, Size: b.Body.Size,
			EightBit: b.Body.EightBit, Content: !b.ContentUntil.IsZero()}
		h.bodyLarge = b.Body.Path != ""
		h.bodyInline = !h.bodyLarge
	}
	return h
}

// decodedBatch is a whole record read back.
type decodedBatch struct {
	header   *header
	bodyOff  uint32 // of the body's first byte inside the record's data
	receipt  *mail.Receipt
	messages []*mail.Message
	rows     []rowSpan
}

func (c rowCodec) decodeBatch(data []byte) (*decodedBatch, error) {
	if len(data) < 1 || data[0] != batchVersion {
		return nil, fmt.Errorf("%w: unknown batch version", errDamaged)
	}
	content, rest, err := unframe(data[headerAt:])
	if err != nil {
		return nil, err
	}
	out := &decodedBatch{}
	if out.header, err = decodeHeader(content); err != nil {
		return nil, err
	}
	if out.header.bodyInline {
		out.bodyOff = uint32(len(data)-len(rest)) + 4
		if _, rest, err = unframe(rest); err != nil {
			return nil, err
		}
	}
	if out.header.hasReceipt {
		if content, rest, err = unframe(rest); err != nil {
			return nil, err
		}
		if out.receipt, err = decodeReceipt(content); err != nil {
			return nil, err
		}
	}
	if len(rest) < 4 {
		return nil, errDamaged
	}
	count := binary.LittleEndian.Uint32(rest)
	return out, c.decodeRows(out, data, rest[4:], count)
}

func (c rowCodec) decodeRows(out *decodedBatch, data, rest []byte, count uint32) error {
	for range count {
		off := uint32(len(data) - len(rest))
		content, after, err := unframe(rest)
		if err != nil {
			return err
		}
		m, err := c.decode(content, out.header)
		if err != nil {
			return err
		}
		out.messages = append(out.messages, m)
		out.rows = append(out.rows, rowSpan{off: off, len: uint32(len(rest) - len(after))})
		rest = after
	}
	return nil
}

func encodeReceipt(r *mail.Receipt) []byte {
	e := encoder{b: make([]byte, 0, 96+len(r.Answer))}
	e.string(r.Tenant)
	e.string(r.Key)
	e.b = append(e.b, r.Digest[:]...)
	e.time(r.At)
	e.bytes(r.Answer)
	return e.b
}

func decodeReceipt(b []byte) (*mail.Receipt, error) {
	d := decoder{b: b}
	r := &mail.Receipt{Tenant: d.string(), Key: d.string()}
	copy(r.Digest[:], d.take(32))
	r.At = d.time()
	r.Answer = d.bytes()
	return r, d.err
}
