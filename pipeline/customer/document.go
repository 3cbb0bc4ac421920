package customer

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/godwit-mta/godwit/pipeline/customer/patch"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// document is a profile as its row has it.
type document struct {
	created, updated int64                    // milliseconds
	ids              [fact.ByAnonymous]string // by kind, from fact.ByExternal on
	attributes       []byte                   // JSON object, without identifiers; nil if empty
	properties       []byte                   // JSON object; nil if empty
	consents         []consent                // sorted by channel and list
	suppressions     []suppression            // sorted by reason
	lists            []membership             // sorted by list
}

type membership struct {
	list   string
	joined int64
}

func (d *document) id(k fact.IdentifierKind) *string { return &d.ids[k-fact.ByExternal] }

func (d *document) append(b []byte) []byte {
	b = append(b, rowVersion)
	b = binary.AppendVarint(b, d.created)
	b = binary.AppendVarint(b, d.updated)
	for _, id := range d.ids {
		b = appendString(b, id)
	}
	b = appendBytes(b, d.attributes)
	b = appendBytes(b, d.properties)
	b = binary.AppendUvarint(b, uint64(len(d.consents)))
	for i := range d.consents {
		b = d.consents[i].append(b)
	}
	b = binary.AppendUvarint(b, uint64(len(d.suppressions)))
	for _, s := range d.suppressions {
		b = binary.AppendVarint(appendString(b, s.reason), s.at)
	}
	b = binary.AppendUvarint(b, uint64(len(d.lists)))
	for _, m := range d.lists {
		b = binary.AppendVarint(appendString(b, m.list), m.joined)
	}
	return b
}

// parse reads a row. Attributes and properties lie in b.
func (d *document) parse(b []byte) error {
	r := decoder{b: b}
	v := r.byte()
	*d = document{created: r.varint(), updated: r.varint()}
	for i := range d.ids {
		d.ids[i] = r.string()
	}
	d.attributes, d.properties = r.bytes(), r.bytes()
	for range r.count(consentSize) {
		d.consents = append(d.consents, parseConsent(&r))
	}
	for range r.count(2) {
		d.suppressions = append(d.suppressions, suppression{r.string(), r.varint()})
	}
	for range r.count(2) {
		d.lists = append(d.lists, membership{r.string(), r.varint()})
	}
	if v != rowVersion {
		r.bad = true
	}
	return r.end("document of a profile")
}

// clone copies what may be changed in place.
func (d *document) clone() document {
	out := *d
	out.consents, out.suppressions, out.lists = slices.Clone(d.consents), slices.Clone(d.suppressions), slices.Clone(d.lists)
	return out
}

// has is the bits of the identifiers that are there.
func (d *document) has() (bits uint8) {
	for i, id := range d.ids {
		if id != "" {
			bits |= 1 << (fact.IdentifierKind(i) + fact.ByExternal)
		}
	}
	return bits
}

// fillIDs takes identifiers that the profile is known by and has none of that kind.
func (d *document) fillIDs(all []fact.Identifier) {
	for _, id := range all {
		if id.Kind == fact.ByProfile || id.Kind > fact.ByAnonymous {
			continue
		}
		if mine := d.id(id.Kind); *mine == "" {
			*mine = id.Value
		}
	}
}

// errTooLarge says that a change was not taken.
var errTooLarge = errors.New("customer: the profile would be too large")

// setJSON applies the part of a change that is JSON, whole or not at all.
func (d *document) setJSON(c *fact.Change, most int) error {
	next := *d
	if err := next.setAttributes(c.Attributes); err != nil {
		return err
	}
	if err := next.setProperties(c); err != nil {
		return err
	}
	size := len(next.attributes) + len(next.properties)
	for _, id := range next.ids {
		size += len(id)
	}
	if size > most && size > len(d.attributes)+len(d.properties) {
		return errTooLarge
	}
	*d = next
	return nil
}

// setAttributes sets what is named in a JSON object. Identifiers are kept apart; of a location only what is named is changed.
func (d *document) setAttributes(text []byte) error {
	change, err := patch.Parse(text)
	if err != nil || len(change) == 0 {
		return err
	}
	all, err := patch.Load(d.attributes)
	if err != nil {
		return err
	}
	for kind := fact.ByExternal; kind <= fact.ByAnonymous; kind++ {
		v := change.Get(kind.String())
		if v == nil {
			continue
		}
		var s string // null leaves it empty
		if err := json.Unmarshal(v, &s); err != nil {
			return err
		}
		if kind == fact.ByEmail && s != "" && s != *d.id(kind) {
			d.newAddress()
		}
		*d.id(kind) = s
		change.Remove(kind.String())
	}
	if v := change.Get("location"); len(v) > 0 && v[0] == '{' {
		if err := within(&all, "location", v); err != nil {
			return err
		}
		change.Remove("location")
	}
	all.Set(change)
	d.attributes = text0(all)
	return nil
}

// within sets what an object names in a member that is one.
func within(all *patch.Object, name string, change []byte) error {
	inner, err := patch.Load(change)
	if err != nil {
		return err
	}
	var old patch.Object
	if v := all.Get(name); len(v) > 0 && v[0] == '{' {
		if old, err = patch.Load(v); err != nil {
			return err
		}
	}
	old.Set(inner)
	if len(old) == 0 {
		all.Remove(name)
		return nil
	}
	*all, err = all.With(name, old.Append(nil))
	return err
}

// text0 is the text of an object, nil for an empty one.
func text0(o patch.Object) []byte {
	if len(o) == 0 {
		return nil
	}
	return o.Append(nil)
}

// setProperties sets custom properties, then appends to lists, takes out of lists, and takes away, in this order.
func (d *document) setProperties(c *fact.Change) error {
	if len(c.Properties)+len(c.Append)+len(c.Unappend)+len(c.Unset) == 0 {
		return nil
	}
	all, err := patch.Load(d.properties)
	if err != nil {
		return err
	}
	for i, text := range [][]byte{c.Properties, c.Append, c.Unappend} {
		change, err := patch.Parse(text)
		if err != nil {
			return err
		}
		switch i {
		case 0:
			all.Set(change)
		case 1:
			err = all.Extend(change)
		case 2:
			err = all.Reduce(change)
		}
		if err != nil {
			return err
		}
	}
	if len(c.Unset) > 0 {
		if err := all.Unset(c.Unset); err != nil {
			return err
		}
	}
	d.properties = text0(all)
	return nil
}

// find returns where a membership is, or belongs.
func (d *document) find(list string) (int, bool) {
	return slices.BinarySearchFunc(d.lists, list, func(m membership, l string) int { return strings.Compare(m.list, l) })
}

func (d *document) onList(list string) bool {
	_, there := d.find(list)
	return there
}

func (d *document) join(list string, at int64) {
	if i, there := d.find(list); !there {
		d.lists = slices.Insert(d.lists, i, membership{list, at})
	}
}

func (d *document) leave(list string) {
	if i, there := d.find(list); there {
		d.lists = slices.Delete(d.lists, i, i+1)
	}
}

// merge takes in what a merged profile had. What this one has stays; what it lacks is filled in.
func (d *document) merge(from *document) error {
	sameAddress := *d.id(fact.ByEmail) == "" || *d.id(fact.ByEmail) == *from.id(fact.ByEmail)
	d.created = min(d.created, from.created)
	d.updated = max(d.updated, from.updated)
	for i := range d.ids {
		if d.ids[i] == "" {
			d.ids[i] = from.ids[i]
		}
	}
	var err error
	if d.attributes, err = filled(d.attributes, from.attributes); err != nil {
		return err
	}
	if d.properties, err = filled(d.properties, from.properties); err != nil {
		return err
	}
	for _, m := range from.lists {
		if i, there := d.find(m.list); there {
			d.lists[i].joined = min(d.lists[i].joined, m.joined)
		} else {
			d.lists = slices.Insert(d.lists, i, m)
		}
	}
	d.mergeConsent(from, sameAddress)
	return nil
}

func filled(mine, other []byte) ([]byte, error) {
	if len(other) == 0 {
		return mine, nil
	}
	a, err := patch.Load(mine)
	if err != nil {
		return nil, err
	}
	b, err := patch.Load(other)
	if err != nil {
		return nil, err
	}
	a.Fill(b)
	return text0(a), nil
}
