package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// rendering is one message's pass through the templates of its body.
type rendering struct {
	ctx   context.Context
	c     *Composer
	m     *mail.Message
	plain bool           // the body says that nothing is a template
	vars  map[string]any // nil until a template needs them
}

// hasTags reports whether a text has to be rendered at all.
func hasTags(s string) bool {
	for {
		i := strings.IndexByte(s, '{')
		if i < 0 || i+1 == len(s) {
			return false
		}
		switch s[i+1] {
		case '{', '%', '#':
			return true
		}
		s = s[i+1:]
	}
}

// text renders one text of the body; part names it in errors.
func (r *rendering) text(part, src string, html bool) (string, error) {
	return r.moved(part, src, html, nil)
}

// moved is text for a source cut out of a larger one: move maps a place in src to
// the place its author knows.
func (r *rendering) moved(part, src string, html bool, move func(line, column int) (int, int)) (string, error) {
	if r.plain || !hasTags(src) {
		return src, nil
	}
	if r.c.deps.Renderer == nil {
		return "", deferred("templates cannot be rendered here", errors.New("no renderer"))
	}
	vars, err := r.variables()
	if err != nil {
		return "", err
	}
	out, err := r.c.deps.Renderer.Render(r.ctx, src, vars, html)
	if err != nil {
		return "", renderError(r.ctx, part, move, err)
	}
	return out, nil
}

// variables are the row's substitutions, and unless the row has its own:
// recipient, and now, which is the accept time so that a retry says the same.
func (r *rendering) variables() (map[string]any, error) {
	if r.vars != nil {
		return r.vars, nil
	}
	vars, err := parseSubstitutions(r.m.Substitutions)
	if err != nil {
		return nil, unrenderable("substitutions: %s", oneLine(err.Error()))
	}
	if _, own := vars["recipient"]; !own {
		vars["recipient"] = r.m.Recipient
	}
	if _, own := vars["now"]; !own {
		vars["now"] = r.m.Accepted.UTC().Format(time.RFC3339)
	}
	r.vars = vars
	return vars, nil
}

// parseSubstitutions reads a JSON object. Whole numbers become int64, as a
// template prints them; what does not fit, and the others, float64.
func parseSubstitutions(data []byte) (map[string]any, error) {
	vars := map[string]any{}
	if len(bytes.TrimSpace(data)) == 0 {
		return vars, nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&vars); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if vars == nil { // JSON null
		return map[string]any{}, nil
	}
	for name, v := range vars {
		vars[name] = numbers(v)
	}
	return vars, nil
}

// numbers replaces json.Number inside v.
func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	case map[string]any:
		for name, item := range v {
			v[name] = numbers(item)
		}
	case []any:
		for i, item := range v {
			v[i] = numbers(item)
		}
	}
	return v
}
