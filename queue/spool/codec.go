package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// A batch record is one transaction as it lies in the segment log; the page
// docs/formats/spool.md draws it. Every part that is ever read by itself
// (header, body, row, receipt) carries its own length and CRC-32C, so that a
// row or a body can be read without reading the record around it.
const batchVersion = 1

// Record types in the segment log.
const (
	recordBatch uint8 = 1
	recordMoved uint8 = 2 // rows moved out of a mostly dead segment; only a rebuild reads it
)

const (
	frameOverhead = 8 // u32 length before, u32 CRC after
	headerAt      = 1 // the version byte stands before the header
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged is wrapped by every decoding error.
var errDamaged = errors.New("damaged record")

// header is what all rows of a batch share.
type header struct {
	batch        mail.ID
	first        mail.ID // row i has first.Add(i) unless it says otherwise
	accepted     time.Time
	body         mail.BodyRef
	bodyInline   bool // bytes follow in this record
	bodyLarge    bool // bytes are in a file of their own
	contentUntil time.Time
	contentOwner string
	hasReceipt   bool
	hasDefaults  bool
	defaults     mail.Message
}

// Flags of a row: which fields follow because they differ from the batch's defaults.
const (
	rowID = 1 << iota
	rowTenant
	rowStream
	rowPool
	rowPriority
	rowTags
	rowNotBefore
	rowDeadline
	rowExpires
	rowReversePath
	rowNotify
	rowReturn
	rowUTF8
	rowSubstitutions
	rowHistory
	rowAccepted
)

type encoder struct{ b []byte }

func (e *encoder) uint(v uint64)   { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) bytes(p []byte)  { e.uint(uint64(len(p))); e.b = append(e.b, p...) }
func (e *encoder) string(s string) { e.uint(uint64(len(s))); e.b = append(e.b, s...) }
func (e *encoder) id(id mail.ID)   { e.b = append(e.b, id[:]...) }

func (e *encoder) bool(v bool) {
	if v {
		e.b = append(e.b, 1)
	} else {
		e.b = append(e.b, 0)
	}
}

// time stores nanoseconds; 0 stands for the zero time.
func (e *encoder) time(t time.Time) {
	if t.IsZero() {
		e.uint(0)
		return
	}
	e.uint(uint64(t.UnixNano()))
}

type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = errDamaged
	}
	d.b = nil
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) bytes() []byte {
	p := d.take(d.uint())
	if len(p) == 0 {
		return nil
	}
	return append([]byte(nil), p...)
}

func (d *decoder) string() string { return string(d.take(d.uint())) }

func (d *decoder) id() (id mail.ID) {
	copy(id[:], d.take(16))
	return id
}

func (d *decoder) bool() bool {
	p := d.take(1)
	return len(p) == 1 && p[0] != 0
}

func (d *decoder) time() time.Time {
	n := d.uint()
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(n))
}

// frame appends length, content and checksum.
func frame(dst, content []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(content)))
	dst = append(dst, content...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(content, castagnoli))
}

// unframe returns the content of the frame that b starts with, and what follows it.
func unframe(b []byte) (content, rest []byte, err error) {
	if len(b) < frameOverhead {
		return nil, nil, errDamaged
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if n+frameOverhead > uint64(len(b)) {
		return nil, nil, fmt.Errorf("%w: frame of %d bytes in %d", errDamaged, n, len(b))
	}
	content = b[4 : 4+n]
	if binary.LittleEndian.Uint32(b[4+n:]) != crc32.Checksum(content, castagnoli) {
		return nil, nil, fmt.Errorf("%w: checksum", errDamaged)
	}
	return content, b[n+frameOverhead:], nil
}

func encodeHeader(h *header) []byte {
	e := encoder{b: make([]byte, 0, 256)}
	e.id(h.batch)
	e.id(h.first)
	e.time(h.accepted)
	e.id(h.body.ID)
	e.uint(uint64(h.body.Kind))
	e.uint(uint64(h.body.Size))
	for _, flag := range []bool{h.body.EightBit, h.body.Content, h.bodyInline, h.bodyLarge, h.hasReceipt, h.hasDefaults} {
		e.bool(flag)
	}
	e.time(h.contentUntil)
	e.string(h.contentOwner)
	if h.hasDefaults {
		encodeDefaults(&e, &h.defaults)
	}
	return e.b
}

func decodeHeader(b []byte) (*header, error) {
	d := decoder{b: b}
	h := &header{batch: d.id(), first: d.id(), accepted: d.time()}
	h.body.ID = d.id()
	h.body.Kind = mail.BodyKind(d.uint())
	h.body.Size = int64(d.uint())
	for _, flag := range []*bool{&h.body.EightBit, &h.body.Content, &h.bodyInline, &h.bodyLarge, &h.hasReceipt, &h.hasDefaults} {
		*flag = d.bool()
	}
	h.contentUntil = d.time()
	h.contentOwner = d.string()
	if h.hasDefaults {
		decodeDefaults(&d, &h.defaults)
	}
	return h, d.err
}

func encodeDefaults(e *encoder, m *mail.Message) {
	e.string(m.Tenant)
	e.string(m.Stream)
	e.string(m.Pool)
	e.uint(uint64(m.Priority))
	encodeTags(e, m.Tags)
	e.time(m.NotBefore)
	e.time(m.Deadline)
	e.time(m.Expires)
	e.string(m.ReversePath)
	e.uint(uint64(m.DSN.Notify))
	e.string(m.DSN.Ret)
	e.string(m.DSN.EnvelopeID)
	e.bool(m.SMTPUTF8)
}

func decodeDefaults(d *decoder, m *mail.Message) {
	m.Tenant = d.string()
	m.Stream = d.string()
	m.Pool = d.string()
	m.Priority = mail.Priority(d.uint())
	m.Tags = decodeTags(d)
	m.NotBefore = d.time()
	m.Deadline = d.time()
	m.Expires = d.time()
	m.ReversePath = d.string()
	m.DSN.Notify = mail.Notify(d.uint())
	m.DSN.Ret = d.string()
	m.DSN.EnvelopeID = d.string()
	m.SMTPUTF8 = d.bool()
}

func encodeTags(e *encoder, tags []mail.Tag) {
	e.uint(uint64(len(tags)))
	for _, t := range tags {
		e.string(t.Name)
		e.string(t.Value)
	}
}

func decodeTags(d *decoder) []mail.Tag {
	n := d.uint()
	if n == 0 || n > uint64(len(d.b)) {
		if n != 0 {
			d.fail()
		}
		return nil
	}
	tags := make([]mail.Tag, 0, n)
	for range n {
		tags = append(tags, mail.Tag{Name: d.string(), Value: d.string()})
	}
	return tags
}

func sameTags(a, b []mail.Tag) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// rowField is one optional field: when it is stored, and how.
type rowField struct {
	flag    uint64
	differs func(m *mail.Message, h *header, index int) bool
	encode  func(e *encoder, m *mail.Message)
	decode  func(d *decoder, m *mail.Message)
}

// rowFields lists the optional fields in wire order.
func rowFields() []rowField {
	return []rowField{
		{rowID, func(m *mail.Message, h *header, i int) bool { return m.ID != h.first.Add(i) },
			func(e *encoder, m *mail.Message) { e.id(m.ID) },
			func(d *decoder, m *mail.Message) { m.ID = d.id() }},
		{rowTenant, func(m *mail.Message, h *header, _ int) bool { return m.Tenant != h.defaults.Tenant },
			func(e *encoder, m *mail.Message) { e.string(m.Tenant) },
			func(d *decoder, m *mail.Message) { m.Tenant = d.string() }},
		{rowStream, func(m *mail.Message, h *header, _ int) bool { return m.Stream != h.defaults.Stream },
			func(e *encoder, m *mail.Message) { e.string(m.Stream) },
			func(d *decoder, m *mail.Message) { m.Stream = d.string() }},
		{rowPool, func(m *mail.Message, h *header, _ int) bool { return m.Pool != h.defaults.Pool },
			func(e *encoder, m *mail.Message) { e.string(m.Pool) },
			func(d *decoder, m *mail.Message) { m.Pool = d.string() }},
		{rowPriority, func(m *mail.Message, h *header, _ int) bool { return m.Priority != h.defaults.Priority },
			func(e *encoder, m *mail.Message) { e.uint(uint64(m.Priority)) },
			func(d *decoder, m *mail.Message) { m.Priority = mail.Priority(d.uint()) }},
		{rowTags, func(m *mail.Message, h *header, _ int) bool { return !sameTags(m.Tags, h.defaults.Tags) },
			func(e *encoder, m *mail.Message) { encodeTags(e, m.Tags) },
			func(d *decoder, m *mail.Message) { m.Tags = decodeTags(d) }},
		{rowNotBefore, func(m *mail.Message, h *header, _ int) bool { return !m.NotBefore.Equal(h.defaults.NotBefore) },
			func(e *encoder, m *mail.Message) { e.time(m.NotBefore) },
			func(d *decoder, m *mail.Message) { m.NotBefore = d.time() }},
		{rowDeadline, func(m *mail.Message, h *header, _ int) bool { return !m.Deadline.Equal(h.defaults.Deadline) },
			func(e *encoder, m *mail.Message) { e.time(m.Deadline) },
			func(d *decoder, m *mail.Message) { m.Deadline = d.time() }},
		{rowExpires, func(m *mail.Message, h *header, _ int) bool { return !m.Expires.Equal(h.defaults.Expires) },
			func(e *encoder, m *mail.Message) { e.time(m.Expires) },
			func(d *decoder, m *mail.Message) { m.Expires = d.time() }},
		{rowReversePath, func(m *mail.Message, h *header, _ int) bool { return m.ReversePath != h.defaults.ReversePath },
			func(e *encoder, m *mail.Message) { e.string(m.ReversePath) },
			func(d *decoder, m *mail.Message) { m.ReversePath = d.string() }},
		{rowNotify, func(m *mail.Message, h *header, _ int) bool {
			return m.DSN.Notify != h.defaults.DSN.Notify || m.DSN.OriginalRecipient != ""
		},
			func(e *encoder, m *mail.Message) {
				e.uint(uint64(m.DSN.Notify))
				e.string(m.DSN.OriginalRecipient)
			},
			func(d *decoder, m *mail.Message) {
				m.DSN.Notify = mail.Notify(d.uint())
				m.DSN.OriginalRecipient = d.string()
			}},
		{rowReturn, func(m *mail.Message, h *header, _ int) bool {
			return m.DSN.Ret != h.defaults.DSN.Ret || m.DSN.EnvelopeID != h.defaults.DSN.EnvelopeID
		},
			func(e *encoder, m *mail.Message) { e.string(m.DSN.Ret); e.string(m.DSN.EnvelopeID) },
			func(d *decoder, m *mail.Message) { m.DSN.Ret = d.string(); m.DSN.EnvelopeID = d.string() }},
		{rowUTF8, func(m *mail.Message, h *header, _ int) bool { return m.SMTPUTF8 != h.defaults.SMTPUTF8 },
			func(e *encoder, m *mail.Message) { e.bool(m.SMTPUTF8) },
			func(d *decoder, m *mail.Message) { m.SMTPUTF8 = d.bool() }},
		{rowSubstitutions, func(m *mail.Message, _ *header, _ int) bool { return m.Substitutions != nil },
			func(e *encoder, m *mail.Message) { e.bytes(m.Substitutions) },
			func(d *decoder, m *mail.Message) {
				if m.Substitutions = d.bytes(); m.Substitutions == nil {
					m.Substitutions = []byte{}
				}
			}},
		{rowHistory, func(m *mail.Message, _ *header, _ int) bool { return m.Attempts != 0 },
			func(e *encoder, m *mail.Message) {
				e.uint(uint64(m.Attempts))
				e.time(m.NextAttempt)
				e.string(m.LastReply)
			},
			func(d *decoder, m *mail.Message) {
				m.Attempts = int(d.uint())
				m.NextAttempt = d.time()
				m.LastReply = d.string()
			}},
		{rowAccepted, func(m *mail.Message, h *header, _ int) bool { return !m.Accepted.Equal(h.accepted) },
			func(e *encoder, m *mail.Message) { e.time(m.Accepted) },
			func(d *decoder, m *mail.Message) { m.Accepted = d.time() }},
	}
}

// rowCodec holds the field table, built once per spool.
type rowCodec struct{ fields []rowField }

func newRowCodec() rowCodec { return rowCodec{fields: rowFields()} }

func (c rowCodec) encode(dst []byte, h *header, m *mail.Message, index int) []byte {
	var flags uint64
	for i := range c.fields {
		if c.fields[i].differs(m, h, index) {
			flags |= c.fields[i].flag
		}
	}
	e := encoder{b: dst}
	e.uint(flags)
	e.uint(uint64(index))
	e.string(m.Recipient)
	for i := range c.fields {
		if flags&c.fields[i].flag != 0 {
			c.fields[i].encode(&e, m)
		}
	}
	return e.b
}

func (c rowCodec) decode(b []byte, h *header) (*mail.Message, error) {
	d := decoder{b: b}
	flags := d.uint()
	index := int(d.uint())
	m := h.defaults
	m.ID = h.first.Add(index)
	m.Batch = h.batch
	m.Accepted = h.accepted
	m.Body = h.body
	m.Recipient = d.string()
	for i := range c.fields {
		if flags&c.fields[i].flag != 0 {
			c.fields[i].decode(&d, &m)
		}
	}
	return &m, d.err
}
