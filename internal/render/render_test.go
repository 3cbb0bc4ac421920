package render

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/prometheus/client_golang/prometheus"
)

func render(t *testing.T, e *Engine, src string, vars map[string]any) string {
	t.Helper()
	out, err := e.Render(context.Background(), src, vars, true)
	if err != nil {
		t.Errorf("%s: %v", src, err)
	}
	return out
}

func TestOptions(t *testing.T) {
	if err := DefaultOptions().Validate(); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*Options){
		"max_source":     func(o *Options) { o.MaxSource = 0 },
		"max_nesting":    func(o *Options) { o.MaxNesting = 1001 },
		"max_output":     func(o *Options) { o.MaxOutput = 1 << 40 },
		"deadline":       func(o *Options) { o.Deadline = 0 },
		"max_iterations": func(o *Options) { o.MaxIterations = -1 },
		"cache_bytes":    func(o *Options) { o.CacheBytes = -1 },
	} {
		o := DefaultOptions()
		change(&o)
		if _, err := New(o, Deps{}); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: error %v", key, err)
		}
	}
}

// TestGoValues: variables as Go programs and JSON decoders make them.
func TestGoValues(t *testing.T) {
	e := testEngine(t)
	var decoded map[string]any
	if err := json.Unmarshal([]byte(`{"i": 5, "f": 1.5, "l": [1, 2.5], "m": {"n": 3}}`), &decoded); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		src  string
		vars map[string]any
		want string
	}{
		{"{{ i }} {{ f }} {{ l }} {{ m.n }} {{ m }}", decoded, "5 1.5 [1, 2.5] 3 {&#x27;n&#x27;: 3}"},
		{"{{ a }} {{ b }} {{ c }} {{ d }}", map[string]any{"a": 1, "b": uint8(2), "c": float32(0.5), "d": int32(-4)}, "1 2 0.5 -4"},
		{"{{ a.0 }} {{ b.k }} {{ c.0.x }}", map[string]any{"a": []string{"x"}, "b": map[string]string{"k": "v"}, "c": []map[string]any{{"x": 1}}}, "x v 1"},
		{"{{ a }} {{ b }}", map[string]any{"a": json.Number("12345678901234567890"), "b": uint64(1 << 63)}, "12345678901234567890 9223372036854775808"},
		{"{{ a|add:1 }} {{ b|add:b }}", map[string]any{"a": json.Number("7"), "b": json.Number("7.9")}, "8 14"},
		{"{{ t }} {{ t|date:'Y-m-d H:i T' }}", map[string]any{"t": time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)}, "May 6, 2024, 7:08 a.m. 2024-05-06 07:08 UTC"},
		{"{{ d|date:'j F Y, P' }}", map[string]any{"d": "2024-05-06"}, "6 May 2024, midnight"},
		{"{{ d|date:'H:i O' }}", map[string]any{"d": "2024-05-06T07:08:09.5-0330"}, "07:08 -0330"},
		{"{% for x in m.items %}{{ x.0 }}{{ x.1 }}{% endfor %}", map[string]any{"m": map[string]any{"b": 1, "a": 2}}, "a2b1"},
	}
	for _, tt := range tests {
		if got := render(t, e, tt.src, tt.vars); got != tt.want {
			t.Errorf("%s = %q, want %q", tt.src, got, tt.want)
		}
	}
}

func TestRefusedValues(t *testing.T) {
	e := testEngine(t)
	for _, v := range []any{struct{}{}, &struct{}{}, func() {}, make(chan int), []byte("x"), errors.New("x"), time.Second, units.Size(1), []any{[]int{1}}, map[string]any{"a": map[int]any{}}} {
		_, err := e.Render(context.Background(), "no variable used", map[string]any{"v": v}, true)
		var re *Error
		if !errors.As(err, &re) || !strings.Contains(re.Message, `"v"`) {
			t.Errorf("%T: error %v, want one that names the variable", v, err)
		}
	}
}

// TestExtraFilters are those that Django does not have, so the corpus cannot.
func TestExtraFilters(t *testing.T) {
	vars := map[string]any{
		"s": "hello", "n": -1.2, "i": -3, "l": []any{"a", nil, "b"}, "m": map[string]any{"Key With Space": "v", "k": 1},
		"u": "a?b>c~é", "h": "<b>",
	}
	tests := []struct{ src, want string }{
		{"{{ n|abs }} {{ i|abs }} {{ '-2.5'|abs }} {{ s|abs }}", "1.2 3 2.5 "},
		{"{{ s|append:' world' }} {{ h|append:'<i>' }}", "hello world &lt;b&gt;&lt;i&gt;"},
		{"{{ 1|at_least:5.0 }} {{ 7|at_least:5 }} {{ 1|at_most:-1.0 }} {{ s|at_most:1 }}", "5.0 7 -1.0 "},
		{"{{ s|base64_encode }} {{ 'aGVsbG8='|base64_decode }} {{ '!'|base64_decode }}", "aGVsbG8= hello "},
		{"{{ u|base64_url_safe_encode }} {{ u|base64_encode }}", "YT9iPmN-w6k= YT9iPmN+w6k="},
		{"{{ 'YT9iPmN-w6k='|base64_url_safe_decode }}", "a?b&gt;c~é"},
		{"{{ s|capitalize }} {{ 5.01|ceil }} {{ '2'|ceil }} {{ s|ceil }}", "Hello 6.0 2.0 "},
		{"{{ l|compact|join:'' }} {{ l|compact|length }}", "ab 2"},
		{"{{ s|concat:' world' }} {{ l|concat:l|length }} {{ s|count }} {{ l|count }}", "hello world 6 5 3"},
		{"{{ 1|floatadd:2 }} {{ 1.5|floatadd:'2.25' }} {{ s|floatadd:1 }}", "3 3.75 "},
		{"{{ 3|multiply:4 }} {{ 1.5|multiply:2 }} {{ '2'|multiply:'0.5' }}", "12 3.0 1.0"},
		{"{{ m|lookup:'Key With Space' }}{{ m|lookup:'none' }}{{ l|lookup:2 }}", "vb"},
		{"{{ 5|default:1 }} {{ s|title }} {{ 1.25|floatformat:1 }}", "5 Hello 1.3"},
	}
	e := testEngine(t)
	for _, tt := range tests {
		if got := render(t, e, tt.src, vars); got != tt.want {
			t.Errorf("%s = %q, want %q", tt.src, got, tt.want)
		}
	}
}

func TestLimits(t *testing.T) {
	list := make([]any, 50)
	vars := map[string]any{"l": list, "s": strings.Repeat("x", 600)}
	e := testEngine(t, func(o *Options) { o.MaxIterations, o.MaxOutput, o.MaxNesting = 100, 1000, 3 })
	fits := []string{
		"{% for a in l %}{% endfor %}{% for a in l %}{% endfor %}",
		strings.Repeat("x", 1000),
		"{{ s }}", "{% filter upper %}{{ s }}{% endfilter %}",
		"{% if 1 %}{% if 1 %}{% if 1 %}{% endif %}{% endif %}{% endif %}",
	}
	for _, src := range fits {
		render(t, e, src, vars)
	}
	for src, want := range map[string]string{
		"{% for a in l %}{% endfor %}{% for a in l %}{% endfor %}{% for a in 'b' %}{% endfor %}": "more than 100 loop iterations",
		"{% for a in l %}{% for b in l %}{% endfor %}{% endfor %}":                               "more than 100 loop iterations",
		strings.Repeat("x", 1001): "more than 1000 bytes",
		"{{ s }}{{ s }}":          "more than 1000 bytes",
		"{{ s|append:s }}":        "more than 1000 bytes",
		"{% if 1 %}{% if 1 %}{% if 1 %}{% if 1 %}{% endif %}{% endif %}{% endif %}{% endif %}":                                        "nested deeper than 3",
		"{% if not s|append:s %}{% endif %}":                                                                                          "more than 1000 bytes",
		"{% for a in l %}{{ s|upper|lower|length }}{% endfor %}":                                                                      "made by filters",
		"{% with a=s|upper b=s|upper %}{% filter lower %}{{ a }}{% filter upper %}{{ b }}{% endfilter %}{% endfilter %}{% endwith %}": "more than 1000 bytes",
	} {
		if _, err := e.Render(context.Background(), src, vars, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.50s: error %v, want %s", src, err, want)
		}
	}
}

// TestDeadline: a loop that never ends by itself ends by the clock and by the context.
func TestDeadline(t *testing.T) {
	src := "{% for a in l %}{% for b in l %}{% for c in l %}{% endfor %}{% endfor %}{% endfor %}"
	vars := map[string]any{"l": make([]any, 100_000)}
	e := testEngine(t, func(o *Options) { o.MaxIterations, o.Deadline = 1<<40, units.Duration(20*time.Millisecond) })
	_, err := e.Render(context.Background(), src, vars, true)
	var re *Error
	if !errors.As(err, &re) || !strings.Contains(re.Message, "deadline") || !re.Temporary() {
		t.Errorf("error %v, want the deadline, temporary", err)
	}
	if _, err = e.Render(context.Background(), "{{ 1|divisibleby:0 }}", nil, true); !errors.As(err, &re) || re.Temporary() {
		t.Errorf("error %v, want one that is not temporary", err)
	}
	e = testEngine(t, func(o *Options) { o.MaxIterations, o.Deadline = 1<<40, units.Duration(time.Hour) })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := e.Render(ctx, src, vars, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the context's", err)
	}
}

// TestSameEachTime: a retry must compose the same bytes.
func TestSameEachTime(t *testing.T) {
	e := testEngine(t)
	vars := map[string]any{"m": map[string]any{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}}
	const src = "{{ m }}{% for k, v in m.items %}{{ k }}{% endfor %}{{ m|json_script:'x' }}{{ m|join:',' }}"
	first := render(t, e, src, vars)
	for range 50 {
		if got := render(t, e, src, vars); got != first {
			t.Fatalf("got %q after %q", got, first)
		}
	}
	for _, src := range []string{"{{ d|timesince }}", "{{ d|timeuntil }}", "{{ d|naturalday }}", "{{ d|naturaltime }}"} {
		if _, err := e.Render(context.Background(), src, map[string]any{"d": "2024-01-02"}, true); err == nil {
			t.Errorf("%s must not read the clock", src)
		}
	}
}

func TestConcurrent(t *testing.T) {
	e := testEngine(t, func(o *Options) { o.CacheBytes = 20_000 })
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				n := (g + i) % 20
				src := fmt.Sprintf("%d {%% for x in l %%}{%% cycle 'a' 'b' %%}{%% ifchanged x %%}{{ x }}{%% endifchanged %%}{%% endfor %%} {{ v|upper }}", n)
				got, err := e.Render(context.Background(), src, map[string]any{"l": []any{1, 1, 2}, "v": fmt.Sprint("g", g)}, true)
				if want := fmt.Sprintf("%d a1ba2 G%d", n, g); err != nil || got != want {
					t.Errorf("got %q, %v, want %q", got, err, want)
				}
			}
		})
	}
	wg.Wait()
	if e.cache.size > e.cache.max {
		t.Errorf("the cache holds %d bytes of %d", e.cache.size, e.cache.max)
	}
}

// counter returns the value of a counter.
func counter(t *testing.T, reg prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestCache(t *testing.T) {
	reg := prometheus.NewRegistry()
	opts := DefaultOptions()
	opts.CacheBytes = 8 << 10
	e, err := New(opts, Deps{Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(opts, Deps{Registerer: reg}); err == nil {
		t.Error("metrics were registered twice")
	}
	for range 10 {
		e.Check("{{ a }}", true)
		e.Check("{{ a }}", false)
		e.Check("{{ broken", true)
		e.Check("{{ broken| }}", true)
	}
	if n := counter(t, reg, "godwit_render_compiled_total"); n != 4 {
		t.Errorf("%v templates compiled, want 4", n)
	}
	for i := range 100 {
		e.Check(fmt.Sprint("{{ a }}", i), true)
	}
	e.Check("{{ a }}", true)
	if n := counter(t, reg, "godwit_render_compiled_total"); n != 105 {
		t.Errorf("%v templates compiled, want 105: the first must have been dropped", n)
	}
	if e.cache.size > 8<<10 || len(e.cache.entries) != e.cache.order.Len() || len(e.cache.entries) == 0 {
		t.Errorf("cache of %d bytes, %d entries, %d in order", e.cache.size, len(e.cache.entries), e.cache.order.Len())
	}
}

// TestCost: the estimate that bounds the cache must not be below what a compiled
// template weighs by much.
func TestCost(t *testing.T) {
	for name, src := range map[string]string{
		"tags": strings.Repeat("{{ a|add:1 }} text ", 5000),
		"text": strings.Repeat("text ", 50_000),
		"ifs":  strings.Repeat("{% if a %}x{% else %}y{% endif %}", 5000),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p, err := compile(src, true, 100)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatal(err)
		}
		allocated := int64(after.TotalAlloc - before.TotalAlloc)
		// Half of what compiling allocates, at least, is garbage afterwards.
		if p.cost < allocated/6 {
			t.Errorf("%s: cost %d, compiling allocates %d", name, p.cost, allocated)
		}
	}
}

// TestDocs: docs/templates.md names every tag and filter, and every way in which
// the corpus deviates from Django.
func TestDocs(t *testing.T) {
	data, err := os.ReadFile("../../docs/templates.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := strings.Join(strings.Fields(string(data)), " ")
	need := func(kind, name, text string) {
		if !strings.Contains(doc, text) {
			t.Errorf("docs/templates.md does not name the %s %s", kind, name)
		}
	}
	lib := theLibrary()
	for name := range lib.tags {
		need("tag", name, "`"+name+"`")
	}
	for name := range lib.filters {
		need("filter", name, "`"+name+"`")
	}
	for name := range bannedTags {
		need("tag", name, "`"+name+"`")
	}
	for name := range bannedFilters {
		need("filter", name, "`"+name+"`")
	}
	for _, c := range loadCorpus(t) {
		if c.KnownDifference != "" {
			need("difference", c.Name, c.KnownDifference)
		}
	}
}
