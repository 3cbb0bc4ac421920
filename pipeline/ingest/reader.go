package ingest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// reader turns the document of one request into records. It is taken from a pool: between requests it
// keeps its memory and nothing else. What is found wrong is collected, for each event apart.
type reader struct {
	scanner
	o    *Options
	door *Door // nil for a profile alone

	tenant string
	now    time.Time
	seed   string // "" or what unique ids begin with that come from the request

	// Where in the document the reader is, for pointers.
	item  int    // of a bulk job; -1 if the document is one event
	index int    // of the event in the item
	alone bool   // the document is the attributes of a profile
	base  string // the pointer of that profile

	errs    jsonapi.Errors
	record  fact.Intake
	event   fact.Event
	props   string // the properties object as it came; "" if there is none
	members int    // of props
	slots   []string
	filled  []byte // properties with what was filled in
	seen    struct{ attributes, metric, profile, time bool }
	profile profile

	// The records of the request, encoded.
	out   []byte
	ends  []int
	parts []int32
	msgs  []stream.Message
	old   []old // of them
}

// begin makes the reader ready for a request.
func (r *reader) begin(tenant, body string, now time.Time) {
	r.scanner = scanner{doc: mend(body)}
	r.tenant, r.now, r.seed, r.item = tenant, now, "", -1
	r.errs = nil
	r.out, r.ends, r.parts = r.out[:0], r.ends[:0], r.parts[:0]
	clear(r.msgs)
	r.msgs = r.msgs[:0]
	clear(r.old)
	r.old = r.old[:0]
	r.profile.reset()
	r.record, r.event, r.props = fact.Intake{}, fact.Event{Dims: r.event.Dims[:0]}, ""
	clear(r.slots)
}

// add encodes a record for a partition.
func (r *reader) add(in *fact.Intake, partition int32) {
	r.out = in.Append(r.out)
	r.ends = append(r.ends, len(r.out))
	r.parts = append(r.parts, partition)
}

// messages makes r.msgs of the records, without events that came before.
func (r *reader) messages() {
	start, before := 0, r.old
	r.msgs = r.msgs[:0]
	for i, end := range r.ends {
		data := r.out[start:end:end]
		start = end
		if len(before) > 0 && before[0].record == i {
			if data, before = before[0].instead, before[1:]; data == nil {
				continue
			}
		}
		r.msgs = append(r.msgs, stream.Message{Partition: r.parts[i], Data: data})
	}
}

// part is what a pointer is relative to.
type part uint8

const (
	inJob part = iota
	inItem
	inEvent
	inProfile
)

func (r *reader) at(p part) string {
	switch {
	case p == inJob:
		return "/data"
	case p == inItem:
		return fmt.Sprintf("/data/attributes/events-bulk-create/data/%d", r.item)
	case p == inEvent && r.item < 0:
		return "/data"
	case p == inEvent:
		return fmt.Sprintf("/data/attributes/events-bulk-create/data/%d/attributes/events/data/%d", r.item, r.index)
	case r.alone:
		return r.base
	case r.item < 0:
		return "/data/attributes/profile/data"
	}
	return fmt.Sprintf("/data/attributes/events-bulk-create/data/%d/attributes/profile/data", r.item)
}

// invalid notes an error of the value at a pointer.
func (r *reader) invalid(p part, rel, format string, args ...any) {
	r.errs = append(r.errs, jsonapi.Invalid(r.at(p)+rel, format, args...))
}

// outcome is what was found wrong with the whole document.
func (r *reader) outcome() error {
	if r.bad {
		return malformed(fmt.Sprintf("The body is not JSON: it goes wrong at byte %d.", r.i))
	}
	if len(r.errs) > 0 {
		return r.errs
	}
	return nil
}

func malformed(detail string) error {
	return jsonapi.Errors{{Status: http.StatusBadRequest, Code: "malformed", Title: "The body cannot be read.", Detail: detail}}
}

// enter takes the opening brace or bracket of a value. If it is another value that is noted and the value skipped.
func (r *reader) enter(open byte, p part, rel string) bool {
	if r.peek() == open {
		r.i++
		return true
	}
	r.skip()
	if open == '[' {
		r.invalid(p, rel, "must be an array")
	} else {
		r.invalid(p, rel, "must be an object")
	}
	return false
}

// string reads a string. It is false for null, and for another value, which is noted.
func (r *reader) string(p part, rel string) (string, bool) {
	switch r.peek() {
	case '"':
		v := r.text()
		return v, !r.bad
	case 'n':
		r.skip()
		return "", false
	}
	r.skip()
	r.invalid(p, rel, "must be a string")
	return "", false
}

// short is string for one that is not empty and has at most so many bytes.
func (r *reader) short(p part, rel string, most int) (string, bool) {
	n := len(r.errs)
	v, ok := r.string(p, rel)
	switch {
	case !ok:
		return "", false
	case strings.TrimSpace(v) == "":
		r.invalid(p, rel, "must not be empty")
	case len(v) > most:
		r.invalid(p, rel, "must have at most %d bytes", most)
	}
	return v, len(r.errs) == n
}

// wantType reads the type of a resource.
func (r *reader) wantType(p part, rel, want string) {
	if v, ok := r.string(p, rel); ok && v != want {
		r.invalid(p, rel, "must be %q", want)
	}
}

// open checks that the text is one that can be read, and takes the brace of the document.
func (r *reader) open() bool {
	if !utf8.ValidString(r.doc) {
		r.errs = append(r.errs, malformed("The body is not UTF-8.").(jsonapi.Errors)...)
		return false
	}
	if r.peek() != '{' {
		r.skip()
		r.errs = append(r.errs, jsonapi.Invalid("", "The body must be an object with a member data."))
		return false
	}
	r.i++
	return true
}

// enterData goes into the resource of {"data": resource}: it takes the brace of the resource.
// It is false where there is none, which is noted; the whole value is behind then.
func (r *reader) enterData(p part, rel string) bool {
	if !r.enter('{', p, rel) {
		return false
	}
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			if !r.bad {
				r.invalid(p, rel+"/data", "is required")
			}
			return false
		}
		if key == "data" {
			if r.enter('{', p, rel+"/data") {
				return true
			}
			r.leaveData()
			return false
		}
		r.skip()
	}
}

// leaveData passes what follows the resource.
func (r *reader) leaveData() {
	for n := 1; ; n++ {
		if _, ok := r.member(n); !ok {
			return
		}
		r.skip()
	}
}

// bool reads a boolean; null is false.
func (r *reader) bool(p part, rel string) bool {
	switch v := r.skip(); v {
	case "true":
		return true
	case "false", "null", "":
	default:
		r.invalid(p, rel, "must be true or false")
	}
	return false
}

// property passes a value and holds it to the limits.
func (r *reader) property(p part, rel, key string) string {
	r.deep, r.long, r.depth = 0, 0, 0
	raw := r.skip()
	switch {
	case r.bad:
	case len(key) > maxProperty:
		r.invalid(p, rel+"/"+escape(key), "the name of a property has at most %d bytes", maxProperty)
	case int64(len(raw)) > int64(r.o.MaxField):
		r.invalid(p, rel+"/"+escape(key), "has %d bytes, %d are allowed", len(raw), int64(r.o.MaxField))
	case r.deep > r.o.MaxNesting:
		r.invalid(p, rel+"/"+escape(key), "is %d levels deep, %d are allowed", r.deep, r.o.MaxNesting)
	case r.long > r.o.MaxArray:
		r.invalid(p, rel+"/"+escape(key), "has an array of %d items, %d are allowed", r.long, r.o.MaxArray)
	}
	return raw
}

// escape makes a key part of a pointer (RFC 6901, 3), short enough to be read.
func escape(key string) string {
	const most = 100
	if len(key) > most {
		key = strings.ToValidUTF8(key[:most], "") + "…"
	}
	if !strings.ContainsAny(key, "~/") {
		return key
	}
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}
