package render

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// FuzzRender: whatever the source, rendering ends in time and bounds, with an
// output or a place, and never by a panic caught inside.
func FuzzRender(f *testing.F) {
	for _, c := range loadCorpus(f) {
		if strings.HasPrefix(c.Name, "matrix/") || strings.HasPrefix(c.Name, "compare/") {
			continue
		}
		f.Add(c.Template, "text & <b>", int64(3))
	}
	for _, a := range attacks() {
		if len(a.src) < 4096 {
			f.Add(a.src, "x", int64(-1))
		}
	}
	opts := DefaultOptions()
	opts.MaxOutput = 64 << 10
	opts.MaxIterations = 10_000
	opts.CacheBytes = 0
	opts.Deadline = units.Duration(100 * time.Millisecond)
	e, err := New(opts, Deps{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, src, s string, n int64) {
		vars := map[string]any{
			"s": s, "n": n, "name": s, "d": map[string]any{"a": n, "b": s}, "l": []any{s, n, nil, 1.5, []any{s}},
			"x": float64(n) / 3, "t": "2024-01-02T03:04:05+01:00", "e": []any{}, "none": nil, "now": "2024-03-01",
		}
		for _, html := range []bool{true, false} {
			start := time.Now()
			out, err := e.Render(context.Background(), src, vars, html)
			if took := time.Since(start); took > 20*time.Second {
				t.Fatalf("took %v", took)
			}
			var re *Error
			switch {
			case err == nil && len(out) > int(opts.MaxOutput):
				t.Fatalf("output of %d bytes", len(out))
			case err != nil && (!errors.As(err, &re) || re.internal != "" || re.Line < 1 || re.Column < 1):
				t.Fatalf("error %#v", err)
			}
		}
	})
}
