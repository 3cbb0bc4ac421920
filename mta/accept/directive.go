package accept

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
)

// prefixOurs begins the fields that steer the engine; they never leave it.
const prefixOurs = "x-godwit-"

const (
	maxLabelText = 128 // tenant, stream, pool
	maxTags      = 32
	maxTagName   = 64
	maxTagValue  = 256
)

// directives is what the X-Godwit-* fields of one message say.
type directives struct {
	tenant string
	Labels
	tags          []mail.Tag
	template      bool
	substitutions []byte
}

// directives reads the X-Godwit-* fields that h found in b, for a trusted injector.
func (d *Door) directives(inj *Injection, h *header, b []byte, now time.Time) (directives, *Error) {
	dir := directives{tenant: inj.Tenant}
	seen := make(map[string]bool, len(h.ours))
	for _, f := range h.ours {
		name := string(b[f.name.from:f.name.to])
		short := strings.ToLower(name[len(prefixOurs):])
		if seen[short] && short != "tag" {
			return dir, invalid(name, "is given twice")
		}
		seen[short] = true
		if why := d.directive(&dir, inj, short, unfold(b[f.value.from:f.value.to]), now); why != "" {
			return dir, invalid(name, why)
		}
	}
	if dir.substitutions != nil && !dir.template {
		return dir, invalid("X-Godwit-Substitutions", "needs X-Godwit-Template: true")
	}
	return dir, nil
}

// directive applies one field; the answer tells what is wrong with it.
func (d *Door) directive(dir *directives, inj *Injection, name, value string, now time.Time) (why string) {
	switch name {
	case "tenant":
		if value != inj.Tenant && !inj.AnyTenant {
			return "may not be set by this client"
		}
		dir.tenant = value
		return badLabel(value)
	case "stream":
		dir.Stream = value
		return badLabel(value)
	case "pool":
		dir.Pool = value
		return badLabel(value)
	case "priority":
		p, ok := mail.ParsePriority(value)
		if !ok {
			return "must be bulk, normal or urgent"
		}
		dir.Priority = &p
	case "deadline":
		dir.Deadline, why = parseWhen(value, now)
	case "send-at":
		dir.NotBefore, why = parseWhen(value, now)
	case "tag":
		t, why := parseTag(value)
		if dir.tags = append(dir.tags, t); len(dir.tags) > maxTags {
			return "is given too often, at most " + strconv.Itoa(maxTags) + " tags"
		}
		return why
	case "template":
		dir.template = strings.EqualFold(value, "true")
		if !dir.template && !strings.EqualFold(value, "false") {
			return "must be true or false"
		}
	case "substitutions":
		dir.substitutions = []byte(value)
		return d.badSubstitutions(dir.substitutions)
	default:
		return "is not a known field"
	}
	return why
}

func invalid(field, why string) *Error {
	return refuse(550, 5, 6, 0, field, "Header field "+field+" "+why)
}

// unfold takes the line ends out of a field's value (RFC 5322 §2.2.3) and the space around it.
func unfold(b []byte) string {
	if bytes.IndexByte(b, '\n') >= 0 {
		b = bytes.ReplaceAll(b, []byte("\r\n"), nil)
	}
	return string(bytes.Trim(b, " \t"))
}

// parseWhen reads an RFC 3339 time or a duration from now, such as 30m or 7d.
func parseWhen(s string, now time.Time) (t time.Time, why string) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t.UTC(), ""
	}
	if after, ok := parseDuration(s); ok {
		return now.Add(after), ""
	}
	return time.Time{}, "must be an RFC 3339 time or a duration such as 30m"
}

// checkTimes holds the rules that NotBefore and Deadline share over SMTP and HTTP.
// The answer names the offender.
func (d *Door) checkTimes(l *Labels, now time.Time) (name, why string) {
	if l.NotBefore.After(now.Add(d.opts.MaxDelay.D())) {
		return "send_at", "is too far ahead (max_delay is " + d.opts.MaxDelay.String() + ")"
	}
	if l.Deadline.IsZero() {
		return "", ""
	}
	if !l.Deadline.After(now) {
		return "deadline", "is over"
	}
	if !l.Deadline.After(l.NotBefore) {
		return "deadline", "is not after the time to send at"
	}
	return "", ""
}

func parseTag(s string) (mail.Tag, string) {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return mail.Tag{}, "must be name=value"
	}
	t := mail.Tag{Name: strings.TrimRight(name, " \t"), Value: strings.TrimLeft(value, " \t")}
	return t, badTag(t)
}

func badTag(t mail.Tag) string {
	if t.Name == "" || len(t.Name) > maxTagName {
		return "must have a tag name of 1 to 64 characters"
	}
	for i := range len(t.Name) {
		switch c := t.Name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return "must have a tag name of letters, digits, '-', '_' and '.'"
		}
	}
	if len(t.Value) > maxTagValue || !isPrintable(t.Value) {
		return "must have a tag value of at most 256 bytes of printable UTF-8"
	}
	return ""
}

// badLabel holds for tenant, stream and pool: opaque, but fit for logs and keys.
func badLabel(s string) string {
	if s == "" || len(s) > maxLabelText || !isPrintable(s) {
		return "must be 1 to 128 bytes of printable UTF-8"
	}
	return ""
}

func isPrintable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// badSubstitutions holds for what rendering gets: one JSON object.
func (d *Door) badSubstitutions(b []byte) string {
	if len(b) > int(d.opts.MaxSubstitutions) {
		return "is larger than max_substitutions (" + d.opts.MaxSubstitutions.String() + ")"
	}
	if trimmed := bytes.TrimLeft(b, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' || !json.Valid(b) || !utf8.Valid(b) {
		return "must be a JSON object"
	}
	return ""
}

func parseDuration(s string) (time.Duration, bool) {
	var d units.Duration
	if err := d.UnmarshalText([]byte(s)); err != nil || d < 0 {
		return 0, false
	}
	return d.D(), true
}
