package show

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/muesli/termenv"
)

func TestTable(t *testing.T) {
	var b bytes.Buffer
	p := New(&b)
	tab := &Table{Columns: []Column{{Name: "messages", Right: true}, {Name: "tenant"}, {Name: "domain"}, {Name: "last reply", Grow: true}}}
	tab.Add("12", "", "example.com", "451 4.7.1 later")
	tab.Add("1,234", "", "bücher.test", "550 \x1b[31mred\r\n\u202eevil")
	p.Table(tab)
	want := "" +
		"messages  domain       last reply\n" +
		"      12  example.com  451 4.7.1 later\n" +
		"   1,234  bücher.test  550 ·[31mred···evil\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestEmptyTable(t *testing.T) {
	var b bytes.Buffer
	New(&b).Table(&Table{Columns: []Column{{Name: "id"}}, Empty: "nothing waits"})
	if b.String() != "nothing waits\n" {
		t.Errorf("got %q", b.String())
	}
}

func TestTableFitsTerminal(t *testing.T) {
	p := New(&bytes.Buffer{})
	p.terminal, p.width = true, 40
	tab := &Table{Columns: []Column{{Name: "domain"}, {Name: "reply", Grow: true}}}
	tab.Add("example.com", strings.Repeat("long reply ", 20))
	for _, l := range p.Lines(tab) {
		if lipgloss.Width(l) > 39 {
			t.Errorf("line of %d columns: %q", lipgloss.Width(l), l)
		}
	}
	p.terminal = false
	if l := p.Lines(tab)[1]; !strings.Contains(l, strings.TrimSpace(strings.Repeat("long reply ", 20))) {
		t.Errorf("cut outside a terminal: %q", l)
	}
}

// TestColour: none in a buffer, some when the renderer can, and widths do not count it.
func TestColour(t *testing.T) {
	var b bytes.Buffer
	p := New(&b)
	if got := p.Bad("x"); got != "x" {
		t.Errorf("colour outside a terminal: %q", got)
	}
	r := lipgloss.NewRenderer(&b)
	r.SetColorProfile(termenv.ANSI)
	p.styles(r)
	if got := p.Bad("x"); !strings.Contains(got, "\x1b[") || lipgloss.Width(got) != 1 {
		t.Errorf("no colour: %q", got)
	}
}

func TestDraw(t *testing.T) {
	var b bytes.Buffer
	p := New(&b)
	p.Draw([]string{"a"})
	if b.Len() != 0 {
		t.Errorf("drew outside a terminal: %q", b.String())
	}
	p.terminal, p.width = true, 10
	p.Draw([]string{"one", "a line that is far too long"})
	p.Draw([]string{"three"})
	p.Clear()
	p.Clear()
	want := "one\x1b[K\na line t…\x1b[K\n" + "\x1b[2A\r\x1b[Jthree\x1b[K\n" + "\x1b[1A\r\x1b[J"
	if b.String() != want {
		t.Errorf("got %q\nwant %q", b.String(), want)
	}
}

func TestNumbers(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct{ got, want string }{
		{Count(0), "0"}, {Count(999), "999"}, {Count(1000), "1,000"}, {Count(-1234567), "-1,234,567"},
		{Plural(1, "message"), "1 message"}, {Plural(0, "message"), "0 messages"}, {Plural(2000, "message"), "2,000 messages"},
		{Bytes(1023), "1023 B"}, {Bytes(1536), "1.5 KiB"}, {Bytes(20 << 20), "20 MiB"}, {Bytes(1 << 60), "1024 PiB"},
		{Span(12 * time.Millisecond), "12ms"}, {Span(1540 * time.Millisecond), "1.5s"}, {Span(59 * time.Second), "59s"},
		{Span(200 * time.Second), "3m20s"}, {Span(5*time.Hour + 2*time.Minute), "5h02m"}, {Span(76 * time.Hour), "3d04h"}, {Span(-time.Minute), "-1m00s"},
		{When(time.Time{}, now), ""}, {When(now.Add(time.Minute), now), "in 1m00s"}, {When(now, now), "now"}, {When(now.Add(-time.Hour), now), "1h00m ago"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}
