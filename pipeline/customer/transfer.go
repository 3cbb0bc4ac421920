package customer

import "github.com/godwit-mta/godwit/pipeline/fact"

// maxChunk bounds the data of one transfer, but for a single event that is larger by itself.
const maxChunk = 256 << 10

// What follows a transfer's version, to its end.
const (
	chunkDocument = 'p'
	chunkEvent    = 'e'
	chunkBucket   = 'd'
)

// chunks packs a profile into transfers, one after the other. Without a destination it does nothing.
type chunks struct {
	p   *processor
	f   *fact.Fact // the marker
	n   int32
	buf []byte
}

func (c *chunks) gone() bool { return c.f.Merge.Destination.IsZero() }

// room begins another transfer if n more bytes do not fit.
func (c *chunks) room(n int) {
	if len(c.buf) > 1 && len(c.buf)+n > maxChunk {
		c.flush(false)
	}
	if len(c.buf) == 0 {
		c.buf = append(c.buf, rowVersion)
	}
}

func (c *chunks) flush(last bool) {
	c.p.send(c.f, c.f.Merge.Destination, &fact.Transfer{Merge: *c.f.Merge, Level: fact.StageCustomer, N: c.n, Last: last, Data: c.buf})
	c.n++
	c.buf = c.buf[:0]
}

func (c *chunks) document(raw []byte, last int64) {
	if c.gone() {
		return
	}
	c.room(len(raw) + 20)
	c.buf = append(c.buf, chunkDocument)
	h := head{standing: living, last: last}
	c.buf = appendBytes(c.buf, h.append(nil))
	c.buf = appendBytes(c.buf, raw)
}

// row adds an event or a count: its key behind the profile, and its row.
func (c *chunks) row(kind byte, key, row []byte) {
	if c.gone() {
		return
	}
	c.room(len(key) + len(row) + 6)
	c.buf = append(append(c.buf, kind), key...)
	c.buf = appendBytes(c.buf, row)
}

// end sends what is left.
func (c *chunks) end() error {
	if len(c.buf) > 0 {
		c.flush(true)
	}
	return nil
}

// arrive takes in one transfer. What is in it stands for itself, so the order of transfers does not matter, but for
// the document, which is in the first one.
func (p *processor) arrive(f *fact.Fact, w who, h head) error {
	d := decoder{b: f.Transfer.Data}
	if v := d.byte(); v != rowVersion {
		p.damaged("transfer", errDamaged("transfer"))
		return nil
	}
	for len(d.b) > 0 && !d.bad {
		var err error
		switch d.byte() {
		case chunkDocument:
			h, err = p.arriveDocument(f, w, h, d.bytes(), d.bytes())
		case chunkEvent:
			err = p.arriveEvent(w, d.take(8+hashSize), d.bytes())
		case chunkBucket:
			err = p.arriveBucket(w, d.take(8+8), d.bytes())
		default:
			d.bad = true
		}
		if err != nil {
			return err
		}
	}
	if d.bad {
		p.damaged("transfer", errDamaged("transfer"))
	}
	return nil
}

// arriveDocument merges what a profile had into what the destination has.
func (p *processor) arriveDocument(f *fact.Fact, w who, h head, headRow, raw []byte) (head, error) {
	var from document
	var was head
	if err := was.parse(headRow); err != nil {
		p.damaged("transfer", err)
		return h, nil
	}
	if err := from.parse(raw); err != nil {
		p.damaged("transfer", err)
		return h, nil
	}
	h.last = max(h.last, was.last)
	if h.standing == absent {
		h.standing, h.has = living, from.has()
		from.updated = max(from.updated, f.At.UnixMilli())
		p.setHead(w, h)
		return h, p.write(w, nil, &from)
	}
	p.setHead(w, h)
	before, old, err := p.document(w)
	if err != nil {
		return h, err
	}
	after := before.clone()
	if err := after.merge(&from); err != nil {
		p.damaged("transfer", err)
		return h, nil
	}
	if err := p.replace(w, h, before, &after, old, f.At.UnixMilli()); err != nil {
		return h, err
	}
	h.has = after.has()
	return h, nil
}

// arriveEvent takes an event that the destination does not have.
func (p *processor) arriveEvent(w who, tail, value []byte) error {
	var r row
	if tail == nil || r.parse(value) != nil {
		p.damaged("transfer", errDamaged("event"))
		return nil
	}
	p.key = append(append(append(p.key[:0], prefixEvent), w[:]...), tail...)
	if there, err := p.st.tx.Has(p.key); err != nil || there {
		p.m.duplicates.Inc()
		return err
	}
	if err := p.setEvent(p.key, value); err != nil {
		return err
	}
	return p.expectOf(w, p.dueDay(&r))
}

// arriveBucket adds a count of a day.
func (p *processor) arriveBucket(w who, tail, value []byte) error {
	var b bucket
	if tail == nil || b.parse(value, millisIn(tail[8:])) != nil {
		p.damaged("transfer", errDamaged("count of a day"))
		return nil
	}
	p.key = append(append(append(p.key[:0], prefixBucket), w[:]...), tail...)
	return p.addBucket(p.key, b)
}
