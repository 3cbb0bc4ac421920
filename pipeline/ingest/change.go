package ingest

import (
	"fmt"
	"strings"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// attribute is the place of an attribute that a profile may be given.
type attribute int

// Attributes in the order in which a Change has them. The first four are identifiers.
const (
	external attribute = iota
	email
	phone
	anonymous
	firstName
	lastName
	organization
	title
	locale
	image
	location
	attributeCount
)

// identifiers is how many of the attributes are identifiers; kind is that of each.
const identifiers = firstName

func (a attribute) kind() fact.IdentifierKind { return fact.ByExternal + fact.IdentifierKind(a) }

// attributeOf finds an attribute by the name that the API has for it.
func attributeOf(name string) (attribute, bool) {
	switch name {
	case "external_id":
		return external, true
	case "email":
		return email, true
	case "phone_number":
		return phone, true
	case "anonymous_id":
		return anonymous, true
	case "first_name":
		return firstName, true
	case "last_name":
		return lastName, true
	case "organization":
		return organization, true
	case "title":
		return title, true
	case "locale":
		return locale, true
	case "image":
		return image, true
	case "location":
		return location, true
	}
	return 0, false
}

// pointer is that of the attribute below its profile.
func (a attribute) pointer() string {
	return [...]string{"/attributes/external_id", "/attributes/email", "/attributes/phone_number", "/attributes/anonymous_id",
		"/attributes/first_name", "/attributes/last_name", "/attributes/organization", "/attributes/title",
		"/attributes/locale", "/attributes/image", "/attributes/location"}[a]
}

func (a attribute) String() string { return a.pointer()[len("/attributes/"):] }

// profile is what was read of one.
type profile struct {
	who []fact.Identifier
	// nulls says that null clears a value; else it is as if the attribute were not there.
	nulls bool
	// raw has the JSON of each attribute that is to be set, "" for one that is absent. Of identifiers
	// it has only null: the others are in who.
	raw        [attributeCount]string
	properties string
	add        string // meta.patch_properties.append
	remove     string // … unappend
	unset      string // … unset, always an array
	zones      map[string]bool
	change     fact.Change
	taken      bool
	buf        []byte
}

func (p *profile) reset() {
	*p = profile{who: p.who[:0], zones: p.zones, buf: p.buf[:0]}
}

// empty reports whether nothing is to be changed beyond what the identifiers say.
func (p *profile) empty() bool {
	for _, raw := range p.raw {
		if raw != "" {
			return false
		}
	}
	return p.properties == "" && p.add == "" && p.remove == "" && p.unset == ""
}

// take returns the change, and none when it is called again: of the events of one profile in one
// request the first carries it. The change is valid until reset.
func (p *profile) take() *fact.Change {
	if p.taken || p.empty() {
		return nil
	}
	p.taken = true
	p.encode()
	return &p.change
}

// restore makes take return the change again.
func (p *profile) restore() { p.taken = false }

func (p *profile) encode() {
	b := p.buf[:0]
	name := func(name string) {
		if len(b) == 0 {
			b = append(b, '{')
		} else {
			b = append(b, ',')
		}
		b = append(appendText(b, name), ':')
	}
	for _, id := range p.who {
		if id.Kind != fact.ByProfile {
			name(id.Kind.String())
			b = appendText(b, id.Value)
		}
	}
	for a := range attributeCount {
		if p.raw[a] != "" {
			name(a.String())
			b = append(b, p.raw[a]...)
		}
	}
	if len(b) > 0 {
		b = append(b, '}')
	}
	p.buf = b
	p.change = fact.Change{Attributes: b}
	for _, part := range []struct {
		to   *[]byte
		text string
	}{{&p.change.Properties, p.properties}, {&p.change.Append, p.add}, {&p.change.Unappend, p.remove}, {&p.change.Unset, p.unset}} {
		if part.text != "" {
			*part.to = []byte(part.text)
		}
	}
}

// customProperties passes an object of properties, "" for null and what is none.
func (r *reader) customProperties(rel string) string {
	if r.peek() == 'n' {
		r.skip()
		return ""
	}
	start := r.i
	if !r.enter('{', inProfile, rel) {
		return ""
	}
	n := 0
	for ; ; n++ {
		key, ok := r.member(n)
		if !ok {
			break
		}
		r.property(inProfile, rel, key)
	}
	if n > r.o.MaxProperties {
		r.invalid(inProfile, rel, "has %d properties, %d are allowed", n, r.o.MaxProperties)
	}
	if r.bad || n == 0 {
		return ""
	}
	return r.doc[start:r.i]
}

// profileMeta reads patch_properties; what else a meta object has is passed over.
func (r *reader) profileMeta() {
	if r.peek() == 'n' {
		r.skip()
		return
	}
	if !r.enter('{', inProfile, "/meta") {
		return
	}
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			return
		}
		if key == "patch_properties" && r.peek() != 'n' {
			r.patchProperties()
			continue
		}
		r.skip()
	}
}

func (r *reader) patchProperties() {
	const rel = "/meta/patch_properties"
	if !r.enter('{', inProfile, rel) {
		return
	}
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			return
		}
		switch key {
		case "append":
			r.profile.add = r.customProperties(rel + "/append")
		case "unappend":
			r.profile.remove = r.customProperties(rel + "/unappend")
		case "unset":
			r.profile.unset = r.unsetNames(rel + "/unset")
		default:
			r.skip()
			r.invalid(inProfile, rel+"/"+escape(key), "must be append, unappend or unset")
		}
	}
}

// unsetNames reads one name or an array of them, and is always an array.
func (r *reader) unsetNames(rel string) string {
	start := r.i
	switch r.peek() {
	case 'n':
		r.skip()
		return ""
	case '"':
		r.skipText()
		if r.bad {
			return ""
		}
		return "[" + strings.TrimSpace(r.doc[start:r.i]) + "]"
	}
	if !r.enter('[', inProfile, rel) {
		return ""
	}
	n := 0
	for ; r.element(n); n++ {
		if r.peek() != '"' {
			r.invalid(inProfile, fmt.Sprintf("%s/%d", rel, n), "must be the name of a property")
		}
		r.skip()
	}
	if n > r.o.MaxProperties {
		r.invalid(inProfile, rel, "has %d names, %d are allowed", n, r.o.MaxProperties)
	}
	if r.bad || n == 0 {
		return ""
	}
	return strings.TrimSpace(r.doc[start:r.i])
}
