package show

import (
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"
)

// Column is one column of a Table.
type Column struct {
	Name  string
	Right bool // numbers
	Grow  bool // cut to fit the terminal, and never in a file or pipe
}

// Table is rows under a head line.
type Table struct {
	Columns []Column
	Rows    [][]string
	Empty   string // what to say when there are no rows
}

// gap stands between columns.
const gap = "  "

// Add appends a row; its cells are cleaned.
func (t *Table) Add(cells ...string) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = Clean(c)
	}
	t.Rows = append(t.Rows, row)
}

// Table writes t, or its Empty text.
func (p *Page) Table(t *Table) {
	if len(t.Rows) == 0 && t.Empty != "" {
		p.Printf("%s\n", t.Empty)
		return
	}
	for _, l := range p.Lines(t) {
		p.Printf("%s\n", l)
	}
}

// Lines is the table as lines, the head first. Columns without any value are left out.
func (p *Page) Lines(t *Table) []string {
	widths := t.widths()
	if p.terminal {
		t.fit(widths, p.width-1)
	}
	head := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		head[i] = c.Name
	}
	lines := []string{p.head.Render(t.line(head, widths))}
	for _, row := range t.Rows {
		lines = append(lines, t.line(row, widths))
	}
	return lines
}

// widths is how wide each column is; -1 for one in which all cells are empty.
func (t *Table) widths() []int {
	out := make([]int, len(t.Columns))
	for i, c := range t.Columns {
		out[i] = -1
		for _, row := range t.Rows {
			if i < len(row) && row[i] != "" {
				out[i] = max(out[i], lipgloss.Width(row[i]), lipgloss.Width(c.Name))
			}
		}
		if len(t.Rows) == 0 {
			out[i] = lipgloss.Width(c.Name)
		}
	}
	return out
}

// fit takes width away from growing columns until the line fits.
func (t *Table) fit(widths []int, limit int) {
	const least = 12
	total := -len(gap)
	for _, w := range widths {
		if w >= 0 {
			total += w + len(gap)
		}
	}
	for i := len(widths) - 1; i >= 0 && total > limit; i-- {
		if t.Columns[i].Grow && widths[i] > least {
			cut := min(total-limit, widths[i]-least)
			widths[i] -= cut
			total -= cut
		}
	}
}

func (t *Table) line(cells []string, widths []int) string {
	var b strings.Builder
	for i, w := range widths {
		if w < 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(gap)
		}
		cell := ""
		if i < len(cells) {
			cell = clip(cells[i], w)
		}
		pad := strings.Repeat(" ", max(0, w-lipgloss.Width(cell)))
		if t.Columns[i].Right {
			b.WriteString(pad + cell)
		} else {
			b.WriteString(cell + pad)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// clip cuts s to a width, counting what a terminal shows.
func clip(s string, width int) string { return ansi.Truncate(s, width, "…") }

// Pairs writes names and values in two columns, leaving out empty values.
func (p *Page) Pairs(pairs ...[2]string) {
	width := 0
	for _, kv := range pairs {
		if kv[1] != "" {
			width = max(width, lipgloss.Width(kv[0]))
		}
	}
	for _, kv := range pairs {
		if kv[1] != "" {
			p.Printf("%s%s%s%s\n", p.dim.Render(kv[0]), strings.Repeat(" ", width-lipgloss.Width(kv[0])), gap, Clean(kv[1]))
		}
	}
}
