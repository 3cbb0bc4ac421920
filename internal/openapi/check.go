package openapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CheckRequest tells how a request body differs from what the document says of the operation.
func (d *Document) CheckRequest(method, path string, h http.Header, body []byte) error {
	op, err := d.lookup(method, path)
	if err != nil {
		return err
	}
	described, _ := op["requestBody"].(object)
	if described == nil {
		if len(body) > 0 {
			return fmt.Errorf("openapi: %s %s takes no body", method, path)
		}
		return nil
	}
	return d.checkContent(described, h, body)
}

// CheckResponse tells how a response differs from what the document says: its
// status must be listed and its body of the described form.
func (d *Document) CheckResponse(method, path string, status int, h http.Header, body []byte) error {
	op, err := d.lookup(method, path)
	if err != nil {
		return err
	}
	described, _ := op["responses"].(object)[strconv.Itoa(status)].(object)
	if described == nil {
		return fmt.Errorf("openapi: %s %s does not list status %d", method, path, status)
	}
	if described["content"] == nil {
		if len(body) > 0 {
			return fmt.Errorf("openapi: %s %s: status %d has no body, got %q", method, path, status, body)
		}
		return nil
	}
	return d.checkContent(described, h, body)
}

func (d *Document) lookup(method, path string) (object, error) {
	item, _ := d.tree["paths"].(object)[path].(object)
	op, _ := item[strings.ToLower(method)].(object)
	if op == nil {
		return nil, fmt.Errorf("openapi: %s %s is not described", method, path)
	}
	return op, nil
}

func (d *Document) checkContent(described object, h http.Header, body []byte) error {
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return fmt.Errorf("openapi: Content-Type %q: %w", h.Get("Content-Type"), err)
	}
	content, _ := described["content"].(object)[media].(object)
	if content == nil {
		return fmt.Errorf("openapi: media type %s is not described", media)
	}
	schema, _ := content["schema"].(object)
	if schema == nil {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return fmt.Errorf("openapi: %w", err)
	}
	return d.check(schema, v, "")
}

// check validates v against the keywords that this package writes.
func (d *Document) check(schema object, v any, at string) error {
	if ref, ok := schema["$ref"].(string); ok {
		target, _ := d.schemas[ref[strings.LastIndexByte(ref, '/')+1:]].(object)
		if target == nil {
			return fmt.Errorf("openapi: %s: %s does not exist", at, ref)
		}
		return d.check(target, v, at)
	}
	switch v := v.(type) {
	case map[string]any:
		return d.checkObject(schema, v, at)
	case []any:
		return d.checkArray(schema, v, at)
	case string:
		return checkString(schema, v, at)
	case bool:
		return wantType(schema, "boolean", at)
	case json.Number:
		return checkNumber(schema, v, at)
	}
	return fmt.Errorf("openapi: %s: null is not described", at)
}

func wantType(schema object, got, at string) error {
	if want, given := schema["type"]; given && want != got {
		return fmt.Errorf("openapi: %s: is of type %s, want %v", at, got, want)
	}
	return nil
}

func (d *Document) checkObject(schema, v object, at string) error {
	if err := wantType(schema, "object", at); err != nil {
		return err
	}
	if required, ok := schema["required"].([]any); ok {
		for _, name := range required {
			if _, there := v[name.(string)]; !there {
				return fmt.Errorf("openapi: %s: %v is missing", at, name)
			}
		}
	}
	properties, _ := schema["properties"].(object)
	for name, value := range v {
		sub, known := properties[name].(object)
		if !known {
			sub, known = schema["additionalProperties"].(object)
		}
		if !known {
			if schema["additionalProperties"] == false {
				return fmt.Errorf("openapi: %s: %s is not described", at, name)
			}
			continue
		}
		if err := d.check(sub, value, at+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

func (d *Document) checkArray(schema object, v []any, at string) error {
	if err := wantType(schema, "array", at); err != nil {
		return err
	}
	if n, ok := schema["minItems"].(int); ok && len(v) < n {
		return fmt.Errorf("openapi: %s: has %d items, want at least %d", at, len(v), n)
	}
	if n, ok := schema["maxItems"].(int); ok && len(v) > n {
		return fmt.Errorf("openapi: %s: has %d items, want at most %d", at, len(v), n)
	}
	items, _ := schema["items"].(object)
	for i, value := range v {
		if err := d.check(items, value, at+"/"+strconv.Itoa(i)); err != nil {
			return err
		}
	}
	return nil
}

func checkString(schema object, v, at string) error {
	if err := wantType(schema, "string", at); err != nil {
		return err
	}
	if enum, ok := schema["enum"].([]any); ok && !slices.Contains(enum, any(v)) {
		return fmt.Errorf("openapi: %s: %q is none of %v", at, v, enum)
	}
	var err error
	switch schema["format"] {
	case "date-time":
		_, err = time.Parse(time.RFC3339Nano, v)
	case "uuid":
		if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(v) {
			err = fmt.Errorf("%q is not a UUID", v)
		}
	}
	if err == nil && schema["contentEncoding"] == "base64" {
		_, err = base64.StdEncoding.DecodeString(v)
	}
	if err != nil {
		return fmt.Errorf("openapi: %s: %w", at, err)
	}
	return nil
}

func checkNumber(schema object, v json.Number, at string) error {
	n, err := v.Int64()
	if err != nil {
		return wantType(schema, "number", at)
	}
	if schema["type"] != "number" {
		if err := wantType(schema, "integer", at); err != nil {
			return err
		}
	}
	if low, ok := schema["minimum"].(int); ok && n < int64(low) {
		return fmt.Errorf("openapi: %s: %d is below %d", at, n, low)
	}
	if high, ok := schema["maximum"].(int); ok && n > int64(high) {
		return fmt.Errorf("openapi: %s: %d is above %d", at, n, high)
	}
	return nil
}
