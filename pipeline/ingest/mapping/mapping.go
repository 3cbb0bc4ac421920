package mapping

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Profile says where the parts of a profile are found. All values are paths.
type Profile struct {
	ID         string            `toml:"id" doc:"Where the id of a profile is found."`
	Email      string            `toml:"email" doc:"Where the email address is found."`
	Phone      string            `toml:"phone_number" doc:"Where the phone number is found, in E.164 form."`
	External   string            `toml:"external_id" doc:"Where the id that your own systems have for the profile is found."`
	Anonymous  string            `toml:"anonymous_id" doc:"Where the id of a browser or device is found."`
	Attributes map[string]string `toml:"attributes" doc:"Where attributes of the profile are found, by name: first_name, last_name, organization, title, locale, image, location.city …"`
	Properties map[string]string `toml:"properties" doc:"Where custom properties of the profile are found, by name."`
}

// Event says where the parts of an event are found.
type Event struct {
	Profile    Profile  `toml:"profile"`
	Metric     string   `toml:"metric" doc:"Name of the metric, where it is the same for all."`
	MetricFrom string   `toml:"metric_from" doc:"Where the name of the metric is found."`
	Service    string   `toml:"service" doc:"Service of the metric; api if empty."`
	Time       string   `toml:"time" doc:"Where the time is found; without one an event happens when it comes."`
	TimeFormat string   `toml:"time_format" doc:"Form of the time: empty for ISO 8601, unix or unix_ms for seconds or milliseconds since 1970, or a layout of Go such as 02.01.2006 15:04."`
	TimeZone   string   `toml:"time_zone" doc:"Time zone of times that have none; UTC if empty."`
	Value      string   `toml:"value" doc:"Where the value is found, a number."`
	Currency   string   `toml:"value_currency" doc:"Where the currency of the value is found."`
	UniqueID   string   `toml:"unique_id" doc:"Where the id is found by which an event that comes twice is known."`
	Properties []string `toml:"properties" doc:"Where the properties are found; each is named by the last part of its path. Empty: all that the event has."`
}

// Error says that a value cannot be used.
type Error struct {
	Path   string // where it was found
	Detail string
}

// Error implements error.
func (e *Error) Error() string { return e.Path + ": " + e.Detail }

// Mapper makes documents. It is safe for concurrent use.
type Mapper struct {
	o     Event
	named map[string]Path // "email", "time", … of those that are configured

	attributes []named
	custom     []named
	properties []Path
	zone       *time.Location
}

type named struct {
	name string
	path Path
}

// New checks and reads the paths of o. Its errors begin with the key at fault.
func New(o Event) (*Mapper, error) {
	m := &Mapper{o: o, named: map[string]Path{}, zone: time.UTC}
	for _, f := range []struct{ key, name, path string }{
		{"profile.id", "id", o.Profile.ID}, {"profile.email", "email", o.Profile.Email}, {"profile.phone_number", "phone_number", o.Profile.Phone},
		{"profile.external_id", "external_id", o.Profile.External}, {"profile.anonymous_id", "anonymous_id", o.Profile.Anonymous},
		{"metric_from", "metric", o.MetricFrom}, {"time", "time", o.Time}, {"value", "value", o.Value},
		{"value_currency", "value_currency", o.Currency}, {"unique_id", "unique_id", o.UniqueID},
	} {
		if f.path == "" {
			continue
		}
		p, err := ParsePath(f.path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.key, err)
		}
		m.named[f.name] = p
	}
	if o.Profile.ID+o.Profile.Email+o.Profile.Phone+o.Profile.External+o.Profile.Anonymous == "" {
		return nil, errors.New("profile: needs one of id, email, phone_number, external_id and anonymous_id")
	}
	var err error
	if m.attributes, err = names("profile.attributes", o.Profile.Attributes); err != nil {
		return nil, err
	}
	if m.custom, err = names("profile.properties", o.Profile.Properties); err != nil {
		return nil, err
	}
	for _, s := range o.Properties {
		p, err := ParsePath(s)
		if err == nil && p.Name() == "" {
			err = fmt.Errorf("%q names no member", s)
		}
		if err != nil {
			return nil, fmt.Errorf("properties: %w", err)
		}
		m.properties = append(m.properties, p)
	}
	if o.TimeZone != "" {
		if m.zone, err = time.LoadLocation(o.TimeZone); err != nil {
			return nil, fmt.Errorf("time_zone: %q is not a time zone", o.TimeZone)
		}
	}
	return m, nil
}

// CheckEvent reports what an event needs beyond a profile.
func (o Event) CheckEvent() error {
	if (o.Metric == "") == (o.MetricFrom == "") {
		return errors.New("metric: needs one of metric and metric_from")
	}
	return nil
}

func names(key string, of map[string]string) (out []named, err error) {
	for name, s := range of {
		p, err := ParsePath(s)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", key, name, err)
		}
		out = append(out, named{name, p})
	}
	slices.SortFunc(out, func(a, b named) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// Paths are all paths that are configured.
func (m *Mapper) Paths() (out []Path) {
	for _, p := range m.named {
		out = append(out, p)
	}
	for _, n := range slices.Concat(m.attributes, m.custom) {
		out = append(out, n.path)
	}
	return append(out, m.properties...)
}

// Uses reports whether a member of the outermost object is used for something else than the properties of an event.
func (m *Mapper) Uses(name string) bool {
	for _, p := range m.named {
		if len(p.steps) == 1 && p.steps[0].key == name {
			return true
		}
	}
	return slices.ContainsFunc(slices.Concat(m.attributes, m.custom), func(n named) bool {
		return len(n.path.steps) == 1 && n.path.steps[0].key == name
	})
}

// Item makes an item of a bulk job of events: one event with its profile. rest are the properties if none are
// configured; uid is its unique id if it has none, "" for the API's rule. Errors are *Error.
func (m *Mapper) Item(v any, rest map[string]any, uid string) ([]byte, error) {
	profile, err := m.profile(v)
	if err != nil {
		return nil, err
	}
	event := map[string]any{}
	name, err := m.metric(v)
	if err != nil {
		return nil, err
	}
	metric := map[string]any{"name": name}
	if m.o.Service != "" {
		metric["service"] = m.o.Service
	}
	event["metric"] = object("data", map[string]any{"type": "metric", "attributes": metric})
	if err := m.scalars(v, event); err != nil {
		return nil, err
	}
	if _, ok := event["unique_id"]; !ok && uid != "" {
		event["unique_id"] = uid
	}
	event["properties"] = m.eventProperties(v, rest)
	return encode(map[string]any{"type": "event-bulk-create", "attributes": map[string]any{
		"profile": object("data", profile),
		"events":  object("data", []any{map[string]any{"type": "event", "attributes": event}}),
	}})
}

// Profile makes a profile resource.
func (m *Mapper) Profile(v any) ([]byte, error) {
	p, err := m.profile(v)
	if err != nil {
		return nil, err
	}
	return encode(p)
}

// Job is the document of a bulk job of events with these items.
func Job(items [][]byte) []byte {
	const head, tail = `{"data":{"type":"event-bulk-create-job","attributes":{"events-bulk-create":{"data":[`, `]}}}}`
	return append(append([]byte(head), bytes.Join(items, []byte{','})...), tail...)
}

// ProfileJob is the document of a bulk import of profiles.
func ProfileJob(profiles [][]byte) []byte {
	const head, tail = `{"data":{"type":"profile-bulk-import-job","attributes":{"profiles":{"data":[`, `]}}}}`
	return append(append([]byte(head), bytes.Join(profiles, []byte{','})...), tail...)
}

// Where tells which configured path the value came from that a pointer of the API's errors names; "" if that cannot be told.
func (m *Mapper) Where(pointer string) string {
	for name, p := range m.named {
		tail := "/" + name
		if name == "metric" {
			tail = "/metric/data/attributes/name"
		}
		if strings.HasSuffix(pointer, "/attributes"+tail) || name == "id" && strings.HasSuffix(pointer, "/profile/data/id") {
			return p.String()
		}
	}
	for _, n := range m.attributes {
		if strings.HasSuffix(pointer, "/attributes/"+strings.ReplaceAll(n.name, ".", "/")) {
			return n.path.String()
		}
	}
	if _, rest, ok := strings.Cut(pointer, "/attributes/properties/"); ok {
		return rest
	}
	return ""
}

func object(name string, v any) map[string]any { return map[string]any{name: v} }

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, &Error{"$", err.Error()}
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}

func (m *Mapper) profile(v any) (map[string]any, error) {
	out := map[string]any{"type": "profile"}
	attributes := map[string]any{}
	for _, name := range []string{"id", "external_id", "email", "phone_number", "anonymous_id"} {
		s, err := m.text(v, name)
		switch {
		case err != nil:
			return nil, err
		case s == "":
		case name == "id":
			out["id"] = s
		default:
			attributes[name] = s
		}
	}
	location := map[string]any{}
	for _, n := range m.attributes {
		found, ok := n.path.Get(v)
		if !ok || found == "" {
			continue
		}
		if part, ok := strings.CutPrefix(n.name, "location."); ok {
			location[part] = found
			continue
		}
		attributes[n.name] = asText(found)
	}
	if len(location) > 0 {
		attributes["location"] = location
	}
	properties := map[string]any{}
	for _, n := range m.custom {
		if found, ok := n.path.Get(v); ok {
			properties[n.name] = found
		}
	}
	if len(properties) > 0 {
		attributes["properties"] = properties
	}
	out["attributes"] = attributes
	return out, nil
}

// asText is a number as text, and all else as it is.
func asText(v any) any {
	if n, ok := v.(json.Number); ok {
		return n.String()
	}
	return v
}

// text is the text, or number, at a configured path; "" if there is none.
func (m *Mapper) text(v any, name string) (string, error) {
	p := m.named[name]
	if p.IsZero() {
		return "", nil
	}
	found, ok := p.Get(v)
	if !ok {
		return "", nil
	}
	s, ok := asText(found).(string)
	if !ok {
		return "", &Error{p.String(), "is neither text nor a number"}
	}
	return strings.TrimSpace(s), nil
}

func (m *Mapper) metric(v any) (string, error) {
	if m.o.MetricFrom == "" {
		return m.o.Metric, nil
	}
	name, err := m.text(v, "metric")
	if err == nil && name == "" {
		err = &Error{m.o.MetricFrom, "has no name of a metric"}
	}
	return name, err
}

// scalars sets time, value, currency and unique id.
func (m *Mapper) scalars(v any, event map[string]any) error {
	at, err := m.text(v, "time")
	if err == nil && at != "" {
		event["time"], err = m.time(at)
	}
	if err != nil {
		return err
	}
	value, err := m.text(v, "value")
	if err == nil && value != "" {
		if !json.Valid([]byte(value)) || strings.Trim(value[:1], "-0123456789") != "" {
			return &Error{m.o.Value, fmt.Sprintf("%q is not a number", value)}
		}
		event["value"] = json.Number(value)
	}
	for _, name := range []string{"value_currency", "unique_id"} {
		s := ""
		if err == nil {
			s, err = m.text(v, name)
		}
		if s != "" {
			event[name] = s
		}
	}
	return err
}

// time puts a time into the form of the API.
func (m *Mapper) time(s string) (string, error) {
	const layout = "2006-01-02T15:04:05.000Z07:00"
	var t time.Time
	n, err := strconv.ParseFloat(s, 64)
	switch m.o.TimeFormat {
	case "":
		if m.zone == time.UTC {
			return s, nil // the door reads all of ISO 8601
		}
		if t, err = time.Parse(time.RFC3339, s); err != nil {
			for _, l := range []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02"} {
				if t, err = time.ParseInLocation(l, s, m.zone); err == nil {
					break
				}
			}
		}
	case "unix":
		t = time.UnixMilli(int64(n * 1000))
	case "unix_ms":
		t = time.UnixMilli(int64(n))
	default:
		t, err = time.ParseInLocation(m.o.TimeFormat, s, m.zone)
	}
	if err != nil || t.Year() < 1970 || t.Year() > 9999 {
		return "", &Error{m.o.Time, fmt.Sprintf("%q is not a time of the configured form", s)}
	}
	return t.UTC().Format(layout), nil
}

func (m *Mapper) eventProperties(v any, rest map[string]any) map[string]any {
	if len(m.properties) == 0 {
		return rest
	}
	out := map[string]any{}
	for _, p := range m.properties {
		if found, ok := p.Get(v); ok {
			out[p.Name()] = found
		}
	}
	return out
}
