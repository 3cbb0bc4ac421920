package watch

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"
)

// ReadFile is Read on the named file.
func ReadFile(path string) (*Record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	defer f.Close()
	return Read(f)
}

// Read reads a record. With ErrTorn or ErrCorrupt it also returns what stands
// before the damage, and nil only when not even the start can be read.
func Read(r io.Reader) (*Record, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	magic := make([]byte, len(Magic))
	switch n, err := io.ReadFull(br, magic); {
	case string(magic[:n]) != Magic[:n]:
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrCorrupt, Magic)
	case err != nil:
		return nil, tornIfShort(err)
	}
	p := parser{}
	for offset := int64(len(Magic)); ; {
		payload, err := readBlock(br)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return p.done(), fmt.Errorf("%w at byte %d", err, offset)
		}
		if !p.block(payload) {
			return p.done(), fmt.Errorf("%w: bad entry in the block at byte %d", ErrCorrupt, offset)
		}
		offset += int64(blockHead + len(payload))
	}
	if p.rec == nil {
		return nil, ErrTorn
	}
	return p.done(), nil
}

// readBlock returns the next payload, io.EOF behind the last one.
func readBlock(r io.Reader) ([]byte, error) {
	var head [blockHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if err == io.EOF {
			return nil, err
		}
		return nil, tornIfShort(err)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 || n > maxBlock {
		return nil, ErrCorrupt
	}
	// By copying, so that a damaged length takes no more memory than there are bytes.
	payload, err := io.ReadAll(io.LimitReader(r, int64(n)))
	switch {
	case err != nil:
		return nil, fmt.Errorf("watch: %w", err)
	case len(payload) < int(n):
		return nil, ErrTorn
	case checksum(payload) != binary.LittleEndian.Uint32(head[4:]):
		return nil, ErrCorrupt
	}
	return payload, nil
}

func tornIfShort(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return ErrTorn
	}
	return fmt.Errorf("watch: %w", err)
}

// parser turns blocks into a Record.
type parser struct {
	rec     *Record
	b       []byte // what is left of the block
	now     time.Duration
	entries int
	bad     bool
}

func (p *parser) done() *Record { return p.rec }

// block takes one payload and reports whether it is good.
func (p *parser) block(payload []byte) bool {
	p.b = payload
	base := p.duration()
	if base < p.now {
		return false
	}
	p.now = base
	for len(p.b) > 0 && !p.bad {
		kind := p.byte()
		p.now += p.duration()
		if p.now < 0 {
			return false
		}
		p.entry(kind)
		p.entries++
	}
	return !p.bad
}

func (p *parser) entry(kind byte) {
	if p.rec == nil {
		p.start(kind)
		return
	}
	r := p.rec
	switch kind {
	case kindSource:
		addr, err := netip.ParseAddr(p.text())
		if p.bad = p.bad || err != nil; !p.bad {
			r.Sources = append(r.Sources, addr)
		}
	case kindProvider:
		if name := p.text(); !p.bad {
			r.Providers = append(r.Providers, name)
		}
	case kindOpen:
		c := Conn{Source: p.index(len(r.Sources)), Provider: p.index(len(r.Providers)), Port: uint16(p.index(1 << 16)),
			Verdict: p.verdict(), Open: p.now, opened: p.entries}
		if !p.bad {
			r.Conns = append(r.Conns, c)
		}
	case kindClose:
		if n := p.index(len(r.Conns)); !p.bad {
			c := &r.Conns[n]
			p.bad = c.Closed
			c.Close, c.Closed, c.closed = p.now, true, p.entries
		}
	case kindMail:
		if m := (Mail{At: p.now, Conn: p.index(len(r.Conns)), Verdict: p.verdict()}); !p.bad {
			r.Mails = append(r.Mails, m)
		}
	case kindBeat:
		gap := p.duration()
		if p.bad = p.bad || gap > p.now; !p.bad {
			r.Beats = append(r.Beats, Beat{At: p.now, Gap: gap})
		}
	case kindMark:
		if m := (Mark{At: p.now, Text: p.text()}); !p.bad {
			r.Marks = append(r.Marks, m)
		}
	case kindEnd:
		r.Complete = true
	default:
		p.bad = true
	}
	if !p.bad {
		r.End = p.now
	}
}

// start reads the first entry of a file.
func (p *parser) start(kind byte) {
	if kind != kindStart || len(p.b) < 8 {
		p.bad = true
		return
	}
	nanos := int64(binary.LittleEndian.Uint64(p.b))
	p.b = p.b[8:]
	period := p.duration()
	if p.bad = p.bad || period <= 0; !p.bad {
		p.rec = &Record{Start: time.Unix(0, nanos), Period: period}
	}
}

func (p *parser) byte() byte {
	if len(p.b) == 0 {
		p.bad = true
		return 0
	}
	c := p.b[0]
	p.b = p.b[1:]
	return c
}

func (p *parser) number() uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.bad = true
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *parser) duration() time.Duration {
	v := p.number()
	if v > 1<<62 {
		p.bad = true
		return 0
	}
	return time.Duration(v)
}

// index reads a number below n.
func (p *parser) index(n int) int {
	v := p.number()
	if v >= uint64(n) {
		p.bad = true
		return 0
	}
	return int(v)
}

func (p *parser) verdict() Verdict {
	v := Verdict(p.byte())
	p.bad = p.bad || v >= verdicts
	return v
}

func (p *parser) text() string {
	n := p.index(maxText + 1)
	if p.bad || n > len(p.b) {
		p.bad = true
		return ""
	}
	s := string(p.b[:n])
	p.b = p.b[n:]
	return s
}
