// Package show writes for people at a terminal: headings, aligned tables,
// counts, a block of lines that is redrawn in place; and, for programs, JSON.
//
// Colour is used on a terminal only, never when NO_COLOR is set or TERM is
// dumb. Text that came from elsewhere (replies of peers, addresses) is cleaned
// of control characters, so that it cannot command the terminal.
package show

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/charmbracelet/lipgloss"
	"golang.org/x/term"
)

// defaultWidth is assumed where the width cannot be asked for.
const defaultWidth = 100

// Page is where output goes. Make one with New.
type Page struct {
	w        io.Writer
	terminal bool
	width    int
	head     lipgloss.Style
	good     lipgloss.Style
	bad      lipgloss.Style
	warn     lipgloss.Style
	dim      lipgloss.Style
	drawn    int // lines of the block that Draw replaces
}

// New returns a page on w. Only an *os.File that is a terminal gets colour.
func New(w io.Writer) *Page {
	p := &Page{w: w, width: defaultWidth}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		p.terminal = true
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 20 {
			p.width = width
		}
	}
	p.styles(lipgloss.NewRenderer(w)) // it honours NO_COLOR and what the terminal can do
	return p
}

func (p *Page) styles(r *lipgloss.Renderer) {
	p.head = r.NewStyle().Bold(true)
	p.good = r.NewStyle().Foreground(lipgloss.Color("2"))
	p.bad = r.NewStyle().Foreground(lipgloss.Color("1")).Bold(true)
	p.warn = r.NewStyle().Foreground(lipgloss.Color("3"))
	p.dim = r.NewStyle().Faint(true)
}

// Terminal reports whether a person is looking: lines may be redrawn.
func (p *Page) Terminal() bool { return p.terminal }

// Good marks s as good news.
func (p *Page) Good(s string) string { return p.good.Render(s) }

// Bad marks s as bad news.
func (p *Page) Bad(s string) string { return p.bad.Render(s) }

// Warn marks s as worth a look.
func (p *Page) Warn(s string) string { return p.warn.Render(s) }

// Dim marks s as less important.
func (p *Page) Dim(s string) string { return p.dim.Render(s) }

// Heading writes a line that stands out.
func (p *Page) Heading(s string) { p.Printf("%s\n", p.head.Render(s)) }

// Printf writes formatted text. A terminal that is gone is no reason to stop working, so errors are dropped.
func (p *Page) Printf(format string, args ...any) {
	_, _ = fmt.Fprintf(p.w, format, args...)
	p.drawn = 0
}

// Draw shows a block of lines in the place of the block before. Where there is
// no terminal it writes nothing: use Printf for milestones there.
func (p *Page) Draw(lines []string) {
	if !p.terminal {
		return
	}
	var b strings.Builder
	p.rewind(&b)
	for _, l := range lines {
		b.WriteString(clip(l, p.width-1))
		b.WriteString("\x1b[K\n")
	}
	_, _ = io.WriteString(p.w, b.String())
	p.drawn = len(lines)
}

// Clear removes the block that Draw showed last.
func (p *Page) Clear() {
	if !p.terminal || p.drawn == 0 {
		return
	}
	var b strings.Builder
	p.rewind(&b)
	_, _ = io.WriteString(p.w, b.String())
	p.drawn = 0
}

// rewind goes back to where the last block began and erases from there on.
func (p *Page) rewind(b *strings.Builder) {
	if p.drawn > 0 {
		fmt.Fprintf(b, "\x1b[%dA\r\x1b[J", p.drawn)
	}
}

// JSON writes v indented.
func JSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// Clean replaces control characters, which could command a terminal or break
// a line, and bytes that are not UTF-8.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.In(r, unicode.Bidi_Control) {
			return '·'
		}
		return r
	}, s)
}
