//go:build cgo

package duckdb

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/godwit-mta/godwit/pipeline/customer/patch"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// fillEvents appends the new events.
func (p *plan) fillEvents(s *sheet) error {
	places := p.places
	for i := range p.rows {
		p.rest(i)
		r := &p.rows[i]
		if r.stored != nil {
			if err := s.values(r.stored, p.d.events.columns()); err != nil {
				return err
			}
		} else {
			p.fillEvent(s, r.e, places)
			places = places[len(r.e.Dims):]
		}
		s.uuid(evProfile, r.profile)
		s.uint32(evEpoch, p.d.epoch)
		if err := s.next(); err != nil {
			return err
		}
	}
	p.d.events.tail().note(s.filled)
	return nil
}

// fillEvent sets the columns of an event; places are those of its dimensions.
func (p *plan) fillEvent(s *sheet, e *warehouse.Event, places []int32) {
	s.uint64(evTenant, uint64(p.d.tenant(e.Tenant)))
	s.uint64(evMetric, uint64(e.Metric))
	s.time(evTime, e.Time)
	s.time(evAccepted, e.Accepted)
	if e.HasValue {
		s.int64(evMicros, e.Value)
	}
	s.textOr(evCurrency, e.Currency)
	s.bool(evBackfill, e.Backfill)
	s.string(evUID, e.UID)
	s.bytes(evProperties, e.Properties)
	s.int32(evPartition, e.Partition)
	s.int64(evOffset, e.Offset)
	var more map[string]string
	for i, d := range e.Dims {
		if at := int(places[i]); at >= 0 {
			s.string(len(eventColumns)+at, d.Value)
			continue
		}
		if more == nil {
			more = map[string]string{}
		}
		more[d.Name] = d.Value
	}
	if more != nil {
		s.bytes(evDims, toJSON(more))
	}
}

// toJSON is for what cannot fail.
func toJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return b
}

// values writes a row that was read.
func (s *sheet) values(values []any, columns []column) error {
	for i, v := range values {
		switch v := v.(type) {
		case nil:
		case uint64:
			s.uint64(i, v)
		case uint32:
			s.uint32(i, v)
		case int64:
			s.int64(i, v)
		case int32:
			s.int32(i, v)
		case float64:
			s.float(i, v)
		case bool:
			s.bool(i, v)
		case string:
			s.string(i, v)
		case time.Time:
			s.time(i, v)
		case []byte: // a UUID
			var id uuid
			if err := id.Scan(v); err != nil {
				return err
			}
			s.uuid(i, id)
		default:
			return fmt.Errorf("column %s has a %T", columns[i].name, v)
		}
	}
	return nil
}

// attributes with a text column of their own, in its place behind the identifiers; those of a location are within it.
const ownIDs = 4

// fillProfiles appends the profiles that were made or changed.
func (p *plan) fillProfiles(s *sheet) error {
	for i, e := range p.people {
		p.rest(i)
		s.uint64(prTenant, uint64(e.tenant))
		s.uuid(prProfile, e.profile)
		s.uint32(prEpoch, p.d.epoch)
		p.d.profiles.encode(s, e.state)
		if err := s.next(); err != nil {
			return err
		}
	}
	p.d.profiles.tail().note(s.filled)
	return nil
}

// idKinds are the kinds of identifiers in the order of their columns.
var idKinds = [ownIDs]fact.IdentifierKind{fact.ByEmail, fact.ByPhone, fact.ByExternal, fact.ByAnonymous}

func (sh *shelf) encode(s *sheet, p *warehouse.Profile) {
	s.time(prCreated, time.UnixMilli(p.Created))
	s.time(prUpdated, time.UnixMilli(p.Updated))
	for i, kind := range idKinds {
		s.textOr(prText+i, *p.ID(kind))
	}
	s.bytes(prAttributes, sh.encodeAttributes(s, p.Attributes))
	s.bytes(prProperties, sh.encodeProperties(s, p.Properties))
	if len(p.Consents) > 0 {
		s.bytes(prConsent, toJSON(p.Consents))
	}
	if len(p.Suppressions) > 0 {
		s.bytes(prSuppressions, toJSON(p.Suppressions))
	}
	if len(p.Lists) > 0 {
		s.bytes(prLists, toJSON(p.Lists))
	}
	s.bool(prSuppressed, len(p.Suppressions) > 0)
	for i := range p.Consents {
		c := &p.Consents[i]
		if at := columnOfConsent(c.Channel); at > 0 && c.List == "" {
			said := "UNSUBSCRIBED"
			if c.Subscribed {
				said = "SUBSCRIBED"
			}
			s.string(at, said)
			s.time(at+1, time.UnixMilli(c.At))
		}
	}
}

// columnOfConsent is the place of the column of a channel, before that of its time; 0 if it has none.
func columnOfConsent(channel string) int {
	switch channel {
	case "email":
		return prEmailConsent
	case "sms":
		return prSMSConsent
	}
	return 0
}

// attribute is the place of an attribute's column of texts, or -1. Those from prLocation on are of a location.
func (sh *shelf) attribute(name string) int {
	if at, known := sh.own[name]; known && at >= prText+ownIDs {
		return at
	}
	return -1
}

// encodeAttributes writes what has a column, and returns the rest.
func (sh *shelf) encodeAttributes(s *sheet, all patch.Object) []byte {
	var rest patch.Object
	for _, m := range all {
		if at := sh.attribute(m.Name); at >= 0 && at < prLocation {
			if v, ok := asText(m.Value); ok {
				s.string(at, v)
				continue
			}
		}
		if m.Name == "location" {
			if inner, err := patch.Load(m.Value); err == nil {
				if m.Value = sh.encodeLocation(s, inner); m.Value == nil {
					continue
				}
			}
		}
		rest = append(rest, m)
	}
	return objectText(rest)
}

func (sh *shelf) encodeLocation(s *sheet, all patch.Object) []byte {
	var rest patch.Object
	for _, m := range all {
		if at := sh.attribute(m.Name); at >= prLocation {
			if v, ok := asText(m.Value); ok {
				s.string(at, v)
				continue
			}
		}
		if at := sh.own[m.Name]; at == prLatitude || at == prLongitude {
			if v, ok := asNumber(m.Value); ok {
				s.float(at, v)
				continue
			}
		}
		rest = append(rest, m)
	}
	return objectText(rest)
}

// encodeProperties writes what has a column, and returns the rest: what has none, and what its column does not
// tell the whole of.
func (sh *shelf) encodeProperties(s *sheet, all patch.Object) []byte {
	var rest patch.Object
	for _, m := range all {
		at, known := sh.byName[m.Name]
		if !known || at < 0 || !sh.encodeProperty(s, len(sh.fixed)+at, sh.extra[at].kind, m.Value) {
			rest = append(rest, m)
		}
	}
	return objectText(rest)
}

// encodeProperty reports whether the column tells all of the value.
func (sh *shelf) encodeProperty(s *sheet, at int, k kind, value []byte) bool {
	is, scalar := kindOfJSON(value)
	if !scalar {
		return false
	}
	switch k {
	case kindBool:
		if is == kindBool {
			s.bool(at, value[0] == 't')
			return true
		}
	case kindNumber:
		if v, ok := asNumber(value); ok {
			s.float(at, v)
			return true
		}
		if v, err := strconv.ParseFloat(string(value), 64); err == nil && is == kindNumber && !math.IsInf(v, 0) {
			s.float(at, v)
		}
	case kindText:
		if v, ok := asText(value); ok {
			s.string(at, v)
			return true
		}
		if is == kindText {
			s.string(at, "")
		} else {
			s.string(at, string(value))
		}
	}
	return false
}

func objectText(o patch.Object) []byte {
	if len(o) == 0 {
		return nil
	}
	return o.Append(nil)
}

// kindOfJSON is the kind of column that a value wants; lists and objects want none.
func kindOfJSON(v []byte) (kind, bool) {
	switch {
	case len(v) == 0:
		return 0, false
	case v[0] == '"':
		return kindText, true
	case v[0] == 't' || v[0] == 'f':
		return kindBool, true
	case v[0] == '-' || v[0] >= '0' && v[0] <= '9':
		return kindNumber, true
	}
	return 0, false
}

// asText is a JSON string's text; one that a column cannot hold as it is does not count. It may share the memory of v.
func asText(v []byte) (string, bool) {
	if len(v) < 2 || v[0] != '"' {
		return "", false
	}
	if plain, ok := patch.Plain(v); ok {
		return unsafe.String(unsafe.SliceData(plain), len(plain)), len(plain) > 0
	}
	var s string
	if json.Unmarshal(v, &s) != nil || s == "" || strings.ContainsRune(s, 0) {
		return "", false
	}
	return s, true
}

// asNumber is a number that comes back as it was.
func asNumber(v []byte) (float64, bool) {
	if k, scalar := kindOfJSON(v); !scalar || k != kindNumber {
		return 0, false
	}
	if n, ok := smallNumber(v); ok {
		return n, true
	}
	f, err := strconv.ParseFloat(string(v), 64)
	return f, err == nil && string(numberText(f)) == string(v)
}

// smallNumber is a whole number of few digits, as most are.
func smallNumber(v []byte) (float64, bool) {
	const digits = 9
	if len(v) > digits || v[0] == '0' && len(v) > 1 {
		return 0, false
	}
	n := 0
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return float64(n), true
}

// numberText is how a number is written.
func numberText(v float64) []byte {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.AppendInt(nil, int64(v), 10)
	}
	return strconv.AppendFloat(nil, v, 'g', -1, 64)
}

// decode makes a profile of a row.
func (sh *shelf) decode(row []any) (*warehouse.Profile, error) {
	p := &warehouse.Profile{Created: millis(row[prCreated]), Updated: millis(row[prUpdated])}
	for i, kind := range idKinds {
		*p.ID(kind) = str(row[prText+i])
	}
	for _, part := range []struct {
		at   int
		into any
	}{{prConsent, &p.Consents}, {prSuppressions, &p.Suppressions}, {prLists, &p.Lists}} {
		if s := str(row[part.at]); s != "" {
			if err := json.Unmarshal([]byte(s), part.into); err != nil {
				return nil, fmt.Errorf("warehouse: %s of a profile: %w", sh.fixed[part.at].name, err)
			}
		}
	}
	var err error
	if p.Attributes, err = sh.decodeAttributes(row); err != nil {
		return nil, fmt.Errorf("warehouse: attributes of a profile: %w", err)
	}
	if p.Properties, err = sh.decodeProperties(row); err != nil {
		return nil, fmt.Errorf("warehouse: properties of a profile: %w", err)
	}
	return p, nil
}

func (sh *shelf) decodeAttributes(row []any) (patch.Object, error) {
	all, err := patch.Load([]byte(str(row[prAttributes])))
	if err != nil {
		return nil, err
	}
	inner, err := patch.Load(all.Get("location"))
	if err != nil {
		inner = nil // a location that is no object is a member like others
	}
	for i := prText + ownIDs; i < len(sh.fixed); i++ {
		if s := str(row[i]); s != "" {
			into := &all
			if i >= prLocation {
				into = &inner
			}
			if *into, err = into.With(sh.fixed[i].name, toJSON(s)); err != nil {
				return nil, err
			}
		}
	}
	for i := prLatitude; i <= prLongitude; i++ {
		if f, ok := row[i].(float64); ok {
			if inner, err = inner.With(sh.fixed[i].name, numberText(f)); err != nil {
				return nil, err
			}
		}
	}
	if len(inner) == 0 {
		return all, nil
	}
	return all.With("location", inner.Append(nil))
}

func (sh *shelf) decodeProperties(row []any) (patch.Object, error) {
	all, err := patch.Load([]byte(str(row[prProperties])))
	if err != nil {
		return nil, err
	}
	for i, c := range sh.extra {
		name := c.name[len(sh.prefix):]
		if all.Get(name) != nil {
			continue
		}
		var value []byte
		switch v := row[len(sh.fixed)+i].(type) {
		case nil:
			continue
		case string:
			value = toJSON(v)
		case float64:
			value = numberText(v)
		case bool:
			value = strconv.AppendBool(nil, v)
		}
		if all, err = all.With(name, value); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func str(v any) string {
	s, _ := v.(string)
	return s
}

func millis(v any) int64 {
	t, _ := v.(time.Time)
	return t.UnixMilli()
}

// fingerprint tells whether two states of a profile are alike, whatever the order of their members.
func fingerprint(p *warehouse.Profile) string {
	b := make([]byte, 0, 256)
	for _, id := range p.IDs {
		b = append(append(b, id...), 0)
	}
	for _, o := range []patch.Object{p.Attributes, p.Properties} {
		o = slices.Clone(o)
		slices.SortFunc(o, func(a, b patch.Member) int { return strings.Compare(a.Name, b.Name) })
		b = o.Append(b)
	}
	for _, c := range p.Consents {
		b = append(b, toJSON(c)...)
	}
	for _, s := range p.Suppressions {
		b = strconv.AppendInt(append(append(b, s.Reason...), 0), s.At, 10)
	}
	for _, m := range p.Lists {
		b = strconv.AppendInt(append(append(b, m.List...), 0), m.Joined, 10)
	}
	return string(b)
}
