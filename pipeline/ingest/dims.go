package ingest

import (
	"strconv"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

const (
	maxDimensions = 128
	maxDimension  = 255 // bytes of a name or a value
)

// DefaultDimensions are the properties that clients of the API can break counts down by.
func DefaultDimensions() []string {
	return []string{
		"$attributed_channel", "$attributed_flow", "$attributed_message", "$attributed_variation",
		"$campaign", "$campaign_channel", "$flow", "$flow_channel", "$message", "$message_send_cohort",
		"$usage_amount", "$value_currency", "$variation", "$variation_send_cohort",
		"Bot Click", "Bounce Type", "Campaign Name", "Client Canonical", "Client Name", "Client Type",
		"Email Domain", "Failure Source", "Failure Type", "From Number", "From Phone Region", "Inbox Provider",
		"List", "Message Format", "Message Name", "Message Type", "Method", "Segment Count", "Subject",
		"To Number", "To Phone Region", "URL", "form_id",
	}
}

// slot is the place among a reader's slots of a property that is looked at.
type slot int

// Properties with a meaning of their own have the first slots, dimensions those from fixed on. One
// that is both has one slot.
const (
	slotValue slot = iota
	slotCurrency
	slotMessage
	slotMessageID
	fixed
)

// specialNames are the names of the first slots.
func specialNames() [fixed]string {
	return [fixed]string{slotValue: "$value", slotCurrency: "$value_currency", slotMessage: "$message", slotMessageID: "message_id"}
}

// newSlots gives each property that is looked at its slot: the special ones, those that hydration fills, the dimensions.
func newSlots(dimensions []string) (map[string]slot, int) {
	keys := map[string]slot{}
	add := func(name string) {
		if _, ok := keys[name]; !ok {
			keys[name] = slot(len(keys))
		}
	}
	for _, name := range specialNames() {
		add(name)
	}
	for _, name := range factNames() {
		add(name)
	}
	for _, name := range dimensions {
		add(name)
	}
	return keys, len(keys)
}

// dims takes the dimensions out of the slots, in the order in which they are configured.
func (r *reader) dims() {
	r.event.Dims = r.event.Dims[:0]
	for i, s := range r.door.dims {
		raw := r.slots[s]
		if raw == "" {
			continue
		}
		if v, ok := dimension(raw); ok {
			r.event.Dims = append(r.event.Dims, fact.Dim{Name: r.o.Dimensions[i], Value: v})
		}
	}
}

// dimension is a JSON value as a dimension has it: text as it is, numbers and booleans as text. null, "", objects and
// arrays are none. What is longer than 255 bytes is cut to at most 238, at the border of a character, and
// "~" with the hash (xxhash, 64 bits, hexadecimal) of the whole follows, so that values stay apart.
func dimension(raw string) (string, bool) {
	switch raw[0] {
	case '"':
		s := scanner{doc: raw}
		v := s.text()
		if len(v) > maxDimension {
			v = shorten(v)
		}
		return v, v != ""
	case 't', 'f':
		return raw, true
	case 'n', '{', '[':
		return "", false
	}
	v := shortest(raw)
	if len(v) > maxDimension {
		v = shorten(v)
	}
	return v, true
}

func shorten(v string) string {
	end := maxDimension - 1 - 16
	for end > 0 && !utf8.RuneStart(v[end]) {
		end--
	}
	hash := strconv.FormatUint(xxhash.Sum64String(v), 16)
	const zeros = "0000000000000000"
	return v[:end] + "~" + zeros[len(hash):] + hash
}
