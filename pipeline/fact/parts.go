package fact

import "encoding/binary"

func (o *Origin) append(b []byte) []byte {
	b = append(b, byte(o.Stage))
	b = binary.AppendUvarint(b, uint64(o.Partition))
	b = binary.AppendUvarint(b, uint64(o.Offset))
	b = binary.AppendUvarint(b, uint64(o.N))
	return binary.AppendUvarint(b, uint64(o.Generation))
}

func (o *Origin) parse(p *parser) {
	o.Stage = Stage(p.byte())
	o.Partition, o.Offset = int32(p.uvarint()), int64(p.uvarint())
	o.N, o.Generation = int32(p.uvarint()), int64(p.uvarint())
	if o.N <= 0 || o.Partition < 0 || o.Offset < 0 {
		p.bad = true
	}
}

func (e *Event) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(e.Metric))
	b = append(b, flag(e.HasValue)|flag(e.Backfill)<<1)
	b = appendTime(b, e.Time)
	b = binary.AppendVarint(b, e.Value)
	b = appendString(b, e.Service)
	b = appendString(b, e.Name)
	b = appendString(b, e.UID)
	b = appendString(b, e.Currency)
	b = binary.AppendUvarint(b, uint64(len(e.Dims)))
	for i := range e.Dims {
		b = appendString(appendString(b, e.Dims[i].Name), e.Dims[i].Value)
	}
	return appendBytes(b, e.Properties)
}

func (e *Event) parse(p *parser) {
	e.Metric = MetricID(p.uint64())
	f := p.byte()
	e.HasValue, e.Backfill = f&1 != 0, f&2 != 0
	e.Time = p.time()
	e.Value = p.varint()
	e.Service, e.Name, e.UID, e.Currency = p.string(), p.string(), p.string(), p.string()
	if n := p.count(2); n > 0 {
		e.Dims = sized(e.Dims, n)
		for i := range e.Dims {
			e.Dims[i].Name, e.Dims[i].Value = p.string(), p.string()
		}
	}
	e.Properties = p.bytes()
}

func (c *Change) append(b []byte) []byte {
	for _, part := range [...][]byte{c.Attributes, c.Properties, c.Append, c.Unappend, c.Unset} {
		b = appendBytes(b, part)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Consent)))
	for i := range c.Consent {
		s := &c.Consent[i]
		b = append(b, flag(s.Subscribed)|flag(s.Historical)<<1)
		b = appendString(b, s.Channel)
		b = appendString(b, s.List)
		b = appendTime(b, s.At)
		b = appendString(b, s.Method)
		b = appendString(b, s.Source)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Lists)))
	for _, m := range c.Lists {
		b = append(appendString(b, m.List), flag(m.Join))
	}
	b = binary.AppendUvarint(b, uint64(len(c.Suppressions)))
	for _, s := range c.Suppressions {
		b = append(appendString(b, s.Reason), flag(s.Lift))
	}
	return b
}

func (c *Change) parse(p *parser) {
	c.Attributes, c.Properties = p.bytes(), p.bytes()
	c.Append, c.Unappend, c.Unset = p.bytes(), p.bytes(), p.bytes()
	if n := p.count(6); n > 0 {
		c.Consent = make([]Consent, n)
		for i := range c.Consent {
			s := &c.Consent[i]
			f := p.byte()
			s.Subscribed, s.Historical = f&1 != 0, f&2 != 0
			s.Channel, s.List, s.At = p.string(), p.string(), p.time()
			s.Method, s.Source = p.string(), p.string()
		}
	}
	if n := p.count(2); n > 0 {
		c.Lists = make([]Membership, n)
		for i := range c.Lists {
			c.Lists[i].List, c.Lists[i].Join = p.string(), p.byte() != 0
		}
	}
	if n := p.count(2); n > 0 {
		c.Suppressions = make([]Suppression, n)
		for i := range c.Suppressions {
			c.Suppressions[i].Reason, c.Suppressions[i].Lift = p.string(), p.byte() != 0
		}
	}
}

func (c *Claim) append(b []byte) []byte {
	b = appendIdentifier(appendIdentifier(b, c.ID), c.By)
	return append(b, c.Profile[:]...)
}

func (c *Claim) parse(p *parser) {
	c.ID, c.By = p.identifier(), p.identifier()
	copy(c.Profile[:], p.take(16))
}

func (m *Merge) append(b []byte) []byte {
	b = append(b, m.ID[:]...)
	b = append(b, m.Source[:]...)
	return append(b, m.Destination[:]...)
}

func (m *Merge) parse(p *parser) {
	copy(m.ID[:], p.take(16))
	copy(m.Source[:], p.take(16))
	copy(m.Destination[:], p.take(16))
}

func (t *Transfer) append(b []byte) []byte {
	b = append(t.Merge.append(b), byte(t.Level), flag(t.Last))
	b = binary.AppendUvarint(b, uint64(t.N))
	return appendBytes(b, t.Data)
}

func (t *Transfer) parse(p *parser) {
	t.Merge.parse(p)
	t.Level, t.Last = Stage(p.byte()), p.byte() != 0
	t.N, t.Data = int32(p.uvarint()), p.bytes()
}

func (o *Object) append(b []byte) []byte {
	b = appendString(appendString(b, o.Type), o.ID)
	return appendBytes(append(b, flag(o.Data != nil)), o.Data)
}

func (o *Object) parse(p *parser) {
	o.Type, o.ID = p.string(), p.string()
	there := p.byte() != 0
	if o.Data = p.bytes(); there && o.Data == nil {
		o.Data = []byte{}
	}
	if !there && o.Data != nil {
		p.bad = true
	}
}
