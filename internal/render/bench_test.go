package render

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/flosch/pongo2/v6"
)

// benchTemplate is some 37 KB of HTML with 20 variables and a loop of 6 x 3 fields.
func benchTemplate() (string, map[string]any) {
	var b strings.Builder
	vars := make(map[string]any)
	filler := strings.Repeat(`<td style="padding:0;margin:0;font-family:Arial">Lorem ipsum dolor sit amet</td>`+"\n", 22)
	for i := range 20 {
		name := fmt.Sprintf("var%d", i)
		vars[name] = fmt.Sprintf("value %d", i)
		fmt.Fprintf(&b, "<tr>%s<td>{{ %s }}</td></tr>\n", filler, name)
	}
	b.WriteString("{% for item in items %}<p>{{ item.name }} {{ item.price }} {{ item.url }}</p>{% endfor %}\n")
	var items []any
	for i := range 6 {
		items = append(items, map[string]any{"name": fmt.Sprint("Item ", i), "price": "9.99", "url": "https://example.com/i"})
	}
	vars["items"] = items
	return b.String(), vars
}

func BenchmarkRender(b *testing.B) {
	src, vars := benchTemplate()
	e := testEngine(b)
	for _, mode := range []string{"html", "text"} {
		b.Run(mode, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Render(context.Background(), src, vars, mode == "html"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPongo2 is pongo2 as it comes, compiled once: what BenchmarkRender is
// to be compared with.
func BenchmarkPongo2(b *testing.B) {
	src, vars := benchTemplate()
	tpl, err := pongo2.FromString(src)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tpl.Execute(vars); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	src, _ := benchTemplate()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := compile(src, true, 100); err != nil {
			b.Fatal(err)
		}
	}
}
