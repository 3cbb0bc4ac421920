package rules

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/godwit-mta/godwit/internal/units"
)

// Text is a rule file that has been read.
type Text struct {
	Name    string // for errors and origins
	Builtin bool   // shipped with the program
	Data    []byte
}

// document is a rule file as TOML has it.
type document struct {
	Version  int             `toml:"version"`
	Default  defaultBlock    `toml:"default"`
	Provider []providerBlock `toml:"provider"`
	Site     []siteBlock     `toml:"site"`
	Domain   []domainBlock   `toml:"domain"`
	Tenant   []tenantBlock   `toml:"tenant"`
	Pool     []poolBlock     `toml:"pool"`
}

type limitsText struct {
	Connections           *int64      `toml:"connections"`
	ConnectRate           *units.Rate `toml:"connect_rate"`
	MessageRate           *units.Rate `toml:"message_rate"`
	Daily                 *int64      `toml:"daily"`
	MessagesPerConnection *int64      `toml:"messages_per_connection"`
	TLS                   *string     `toml:"tls"`
	Loop                  *loopText   `toml:"loop"`
}

type loopText struct {
	Off      bool            `toml:"off"`
	High     *float64        `toml:"high"`
	Low      *float64        `toml:"low"`
	Decrease *float64        `toml:"decrease"`
	Increase *float64        `toml:"increase"`
	Floor    *float64        `toml:"floor"`
	Window   *units.Duration `toml:"window"`
	Least    *int64          `toml:"least"`
}

type defaultBlock struct {
	limitsText
	Rule []ruleText `toml:"rule"`
}

type providerBlock struct {
	limitsText
	Name     string                `toml:"name"`
	MXSuffix []string              `toml:"mx_suffix"`
	Hosts    []string              `toml:"hosts"`
	Site     limitsText            `toml:"site"`
	Pool     spanText              `toml:"pool"`
	Sources  map[string]limitsText `toml:"sources"`
	Rule     []ruleText            `toml:"rule"`
}

// spanText are the limits that may span sources.
type spanText struct {
	Connections *int64      `toml:"connections"`
	ConnectRate *units.Rate `toml:"connect_rate"`
	MessageRate *units.Rate `toml:"message_rate"`
	Daily       *int64      `toml:"daily"`
}

type siteBlock struct {
	limitsText
	Match   string                `toml:"match"`
	Sources map[string]limitsText `toml:"sources"`
}

type domainBlock struct {
	limitsText
	Name    string                `toml:"name"`
	Sources map[string]limitsText `toml:"sources"`
}

type tenantBlock struct {
	Name        string      `toml:"name"`
	Provider    string      `toml:"provider"`
	MessageRate *units.Rate `toml:"message_rate"`
	Daily       *int64      `toml:"daily"`
}

type poolBlock struct {
	spanText
	Name     string `toml:"name"`
	Provider string `toml:"provider"`
}

type ruleText struct {
	Name                  string          `toml:"name"`
	Off                   *bool           `toml:"off"`
	Match                 *string         `toml:"match"`
	Action                *string         `toml:"action"`
	Connections           *int64          `toml:"connections"`
	ConnectRate           *units.Rate     `toml:"connect_rate"`
	MessageRate           *units.Rate     `toml:"message_rate"`
	MessagesPerConnection *int64          `toml:"messages_per_connection"`
	Threshold             *int64          `toml:"threshold"`
	Window                *units.Duration `toml:"window"`
	For                   *units.Duration `toml:"for"`
	Scope                 *string         `toml:"scope"`
	Matches               []string        `toml:"matches"`
	Not                   []string        `toml:"not"`
}

// source is a text with what was read from it.
type source struct {
	Text
	doc   document
	where *places
}

// decode reads a text. It never returns nil: after an error what could be read is there for messages.
func decode(t Text) (*source, error) {
	s := &source{Text: t, where: findPlaces(t.Data)}
	d := toml.NewDecoder(bytes.NewReader(t.Data)).DisallowUnknownFields()
	if err := d.Decode(&s.doc); err != nil {
		return s, s.decodeError(err)
	}
	if s.doc.Version != Version {
		return s, s.fail("version", "must be 1, the version of the format that this program reads")
	}
	return s, nil
}

// fail is the error for a path.
func (s *source) fail(path, message string) *Error {
	at := s.where.find(path)
	e := &Error{File: s.name(), Line: max(at.line, 1), Column: max(at.column, 1), Key: lastKey(path), Message: message}
	e.Block, e.Rule = s.where.describe(path)
	return e
}

func (s *source) name() string {
	if s.Builtin {
		return "builtin " + s.Name
	}
	return s.Name
}

// origin is the place of a path.
func (s *source) origin(path string) Origin {
	block, rule := s.where.describe(path)
	if rule != "" {
		block += " rule " + rule
	}
	return Origin{File: s.Name, Line: s.where.find(path).line, Block: block, Builtin: s.Builtin}
}

// lastKey is what an error names: the last key of a path, nothing for a whole block.
func lastKey(path string) string {
	key := path[strings.LastIndexByte(path, '.')+1:]
	name, _, indexed := strings.Cut(key, "[")
	if indexed && (name == "provider" || name == "site" || name == "domain" || name == "tenant" || name == "pool" || name == "rule") {
		return ""
	}
	return key
}

// decodeError turns the decoder's errors into ours.
func (s *source) decodeError(err error) error {
	var list problems
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		for i := range strict.Errors {
			line, column := strict.Errors[i].Position()
			key := []string(strict.Errors[i].Key())
			e := s.at(line, column, key)
			e.Message, e.Hint = "unknown key", nearest(unknownOf(key))
			list.add(e)
		}
		return list.err()
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		line, column := bad.Position()
		e := s.at(line, column, bad.Key())
		e.Message = strings.TrimPrefix(bad.Error(), "toml: ")
		return e
	}
	return &Error{File: s.name(), Line: 1, Column: 1, Message: strings.TrimPrefix(err.Error(), "toml: ")}
}

func (s *source) at(line, column int, key []string) *Error {
	e := &Error{File: s.name(), Line: line, Column: column}
	if len(key) > 0 {
		e.Key = key[len(key)-1]
	}
	e.Block, e.Rule = s.where.describe(s.where.blockOf(line))
	return e
}

// unknownOf finds the first part of a key that the format does not have, and what it has there.
func unknownOf(key []string) (part string, known []string) {
	t := reflect.TypeFor[document]()
	for _, part = range key {
		if t.Kind() == reflect.Map {
			t = t.Elem()
			continue
		}
		fields := map[string]reflect.Type{}
		keysOf(t, fields)
		next, ok := fields[part]
		if !ok {
			for k := range fields {
				known = append(known, k)
			}
			slices.Sort(known)
			return part, known
		}
		for t = next; t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer; {
			t = t.Elem()
		}
	}
	return part, nil
}

// keysOf collects the keys of a struct and of those embedded in it.
func keysOf(t reflect.Type, into map[string]reflect.Type) {
	if t.Kind() != reflect.Struct {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			keysOf(f.Type, into)
		} else if name := f.Tag.Get("toml"); name != "" {
			into[name] = f.Type
		}
	}
}
