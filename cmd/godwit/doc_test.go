package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var update = flag.Bool("update", false, "write docs/CLI.md")

// cliPage is written by: go test ./cmd/godwit -run TestDoc -update
const cliPage = "../../docs/CLI.md"

// TestDoc: the page is what the commands themselves say.
func TestDoc(t *testing.T) {
	text := cliDoc(commandsOf(model(t).Node, ""))
	if *update {
		if err := os.WriteFile(cliPage, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(cliPage)
	if err != nil || string(have) != text {
		t.Errorf("docs/CLI.md is not what the commands say (%v); run: go test ./cmd/godwit -run TestDoc -update", err)
	}
}

func cliDoc(commands []command) string {
	var b strings.Builder
	b.WriteString(`# The command line

<!-- Generated from cmd/godwit by: go test ./cmd/godwit -run TestDoc -update -->

One program, ` + "`godwit`" + `. Every command tells its flags and examples by ` + "`--help`" + `; ` + "`godwit completion`" + ` makes
scripts for bash, zsh and fish.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | it could not be done: the server is not there, a book does not balance, a message was refused |
| 2 | bad flags, or a configuration file that cannot be used |

Commands that talk to a running server find it by ` + "`--admin ADDR`" + ` or ` + "`GODWIT_ADMIN`" + `, else by ` + "`-c CONFIG`" + `, else at the
default address. Over a Unix socket its file permissions decide; over TCP a token of ` + "`admin.tokens`" + ` is needed, in
` + "`GODWIT_ADMIN_TOKEN`" + ` or a file named by ` + "`--token-file`" + `. Filters take ` + "`*`" + ` and ` + "`?`" + `; an action without any filter is
refused unless it says ` + "`--all`" + `. Tables are for people: colour only on a terminal and never with ` + "`NO_COLOR`" + ` set,
control characters of foreign text replaced. Programs use ` + "`--json`" + `.
`)
	for _, c := range commands[1:] {
		if len(c.children) > 0 {
			fmt.Fprintf(&b, "\n## godwit %s\n\n%s\n", c.path, c.help)
			continue
		}
		level := strings.Repeat("#", 2+strings.Count(c.path, " "))
		fmt.Fprintf(&b, "\n%s godwit %s%s\n\n%s\n", level, c.path, docArgs(c.args), c.help)
		if c.detail != "" {
			fmt.Fprintf(&b, "\n```text\n%s\n```\n", strings.TrimSpace(c.detail))
		}
		docFlags(&b, &c)
	}
	return b.String()
}

func docArgs(args []*kong.Positional) string {
	s := ""
	for _, a := range args {
		s += " " + a.Summary()
	}
	return s
}

func docFlags(b *strings.Builder, c *command) {
	var rows []string
	for _, a := range c.args {
		rows = append(rows, fmt.Sprintf("| `%s` | %s |", a.Summary(), docText(a.Help)))
	}
	for _, f := range c.flags {
		if f.Name == "help" {
			continue
		}
		name := "--" + f.Name
		if f.Short != 0 {
			name = "-" + string(f.Short) + ", " + name
		}
		if !f.IsBool() {
			name += " " + f.FormatPlaceHolder()
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s |", name, docText(f.Help)))
	}
	if len(rows) > 0 {
		fmt.Fprintf(b, "\n| | |\n|---|---|\n%s\n", strings.Join(rows, "\n"))
	}
}

func docText(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
