package render

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// attack is a template that must fail, or end with an output in bounds, without
// taking the process, its memory or its time.
type attack struct {
	name string
	src  string
	vars map[string]any
	// may: the template is allowed to succeed.
	may bool
}

type withMethod struct{ Secret string }

// Leak would be called by pongo2 as it comes.
func (withMethod) Leak() string { return "leaked" }

func rep(s string, n int) string { return strings.Repeat(s, n) }

// double builds a value of 2^n parts out of n tags.
func double(n int, start, grow, use string) string {
	return rep("{% with x="+start+" %}", 1) + rep("{% with x="+grow+" %}", n) + use + rep("{% endwith %}", n+1)
}

func attacks() []attack {
	big := rep("x", 1<<20)
	list := make([]any, 50_000)
	for i := range list {
		list[i] = int64(i)
	}
	self := map[string]any{}
	self["self"] = self
	deep := any("x")
	for range 100_000 {
		deep = []any{deep}
	}
	loops := "{% for a in l %}{% for b in l %}{% for c in l %}"
	return []attack{
		{name: "nested blocks", src: rep("{% if 1 %}", 40_000) + rep("{% endif %}", 5_000)},
		{name: "nested loops", src: rep("{% for a in l %}", 20_000)},
		{name: "nested filters", src: rep("{% filter lower %}", 20_000)},
		{name: "parentheses", src: "{{ " + rep("(", 200_000) + "x" + rep(")", 200_000) + " }}"},
		{name: "parentheses in if", src: "{% if " + rep("(", 200_000) + "x %}{% endif %}"},
		{name: "brackets", src: "{{ x" + rep("[0]", 150_000) + " }}"},
		{name: "not", src: "{% if " + rep("not ", 120_000) + "x %}{% endif %}"},
		{name: "or", src: "{% if x" + rep(" or x", 90_000) + " %}{% endif %}"},
		{name: "minus", src: "{{ " + rep("-", 200_000) + "1 }}"},
		{name: "filter chain", src: "{{ x" + rep("|upper", 80_000) + " }}"},
		{name: "lookups", src: "{{ x" + rep(".a", 200_000) + " }}"},
		{name: "elif", src: "{% if x %}" + rep("{% elif x %}", 40_000) + "{% endif %}", may: true},
		{name: "empty triple loop", src: loops + rep("{% endfor %}", 3), vars: map[string]any{"l": list}},
		{name: "loop over long text", src: "{% for c in s %}{% endfor %}", vars: map[string]any{"s": big}},
		{name: "loop that writes", src: "{% for a in l %}" + rep("text ", 5000) + "{% endfor %}", vars: map[string]any{"l": list}},
		{name: "loop that shows", src: "{% for a in l %}{{ s }}{% endfor %}", vars: map[string]any{"l": list, "s": big}},
		{name: "loop that filters", src: "{% for a in l %}{% if s|slugify|length > 1 %}{% endif %}{% endfor %}", vars: map[string]any{"l": list, "s": big}},
		{name: "loop that compares", src: "{% for a in l %}{% if l == m %}{% endif %}{% endfor %}", vars: map[string]any{"l": list, "m": append([]any(nil), list...)}},
		{name: "loop that searches", src: "{% for a in l %}{% if 'none' in l %}{% endif %}{% endfor %}", vars: map[string]any{"l": list}},
		{name: "loop that captures", src: "{% for a in l %}{% ifchanged %}{{ a }}{{ s }}{% endifchanged %}{% endfor %}", vars: map[string]any{"l": list, "s": big}},
		{name: "loop that reverses", src: "{% for a in l %}{% for b in l reversed %}{% endfor %}{% endfor %}", vars: map[string]any{"l": list}},
		{name: "ljust", src: "{{ 'x'|ljust:900000000 }}"},
		{name: "rjust", src: "{{ 'x'|rjust:n }}", vars: map[string]any{"n": 900000000}},
		{name: "center", src: "{{ 'x'|center:'900000000' }}"},
		{name: "stringformat width", src: "{{ 1|stringformat:'900000000d' }}"},
		{name: "stringformat precision", src: "{{ 1|stringformat:n }}", vars: map[string]any{"n": ".900000000f"}},
		{name: "stringformat overflow", src: "{{ 1|stringformat:'99999999999999999999999d' }}"},
		{name: "floatformat", src: "{{ 1|floatformat:900000000 }}"},
		{name: "floatformat grouped", src: "{{ 1|floatformat:'900000000g' }}"},
		{name: "wordwrap", src: "{{ s|wordwrap:1 }}", vars: map[string]any{"s": rep("a ", 500_000)}, may: true},
		{name: "tabs", src: "{{ s|wordwrap:99999999 }}", vars: map[string]any{"s": rep("\t", 1<<20)}, may: true},
		{name: "doubled text", src: double(90, "'x'", "x|add:x", "{{ x|length }}")},
		{name: "doubled by append", src: double(90, "'x'", "x|append:x", "{{ x|length }}")},
		{name: "doubled list", src: double(90, "l", "x|concat:x", "{{ x|length }}"), vars: map[string]any{"l": list}},
		{name: "list of itself shown", src: double(90, "l", "l|append:x|append:x", "{{ x }}"), vars: map[string]any{"l": []any{int64(1)}}},
		{name: "list of itself compared", src: double(45, "l", "e|append:x|append:x", "{% with y=l %}"+rep("{% with y=e|append:y|append:y %}", 45)+"{% if x == y %}{% endif %}"+rep("{% endwith %}", 46)),
			vars: map[string]any{"l": []any{int64(1)}, "e": []any{}}},
		{name: "list of itself as JSON", src: double(60, "l", "e|append:x|append:x", "{{ x|json_script:'a' }}"), vars: map[string]any{"l": []any{int64(1)}, "e": []any{}}},
		{name: "list of itself as list", src: double(60, "l", "e|append:'a'|append:x|append:'b'|append:x", "{{ x|unordered_list }}"), vars: map[string]any{"l": []any{int64(1)}, "e": []any{}}},
		{name: "many large bindings", src: "{% with " + func() string {
			var b strings.Builder
			for i := range 5000 {
				b.WriteString("v" + itoa(int64(i)) + "=s|upper ")
			}
			return b.String()
		}() + "%}{% endwith %}", vars: map[string]any{"s": big}},
		{name: "join", src: "{{ l|join:s }}", vars: map[string]any{"l": list, "s": big}, may: true}, // without escaping, a list of numbers passes through
		{name: "escape", src: "{{ s|force_escape|force_escape|force_escape|force_escape }}", vars: map[string]any{"s": rep("&", 1<<20)}},
		{name: "urlencode", src: "{{ s" + rep("|urlencode:''", 90) + " }}", vars: map[string]any{"s": rep("é", 1<<18)}},
		{name: "linenumbers", src: "{{ s|linenumbers }}", vars: map[string]any{"s": rep("\n", 2<<20)}},
		{name: "linebreaks", src: "{{ s|linebreaks }}", vars: map[string]any{"s": rep("\n\na", 1<<20)}},
		{name: "date format", src: "{{ '2024-01-02'|date:f }}", vars: map[string]any{"f": rep("r", 1<<20)}},
		{name: "nested captures", src: rep("{% filter lower %}{% for a in l %}text {% endfor %}", 99) + rep("{% endfilter %}", 99), vars: map[string]any{"l": list[:900]}, may: true},
		{name: "striptags nested", src: "{{ s|striptags }}", vars: map[string]any{"s": rep("<", 1<<19) + rep("a>", 1<<19)}, may: true},
		{name: "striptags comments", src: "{{ s|striptags }}", vars: map[string]any{"s": rep("<!--", 1<<18) + ">"}, may: true},
		{name: "striptags quotes", src: "{{ s|striptags }}", vars: map[string]any{"s": rep(`<a x=">" `, 1<<17)}, may: true},
		{name: "striptags apostrophes", src: "{{ s|striptags }}", vars: map[string]any{"s": rep(`<a x='' y="`, 1<<17) + ">"}, may: true},
		{name: "urlize", src: "{{ s|urlize }}", vars: map[string]any{"s": rep("(", 1<<19) + rep("x.com.,", 1<<17)}, may: true},
		{name: "urlize entities", src: "{{ s|urlize }}", vars: map[string]any{"s": rep("&amp;", 1<<17) + ".com"}, may: true},
		{name: "truncate", src: "{{ s|truncatewords_html:900000000 }}{{ s|truncatechars_html:900000000 }}", vars: map[string]any{"s": rep("<", 1<<20)}, may: true},
		{name: "open braces", src: rep("{", 500_000), may: true},
		{name: "open braces then newline", src: rep("{{", 250_000) + "\n}}", may: true},
		{name: "open tags", src: rep("{% ", 160_000), may: true},
		{name: "open comments", src: rep("{# ", 160_000), may: true},
		{name: "quotes never closed", src: "{% if " + rep(`\" `, 160_000) + "%}"},
		{name: "quotes never closed, both", src: "{% if " + rep(`\"\' `, 90_000) + "%}"},
		{name: "many tags", src: rep("{{a}}", 100_000), may: true},
		{name: "many filters tags", src: rep("{{a|add:1}}", 40_000), may: true},
		{name: "verbatim never closed", src: rep("{% verbatim %}", 30_000)},
		{name: "comment never closed", src: rep("{% comment %}", 30_000)},
		{name: "source too large", src: rep("x", 600_000)},
		{name: "include", src: `{% include "/etc/passwd" %}`},
		{name: "include, trimmed", src: `{%- include "/etc/passwd" -%}`},
		{name: "ssi", src: `{% ssi "/etc/passwd" parsed %}`},
		{name: "import", src: `{% import "/etc/passwd" m %}`},
		{name: "extends", src: `{% extends "/etc/passwd" %}`},
		{name: "macro", src: `{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}`},
		{name: "lorem", src: `{% lorem 900000000 w %}`},
		{name: "now", src: `{% now "Y" %}`},
		{name: "our own tags", src: `{% godwit 0 %}{% godwitblock 0 %}{% godwitend %}`},
		{name: "our own tags in text", src: "{% verbatim %}{% godwit 99 %}{{ x }}{% endverbatim %}{{% godwit 99 %}", may: true},
		{name: "text that pongo2 takes for the end", src: "a\x01b{% include 'x' %}"},
		{name: "negative item", src: "{% godwit -1 %}"},
		{name: "method", src: "{{ v.Leak }}", vars: map[string]any{"v": withMethod{"s"}}},
		{name: "field", src: "{{ v.Secret }}", vars: map[string]any{"v": &withMethod{"s"}}},
		{name: "function", src: "{{ f }}", vars: map[string]any{"f": func() string { return "called" }}},
		{name: "function in list", src: "{{ l.0 }}", vars: map[string]any{"l": []any{func() {}}}},
		{name: "map in itself", src: "{{ self }}", vars: self},
		{name: "deep variable", src: "{{ d }}", vars: map[string]any{"d": deep}},
		{name: "method of time", src: "{{ t.UnixNano }}", vars: map[string]any{"t": time.Unix(0, 0)}, may: true},
		{name: "Python internals", src: "{{ s.__class__.__mro__ }}", vars: map[string]any{"s": "x"}},
		{name: "Python internals by lookup", src: "{{ s|lookup:'__class__' }}", vars: map[string]any{"s": "x"}},
		{name: "division", src: "{{ 1|divisibleby:0 }}"},
		{name: "smallest number", src: "{{ n|abs }}", vars: map[string]any{"n": int64(-1 << 63)}},
		{name: "number overflow", src: "{{ n|add:n }}", vars: map[string]any{"n": int64(1<<63 - 1)}},
		{name: "invalid UTF-8", src: "\xff{{ x|upper|title|slugify|truncatechars:1 }}\xfe{{ \xff }}", vars: map[string]any{"x": "\xff\xfe\xfd"}},
		{name: "widthratio", src: "{% widthratio 1e308 1e-308 1000000000 %}", may: true},
	}
}

const (
	attackVariable = "GODWIT_RENDER_ATTACK"
	attackMemory   = 512 << 20
)

// TestHostile runs each attack in a process of its own: what a stack overflow
// or a full memory would take down is that one.
func TestHostile(t *testing.T) {
	if name := os.Getenv(attackVariable); name != "" {
		runAttack(t, name)
		return
	}
	if raceDetector {
		t.Skip("one goroutine in each process: nothing for the race detector, at ten times the cost")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, self, "-test.run=^TestHostile$", "-test.count=1")
			cmd.Env = append(os.Environ(), attackVariable+"="+a.name)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%.2000s", err, out)
			}
		})
	}
}

// runAttack is the child's side.
func runAttack(t *testing.T, name string) {
	// pongo2 alone overflows Go's full gigabyte of stack; we must do with little.
	debug.SetMaxStack(1 << 20)
	for _, a := range attacks() {
		if a.name != name {
			continue
		}
		e, err := New(DefaultOptions(), Deps{})
		if err != nil {
			t.Fatal(err)
		}
		for _, html := range []bool{true, false} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			out, err := e.Render(context.Background(), a.src, a.vars, html)
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > attackMemory {
				t.Errorf("allocated %d MiB", used>>20)
			}
			checkAttack(t, a, out, err)
		}
		return
	}
	t.Fatalf("no attack named %q", name)
}

func checkAttack(t *testing.T, a attack, out string, err error) {
	var re *Error
	switch {
	case err == nil && !a.may:
		t.Errorf("rendered %.100q, want an error", out)
	case err != nil && !errors.As(err, &re):
		t.Errorf("error %T %v, want *Error", err, err)
	case err != nil && (re.internal != "" || re.Line < 1 || re.Column < 1):
		t.Errorf("error %+v", re)
	case len(out) > int(DefaultOptions().MaxOutput):
		t.Errorf("output of %d bytes", len(out))
	}
	if strings.Contains(out, "leaked") || strings.Contains(out, "root:") {
		t.Errorf("leaked: %.100q", out)
	}
	t.Logf("%.100q %v", out, err)
}
