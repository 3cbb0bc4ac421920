package openapi

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Schema names itself instead of being described by reflection: a type whose
// JSON form is not what its Go kind says.
type Schema interface {
	// JSONSchema returns the schema as JSON.
	JSONSchema() string
}

// schema describes t; named structs become components and are referred to.
func (d *Document) schema(t reflect.Type) (object, error) {
	switch {
	case t.Kind() != reflect.Pointer && t.Implements(reflect.TypeFor[Schema]()): // a pointer to one is looked at below
		var out object
		err := json.Unmarshal([]byte(reflect.Zero(t).Interface().(Schema).JSONSchema()), &out)
		return out, err
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}, nil
	case t == reflect.TypeFor[[]byte]():
		return object{"type": "string", "contentEncoding": "base64"}, nil
	case t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return object{"type": "string"}, nil
	}
	switch t.Kind() {
	case reflect.String:
		return object{"type": "string"}, nil
	case reflect.Bool:
		return object{"type": "boolean"}, nil
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Uint8:
		return object{"type": "integer"}, nil
	case reflect.Float64:
		return object{"type": "number"}, nil
	case reflect.Pointer:
		return d.schema(t.Elem())
	case reflect.Slice:
		items, err := d.schema(t.Elem())
		return object{"type": "array", "items": items}, err
	case reflect.Map:
		values, err := d.schema(t.Elem())
		return object{"type": "object", "additionalProperties": values}, err
	case reflect.Struct:
		return d.component(t)
	}
	return nil, fmt.Errorf("type %v has no schema", t)
}

func (d *Document) component(t reflect.Type) (object, error) {
	ref := object{"$ref": "#/components/schemas/" + t.Name()}
	if t.Name() == "" {
		return nil, fmt.Errorf("struct without a name")
	}
	if known, ok := d.schemas[t.Name()]; ok {
		if from := known.(object)["x-go-type"]; from != t.String() {
			return nil, fmt.Errorf("two types named %s: %v and %v", t.Name(), from, t)
		}
		return ref, nil
	}
	out := object{"type": "object", "additionalProperties": false, "x-go-type": t.String()}
	d.schemas[t.Name()] = out
	properties, required := object{}, []any{}
	for _, f := range reflect.VisibleFields(t) {
		name, flags, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || f.Anonymous || name == "-" {
			continue
		}
		if name == "" {
			return nil, fmt.Errorf("%v.%s has no json name", t, f.Name)
		}
		p, err := d.property(f)
		if err != nil {
			return nil, fmt.Errorf("%v.%s: %w", t, f.Name, err)
		}
		properties[name] = p
		if !strings.Contains(flags, "omitempty") && !strings.Contains(flags, "omitzero") {
			required = append(required, name)
		}
	}
	out["properties"] = properties
	if len(required) > 0 {
		out["required"] = required
	}
	return ref, nil
}

// property adds to the schema of f's type what the tags tell.
func (d *Document) property(f reflect.StructField) (object, error) {
	p, err := d.schema(f.Type)
	if err != nil {
		return nil, err
	}
	if text := f.Tag.Get("doc"); text != "" {
		p["description"] = text
	}
	if format := f.Tag.Get("format"); format != "" {
		p["format"] = format
	}
	if list := f.Tag.Get("enum"); list != "" {
		var values []any
		for v := range strings.SplitSeq(list, ",") {
			values = append(values, v)
		}
		p["enum"] = values
	}
	low, high := "minimum", "maximum"
	if f.Type.Kind() == reflect.Slice {
		low, high = "minItems", "maxItems"
	}
	for tag, keyword := range map[string]string{"min": low, "max": high} {
		text, given := f.Tag.Lookup(tag)
		if !given {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("tag %s: %w", tag, err)
		}
		p[keyword] = n
	}
	return p, nil
}
