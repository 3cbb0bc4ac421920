package ingest

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// location reads where somebody is; it is written anew with what it has.
func (r *reader) location() {
	const rel = "/attributes/location"
	if !r.enter('{', inProfile, rel) {
		return
	}
	b := []byte{'{'}
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			break
		}
		raw := r.place(key, rel)
		if raw == "" || raw == "null" && !r.profile.nulls {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(appendText(b, key), ':'), raw...)
	}
	r.profile.raw[location] = string(append(b, '}'))
}

// place reads a part of a location, "" if it cannot be used.
func (r *reader) place(key, rel string) string {
	rel += "/" + escape(key)
	c := r.peek()
	start := r.i
	switch key {
	case "address1", "address2", "city", "country", "region", "zip", "timezone", "ip":
		if c == 'n' {
			return r.skip()
		}
		v, ok := r.string(inProfile, rel)
		if !ok {
			return ""
		}
		raw := r.doc[start:r.i]
		switch {
		case int64(len(raw)) > int64(r.o.MaxField):
			r.invalid(inProfile, rel, "has %d bytes, %d are allowed", len(raw), int64(r.o.MaxField))
		case key == "timezone" && v != "" && !r.zone(v):
			r.invalid(inProfile, rel, "must be a time zone of the IANA data base, such as Europe/Berlin")
		case key == "ip" && v != "" && !isAddress(v):
			r.invalid(inProfile, rel, "must be an IP address")
		}
		return raw
	case "latitude":
		return r.degrees(rel, c, 90)
	case "longitude":
		return r.degrees(rel, c, 180)
	}
	r.skip()
	r.invalid(inProfile, rel, "is not a part of a location")
	return ""
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// degrees reads a number, or a text that has one, between -most and most.
func (r *reader) degrees(rel string, c byte, most float64) string {
	start := r.i
	raw := r.skip()
	if c == 'n' || raw == "" {
		return raw
	}
	if c == '"' {
		s := scanner{doc: r.doc, i: start}
		s = scanner{doc: strings.TrimSpace(s.text())}
		if raw = s.number(); s.bad || s.i < len(s.doc) {
			raw = ""
		}
	}
	v, err := strconv.ParseFloat(raw, 64)
	if err != nil || v < -most || v > most {
		r.invalid(inProfile, rel, "must be a number between -%v and %v", most, most)
		return ""
	}
	return raw
}

// zone reports whether there is a time zone of that name. Names are remembered, as each is a file.
func (r *reader) zone(name string) bool {
	const most = 1000
	known, ok := r.profile.zones[name]
	if ok {
		return known
	}
	_, err := time.LoadLocation(name)
	known = err == nil && name != "Local"
	if r.profile.zones == nil {
		r.profile.zones = map[string]bool{}
	}
	if len(r.profile.zones) < most {
		r.profile.zones[strings.Clone(name)] = known
	}
	return known
}
