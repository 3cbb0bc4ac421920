package render

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// corpusCase is a template and what real Django made of it, see testdata/generate.py.
type corpusCase struct {
	Name     string         `json:"name"`
	Template string         `json:"template"`
	Vars     map[string]any `json:"vars"`
	Mode     string         `json:"mode"`
	Output   *string        `json:"output"`
	Error    string         `json:"error"` // Python's exception
	// KnownDifference is why we deviate. A case that has one and agrees fails.
	KnownDifference string `json:"known_difference"`
}

func loadCorpus(t testing.TB) []corpusCase {
	t.Helper()
	data, err := os.ReadFile("testdata/corpus.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vars  map[string]map[string]any `json:"vars"`
		Cases []corpusCase              `json:"cases"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	for i := range file.Cases {
		c := &file.Cases[i]
		if c.Vars == nil {
			group, _, _ := strings.Cut(c.Name, "/")
			c.Vars = file.Vars[group]
		}
		c.Vars, _ = asText(c.Vars).(map[string]any)
	}
	return file.Cases
}

// asText replaces {"$datetime": "…"} by the text: that is how JSON brings dates.
func asText(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, mark := range []string{"$datetime", "$time"} {
			if s, ok := v[mark]; ok {
				return s
			}
		}
		m := make(map[string]any, len(v))
		for k, item := range v {
			m[k] = asText(item)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			list[i] = asText(item)
		}
		return list
	}
	return v
}

// testEngine has a deadline that a slow machine does not meet by accident.
func testEngine(t testing.TB, change ...func(*Options)) *Engine {
	t.Helper()
	opts := DefaultOptions()
	opts.Deadline *= 100
	for _, f := range change {
		f(&opts)
	}
	e, err := New(opts, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestCorpus(t *testing.T) {
	e := testEngine(t)
	cases := loadCorpus(t)
	if len(cases) < 400 {
		t.Fatalf("the corpus has %d cases, want 400 at least", len(cases))
	}
	differences := 0
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			got, err := e.Render(context.Background(), c.Template, c.Vars, c.Mode == "html")
			agree := (err != nil) == (c.Output == nil) && (err != nil || got == *c.Output)
			if c.KnownDifference != "" {
				differences++
				if agree {
					t.Errorf("template %q agrees with Django, but is listed as a known difference: %s", c.Template, c.KnownDifference)
				}
				return
			}
			if agree {
				return
			}
			want := "error " + c.Error
			if c.Output != nil {
				want = *c.Output
			}
			t.Errorf("template %q (%s)\n got: %q, error %v\nwant: %q", c.Template, c.Mode, got, err, want)
		})
	}
	t.Logf("%d cases, %d known differences", len(cases), differences)
}

// TestDjangoInterop runs the templates through the Django that is installed, so
// that the corpus cannot be edited into agreement.
func TestDjangoInterop(t *testing.T) {
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import django").Run(); err != nil {
		if os.Getenv("GODWIT_INTEROP") == "require" {
			t.Fatalf("Django is required and not there: %v", err)
		}
		t.Skip("Django is not installed")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, python, "testdata/generate.py", "--check", "testdata/corpus.json").CombinedOutput()
	if err != nil {
		t.Fatalf("the corpus is not what Django makes of testdata/cases.json: %v\n%s", err, out)
	}
}
