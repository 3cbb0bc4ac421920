package ingest

import (
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/text/language"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/identity"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// ProfileChange reads the attributes and the meta object of a profile resource, as POST and PATCH of
// profiles, imports and bulk jobs have them; meta may be nil. pointer is that of the resource, such as /data or
// /data/attributes/profiles/data/3: errors name what is below it. The identifiers come normalised and strongest first; there may be none.
// The change has all attributes that were given, null for those to be cleared, and is never nil without an error.
func (o Options) ProfileChange(tenant string, attributes, meta []byte, pointer string) ([]fact.Identifier, *fact.Change, jsonapi.Errors) {
	r := &reader{o: &o}
	r.begin(tenant, "", time.Time{})
	r.alone, r.base, r.profile.nulls = true, pointer, true
	for _, part := range []struct {
		doc  []byte
		name string
		read func()
	}{{attributes, "attributes", r.profileAttributes}, {meta, "meta", r.profileMeta}} {
		if len(part.doc) == 0 {
			continue
		}
		r.scanner = scanner{doc: mend(string(part.doc))}
		if utf8.ValidString(r.doc) {
			part.read()
			r.end()
		} else {
			r.fail()
		}
		if r.bad {
			return nil, nil, jsonapi.Errors{jsonapi.Invalid(pointer+"/"+part.name, "is not JSON: it goes wrong at byte %d", r.i)}
		}
	}
	if len(r.errs) > 0 {
		return nil, nil, r.errs
	}
	identity.Sort(r.profile.who)
	r.profile.encode()
	change := r.profile.change
	return r.profile.who, &change, nil
}

// ProfileChange is Options.ProfileChange with the limits of the door.
func (k *Door) ProfileChange(tenant string, attributes, meta []byte, pointer string) ([]fact.Identifier, *fact.Change, jsonapi.Errors) {
	return k.o.ProfileChange(tenant, attributes, meta, pointer)
}

// readProfile reads the profile of an event, behind its brace.
func (r *reader) readProfile() {
	r.profile.reset()
	before := len(r.errs)
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			break
		}
		switch key {
		case "type":
			r.wantType(inProfile, "/type", "profile")
		case "id":
			r.profileID()
		case "attributes":
			r.profileAttributes()
		case "meta":
			r.profileMeta()
		default:
			r.skip()
		}
	}
	if len(r.profile.who) == 0 && len(r.errs) == before && !r.bad {
		r.invalid(inProfile, "/attributes", "needs one of id, email, phone_number, external_id and anonymous_id")
	}
	identity.Sort(r.profile.who)
}

func (r *reader) profileID() {
	v, ok := r.string(inProfile, "/id")
	if !ok {
		return
	}
	id, err := fact.ParseProfileID(strings.TrimSpace(v))
	if err != nil || id.IsZero() {
		r.invalid(inProfile, "/id", "is not the id of a profile")
		return
	}
	r.known(fact.Identifier{Kind: fact.ByProfile, Value: id.String()})
}

// known notes an identifier; the last of a kind counts.
func (r *reader) known(id fact.Identifier) {
	r.unknown(id.Kind)
	r.profile.who = append(r.profile.who, id)
}

func (r *reader) unknown(kind fact.IdentifierKind) {
	who := r.profile.who
	for i := range who {
		if who[i].Kind == kind {
			who[i] = who[len(who)-1]
			r.profile.who = who[:len(who)-1]
			return
		}
	}
}

func (r *reader) profileAttributes() {
	const rel = "/attributes"
	if !r.enter('{', inProfile, rel) {
		return
	}
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			return
		}
		if a, ok := attributeOf(key); ok {
			r.attribute(a)
			continue
		}
		switch key {
		case "properties":
			r.profile.properties = r.customProperties(rel + "/properties")
		case "_kx":
			r.skip() // an id of another system's making: of no use here
		case "created", "updated", "last_event_date", "predictive_analytics":
			r.skip()
			r.invalid(inProfile, rel+"/"+key, "cannot be set")
		case "subscriptions":
			r.skip()
			r.invalid(inProfile, rel+"/"+key, "cannot be set here: consent is given by a profile-subscription-bulk-create-job")
		default:
			r.skip()
			r.invalid(inProfile, rel+"/"+escape(key), "is not an attribute of a profile; what is yours belongs in properties")
		}
	}
}

func (r *reader) attribute(a attribute) {
	r.profile.raw[a] = ""
	if a < identifiers {
		r.unknown(a.kind())
	}
	if r.peek() == 'n' {
		if r.skip(); r.profile.nulls {
			r.profile.raw[a] = "null"
		}
		return
	}
	switch {
	case a < identifiers:
		r.identifier(a)
	case a == location:
		r.location()
	default:
		r.plainAttribute(a)
	}
}

// identifier reads one and puts it into its normal form.
func (r *reader) identifier(a attribute) {
	rel := a.pointer()
	v, ok := r.string(inProfile, rel)
	if !ok {
		return
	}
	var err error
	switch a {
	case external:
		v, err = identity.External(v)
	case email:
		v, err = identity.Email(v)
	case phone:
		v, err = r.phone(v)
	default:
		v, err = identity.Anonymous(v)
	}
	if err != nil {
		r.invalid(inProfile, rel, "%s", err)
		return
	}
	r.known(fact.Identifier{Kind: a.kind(), Value: v})
}

func (r *reader) phone(s string) (string, error) {
	if r.door == nil {
		return identity.Phone(s)
	}
	return r.door.phones.normal(s)
}

// plainAttribute reads a text that is kept as it came, but for locales.
func (r *reader) plainAttribute(a attribute) {
	rel := a.pointer()
	start := r.i
	v, ok := r.string(inProfile, rel)
	if !ok {
		return
	}
	raw := r.doc[start:r.i]
	switch {
	case int64(len(raw)) > int64(r.o.MaxField):
		r.invalid(inProfile, rel, "has %d bytes, %d are allowed", len(raw), int64(r.o.MaxField))
		return
	case a == locale && v != "":
		tag, err := language.Parse(v)
		if err != nil {
			r.invalid(inProfile, rel, "must be a language tag of BCP 47, such as en-US")
			return
		}
		raw = `"` + tag.String() + `"`
	case a == image && v != "":
		if u, err := url.Parse(v); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			r.invalid(inProfile, rel, "must be the URL of a picture, beginning with https://")
			return
		}
	}
	r.profile.raw[a] = raw
}
