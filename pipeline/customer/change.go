package customer

import (
	"bytes"
	"errors"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// profile finds the profile of a fact, makes it if there is none, and changes it. The slot is valid until the next use of the
// cache; it is nil for a profile that was merged or deleted, of which no facts should come.
func (p *processor) profile(f *fact.Fact, w who) (s *slot, made bool, err error) {
	h, s, err := p.head(w)
	if err != nil {
		return nil, false, err
	}
	switch h.standing {
	case merged, deleted:
		p.m.stray.Inc()
		return nil, false, nil
	case living:
		same := simple(f.Change)
		if bits := bitsOf(f.Who); h.has&bits == bits && (f.Change == nil || same != 0 && same == s.same) {
			return s, false, nil
		}
		if err := p.revise(f, w, h); err != nil {
			return nil, false, err
		}
		s = p.known.find(w)
		s.same = same
		return s, false, nil
	}
	d := document{created: f.At.UnixMilli(), updated: f.At.UnixMilli()}
	p.change(&d, f)
	if err := p.write(w, nil, &d); err != nil {
		return nil, false, err
	}
	p.setHead(w, head{standing: living, has: d.has(), last: never})
	return p.known.find(w), true, nil
}

// bitsOf are the kinds of identifiers, as in head.
func bitsOf(ids []fact.Identifier) (bits uint8) {
	for _, id := range ids {
		if id.Kind != fact.ByProfile {
			bits |= 1 << id.Kind
		}
	}
	return bits
}

// simple is a hash of a change that changes nothing when it is made twice in a row; 0 for others. Many events carry the same
// attributes of their profile each time.
func simple(c *fact.Change) uint64 {
	if c == nil || len(c.Append)+len(c.Unappend)+len(c.Unset)+len(c.Consent)+len(c.Lists)+len(c.Suppressions) > 0 {
		return 0
	}
	return xxhash.Sum64(c.Attributes) ^ xxhash.Sum64(c.Properties)*31 | 1
}

// revise changes a profile that is there.
func (p *processor) revise(f *fact.Fact, w who, h head) error {
	before, raw, err := p.document(w)
	if err != nil {
		return err
	}
	after := before.clone()
	p.change(&after, f)
	return p.replace(w, h, before, &after, raw, f.At.UnixMilli())
}

// replace writes a profile if it differs from what it was.
func (p *processor) replace(w who, h head, before, after *document, raw []byte, now int64) error {
	if bytes.Equal(after.append(nil), raw) {
		return nil
	}
	after.updated = max(after.updated, now)
	if err := p.write(w, before, after); err != nil {
		return err
	}
	h.has = after.has()
	p.setHead(w, h)
	return nil
}

// change applies all that a fact says of a profile.
func (p *processor) change(d *document, f *fact.Fact) {
	d.fillIDs(f.Who)
	c, now := f.Change, f.At.UnixMilli()
	if c == nil {
		return
	}
	switch err := d.setJSON(c, int(p.o.MaxProfile)); {
	case errors.Is(err, errTooLarge):
		p.m.oversize.Inc()
	case err != nil:
		p.damaged("change", err)
	}
	for _, m := range c.Lists {
		if m.Join {
			d.join(m.List, now)
		} else {
			d.leave(m.List)
		}
	}
	for _, s := range c.Suppressions {
		d.change(s, now)
	}
	for i := range c.Consent {
		d.say(&c.Consent[i], now)
	}
}

// document reads a profile that is there, and its row.
func (p *processor) document(w who) (*document, []byte, error) {
	raw, err := p.st.get(append(append(p.key[:0], prefixDocument), w[:]...))
	if err != nil {
		return nil, nil, err
	}
	d := new(document)
	return d, raw, d.parse(raw)
}

// write writes a profile and those rows of indexes that changed. Either document may be nil: there was none, or is none any more.
func (p *processor) write(w who, before, after *document) error {
	key := append(append(p.key[:0], prefixDocument), w[:]...)
	if after == nil {
		if err := p.st.tx.Delete(key); err != nil {
			return err
		}
	} else {
		p.value = after.append(p.value[:0])
		if err := p.st.tx.Set(key, p.value); err != nil {
			return err
		}
	}
	return p.index(w, before, after)
}

// index brings the rows of the indexes from one document to another.
func (p *processor) index(w who, before, after *document) error {
	for i := range indexes {
		was, is := indexes[i].of(before), indexes[i].of(after)
		if was != nil && !bytes.Equal(was, is) {
			if err := p.st.tx.Delete(p.indexKey(indexes[i].prefix, w, was)); err != nil {
				return err
			}
		}
		if is != nil && !bytes.Equal(was, is) {
			if err := p.st.tx.Put(p.indexKey(indexes[i].prefix, w, is), []byte{rowVersion}); err != nil {
				return err
			}
		}
	}
	return p.indexLists(w, before, after)
}

// index is rows that have profiles in an order.
type index struct {
	prefix byte
	at     func(*document) []byte
}

// of is the place of a document; nil of none.
func (i *index) of(d *document) []byte {
	if d == nil {
		return nil
	}
	return i.at(d)
}

// indexes are those in which each profile is once: where it is in them.
var indexes = [...]index{
	{prefixCreated, func(d *document) []byte { return appendMillis(nil, d.created) }},
	{prefixUpdated, func(d *document) []byte { return appendMillis(nil, d.updated) }},
	{prefixEmail, func(d *document) []byte { return emailPosition(*d.id(fact.ByEmail)) }},
}

// indexLists does it for the memberships.
func (p *processor) indexLists(w who, before, after *document) error {
	var was, is []membership
	if before != nil {
		was = before.lists
	}
	if after != nil {
		is = after.lists
	}
	for _, m := range was {
		if !slices.Contains(is, m) {
			if err := p.st.tx.Delete(p.indexKey(prefixMember, w, m.position())); err != nil {
				return err
			}
		}
	}
	for _, m := range is {
		if !slices.Contains(was, m) {
			if err := p.st.tx.Put(p.indexKey(prefixMember, w, m.position()), []byte{rowVersion}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m membership) position() []byte { return appendMillis(appendName(nil, m.list), m.joined) }

// indexKey makes the key of a profile at a place in an index. It is valid until the next key is made.
func (p *processor) indexKey(prefix byte, w who, at []byte) []byte {
	p.key = append(append(p.key[:0], prefix), w[:8]...)
	p.key = append(append(p.key, at...), w[8:]...)
	return p.key
}

// emailPosition is the place of an address in the order of addresses. It has no zero byte but the last.
func emailPosition(email string) []byte { return append([]byte(email), 0) }
