package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help teaches by example.
func (completionCmd) Help() string {
	return `Examples:
  godwit completion bash > /etc/bash_completion.d/godwit
  godwit completion zsh > "${fpath[1]}/_godwit"
  godwit completion fish > ~/.config/fish/completions/godwit.fish`
}

// Run prints the script, made from the commands and flags themselves.
func (c *completionCmd) Run(e *env) error {
	write := map[string]func(io.Writer, []command) error{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[c.Shell]
	return write(e.out, commandsOf(e.model.Node, ""))
}

// command is what a shell needs to know of one.
type command struct {
	path     string // "queue list"; empty for the program itself
	help     string
	detail   string // with its examples
	children []*kong.Node
	flags    []*kong.Flag
	args     []*kong.Positional
}

// commandsOf lists the commands below n, n first.
func commandsOf(n *kong.Node, path string) []command {
	c := command{path: path, help: n.Help, detail: n.Detail, args: n.Positional}
	for _, group := range n.AllFlags(true) {
		c.flags = append(c.flags, group...)
	}
	for _, child := range n.Children {
		if !child.Hidden {
			c.children = append(c.children, child)
		}
	}
	list := []command{c}
	for _, child := range c.children {
		list = append(list, commandsOf(child, strings.TrimSpace(path+" "+child.Name))...)
	}
	return list
}

// words are what may follow the command: subcommands and flags.
func (c *command) words() (out []string) {
	for _, child := range c.children {
		out = append(out, child.Name)
	}
	for _, a := range c.args {
		out = append(out, values(a)...)
	}
	for _, f := range c.flags {
		out = append(out, "--"+f.Name)
		if f.Short != 0 {
			out = append(out, "-"+string(f.Short))
		}
	}
	return out
}

// files reports whether an argument of the command is a file.
func (c *command) files() bool {
	return slices.ContainsFunc(c.args, func(a *kong.Positional) bool { return isFile(a) })
}

// values are the values that an enum allows.
func values(v *kong.Value) (out []string) {
	for s := range strings.SplitSeq(v.Enum, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

func isFile(v *kong.Value) bool {
	return v.Tag.Type == "path" || v.Tag.Type == "existingfile" || strings.EqualFold(v.Name, "file")
}

// names are the ways to write a flag.
func names(f *kong.Flag) string {
	if f.Short != 0 {
		return "-" + string(f.Short) + "|--" + f.Name
	}
	return "--" + f.Name
}

// bashCompletion finds the command on the line, then offers what may follow.
func bashCompletion(w io.Writer, commands []command) error {
	var b strings.Builder
	b.WriteString(`# bash completion for godwit; made by "godwit completion bash"
_godwit() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path= i
  COMPREPLY=()
  if [[ $cur == "=" ]]; then cur=; elif [[ $prev == "=" ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "${path:+$path }${COMP_WORDS[i]}" in
`)
	var paths []string
	for _, c := range commands[1:] {
		paths = append(paths, quote(c.path))
	}
	fmt.Fprintf(&b, "      %s) path=\"${path:+$path }${COMP_WORDS[i]}\" ;;\n", strings.Join(paths, "|"))
	b.WriteString("    esac\n  done\n  case \"$path:$prev\" in\n")
	for _, c := range commands {
		for _, f := range c.flags {
			if f.IsBool() || f.IsCounter() {
				continue
			}
			var patterns []string
			for name := range strings.SplitSeq(names(f), "|") {
				patterns = append(patterns, quote(c.path+":"+name))
			}
			fmt.Fprintf(&b, "    %s) %s; return ;;\n", strings.Join(patterns, "|"), bashValues(f.Value))
		}
	}
	b.WriteString("  esac\n  case \"$path\" in\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "    %s) COMPREPLY=($(compgen -W %s -- \"$cur\"))", quote(c.path), quote(strings.Join(c.words(), " ")))
		if c.files() {
			b.WriteString("; [[ $cur == -* ]] || COMPREPLY+=($(compgen -f -- \"$cur\"))")
		}
		b.WriteString(" ;;\n")
	}
	b.WriteString("  esac\n}\ncomplete -o filenames -o bashdefault -F _godwit godwit\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func bashValues(v *kong.Value) string {
	switch {
	case len(values(v)) > 0:
		return "COMPREPLY=($(compgen -W " + quote(strings.Join(values(v), " ")) + ` -- "$cur"))`
	case isFile(v):
		return `COMPREPLY=($(compgen -f -- "$cur"))`
	}
	return ":"
}

// quote makes one word of s for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// zshCompletion makes one function per command, each calling _arguments.
func zshCompletion(w io.Writer, commands []command) error {
	var b strings.Builder
	b.WriteString("#compdef godwit\n# zsh completion for godwit; made by \"godwit completion zsh\"\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "\n%s() {\n", zshName(c.path))
		if len(c.children) > 0 {
			b.WriteString("  local context state state_descr line\n  typeset -A opt_args\n")
		}
		b.WriteString("  _arguments -s -S")
		for _, f := range c.flags {
			for name := range strings.SplitSeq(names(f), "|") {
				fmt.Fprintf(&b, " \\\n    %s", quote(zshFlag(name, f)))
			}
		}
		switch {
		case len(c.children) > 0:
			b.WriteString(" \\\n    '1: :->command' '*:: :->rest'\n")
			zshChildren(&b, &c)
		default:
			for _, a := range c.args {
				fmt.Fprintf(&b, " \\\n    %s", quote(":"+zshText(a.Name)+":"+zshValues(a)))
			}
			b.WriteString("\n")
		}
		b.WriteString("}\n")
	}
	b.WriteString("\n_godwit \"$@\"\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func zshChildren(b *strings.Builder, c *command) {
	b.WriteString("  case $state in\n    command)\n      local -a commands=(")
	for _, child := range c.children {
		fmt.Fprintf(b, "\n        %s", quote(child.Name+":"+child.Help))
	}
	b.WriteString(")\n      _describe command commands ;;\n    rest)\n      case $line[1] in\n")
	for _, child := range c.children {
		fmt.Fprintf(b, "        %s) %s ;;\n", child.Name, zshName(strings.TrimSpace(c.path+" "+child.Name)))
	}
	b.WriteString("      esac ;;\n  esac\n")
}

func zshName(path string) string {
	return strings.TrimSuffix("_godwit_"+strings.NewReplacer(" ", "_", "-", "_").Replace(path), "_")
}

func zshFlag(name string, f *kong.Flag) string {
	s := name
	takes := !f.IsBool() && !f.IsCounter()
	if takes && strings.HasPrefix(name, "--") {
		s += "="
	}
	s += "[" + zshText(f.Help) + "]"
	if takes {
		s += ":" + zshText(f.FormatPlaceHolder()) + ":" + zshValues(f.Value)
	}
	return s
}

// zshText escapes what _arguments gives a meaning.
func zshText(s string) string {
	return strings.NewReplacer(`\`, `\\`, ":", `\:`, "[", `\[`, "]", `\]`, `"`, "", "`", "").Replace(s)
}

func zshValues(v *kong.Value) string {
	switch {
	case len(values(v)) > 0:
		return "(" + strings.Join(values(v), " ") + ")"
	case isFile(v):
		return "_files"
	}
	return " "
}

// fishCompletion makes a line for each flag and command.
func fishCompletion(w io.Writer, commands []command) error {
	var b strings.Builder
	b.WriteString("# fish completion for godwit; made by \"godwit completion fish\"\n")
	b.WriteString("function __godwit_at\n  set -l path\n  for word in (commandline -opc)[2..]\n    switch (string join ' ' $path $word)\n      case")
	for _, c := range commands[1:] {
		b.WriteString(" " + fishQuote(c.path))
	}
	b.WriteString("\n        set -a path $word\n    end\n  end\n  test \"$path\" = \"$argv[1]\"\nend\ncomplete -c godwit -f\n")
	for _, c := range commands {
		at := "complete -c godwit -n " + fishQuote("__godwit_at "+fishQuote(c.path))
		for _, child := range c.children {
			fmt.Fprintf(&b, "%s -a %s -d %s\n", at, child.Name, fishQuote(child.Help))
		}
		for _, a := range c.args {
			switch {
			case len(values(a)) > 0:
				fmt.Fprintf(&b, "%s -a %s\n", at, fishQuote(strings.Join(values(a), " ")))
			case isFile(a):
				fmt.Fprintf(&b, "%s -F\n", at)
			}
		}
		for _, f := range c.flags {
			b.WriteString(at + fishFlag(f) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func fishFlag(f *kong.Flag) string {
	s := " -l " + f.Name
	if f.Short != 0 {
		s += " -s " + string(f.Short)
	}
	switch {
	case f.IsBool() || f.IsCounter():
	case len(values(f.Value)) > 0:
		s += " -x -a " + fishQuote(strings.Join(values(f.Value), " "))
	case isFile(f.Value):
		s += " -r -F"
	default:
		s += " -x"
	}
	return s + " -d " + fishQuote(f.Help)
}

func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
