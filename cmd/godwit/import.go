package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/throttle/convert"
	"github.com/godwit-mta/godwit/throttle/rules"
)

type importCmd struct {
	KumoMTAShaping importKumoCmd     `cmd:"" name:"kumomta-shaping" help:"Translate a KumoMTA shaping file (TOML) into a rule file."`
	Events         importEventsCmd   `cmd:"" help:"Send events of a CSV or NDJSON file to the pipeline."`
	Profiles       importProfilesCmd `cmd:"" help:"Send profiles of a CSV or NDJSON file to the pipeline."`
	PMTA           importPMTACmd     `cmd:"" name:"pmta" help:"Translate a PowerMTA configuration into a rule file, sources and pools."`
}

// importFlags say where a translation goes.
type importFlags struct {
	File    string `arg:"" type:"existingfile" help:"File to translate."`
	Rules   string `short:"o" type:"path" placeholder:"FILE" help:"Write the rule file here."`
	Resolve bool   `help:"Look up mail exchangers, so that what was rolled up becomes a provider."`
	JSON    bool   `name:"json" help:"Print one JSON object: rules, egress and notes."`
}

// imported is the JSON form of a translation.
type imported struct {
	Rules  string         `json:"rules"`
	Egress string         `json:"egress"`
	Notes  []convert.Note `json:"notes"`
}

func (f *importFlags) options(e *env) convert.Options {
	o := convert.Options{File: f.File, Today: time.Now().UTC()}
	if f.Resolve {
		o.LookupMX = func(domain string) ([]string, error) { return lookupMX(e.ctx, domain) }
	}
	return o
}

// lookupMX asks the system's resolver.
func lookupMX(ctx context.Context, domain string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := net.DefaultResolver.LookupMX(ctx, domain)
	if err != nil && len(list) == 0 {
		return nil, err
	}
	var out []string
	for _, mx := range list {
		if host := strings.ToLower(strings.TrimSuffix(mx.Host, ".")); host != "" {
			out = append(out, host)
		}
	}
	slices.Sort(out)
	return out, nil
}

// write puts out a translation: texts on standard output, notes on standard error.
func (f *importFlags) write(e *env, r *convert.Result) error {
	if r.Rules != "" {
		if err := checkRules(r.Rules); err != nil {
			r.Notes = append(r.Notes, convert.Note{File: f.File, Directive: "rules", Kind: convert.Todo, Reason: err.Error()})
		}
	}
	if f.JSON {
		return show.JSON(e.out, imported{r.Rules, r.Egress, append([]convert.Note{}, r.Notes...)})
	}
	rest := r.Egress
	if f.Rules != "" {
		if err := os.WriteFile(f.Rules, []byte(r.Rules), 0o644); err != nil {
			return err
		}
	} else {
		rest = r.Rules
		if r.Rules != "" && r.Egress != "" {
			rest += "\n# ---- configuration file: cut here, the rules above are a file of their own ----\n\n"
		}
		rest += r.Egress
	}
	if _, err := fmt.Fprint(e.out, rest); err != nil {
		return err
	}
	showNotes(show.New(e.errOut), r.Notes)
	return nil
}

// checkRules loads a translation beside the shipped packs, as a server would.
func checkRules(text string) error {
	texts, err := rules.Read([]string{rules.AllPacks}, nil)
	if err != nil {
		return err
	}
	_, err = rules.Parse(append(texts, rules.Text{Name: "translated rules", Data: []byte(text)})...)
	return err
}

// showNotes prints what does not map, and how much.
func showNotes(p *show.Page, notes []convert.Note) {
	t := &show.Table{Empty: "everything was translated", Columns: []show.Column{{Name: "where"}, {Name: "what", Grow: true}, {Name: "kind"}, {Name: "why", Grow: true}}}
	counts := map[convert.Kind]int{}
	for _, n := range notes {
		at := filepath.Base(n.File)
		if n.Line > 0 {
			at += fmt.Sprintf(":%d", n.Line)
		}
		t.Add(at, n.Directive, string(n.Kind), n.Reason)
		counts[n.Kind]++
	}
	p.Table(t)
	if len(notes) > 0 {
		p.Printf("%d left out, %d changed in meaning, %d to look at\n", counts[convert.Unmapped], counts[convert.Changed], counts[convert.Todo])
	}
}

type importKumoCmd struct{ importFlags }

// Help teaches by example.
func (importKumoCmd) Help() string {
	return `The rules go to standard output, what does not map to standard error with its line.
Each automation rule gets sample replies made from its expression: put real ones
in their place. godwit config check checks the result.

Examples:
  godwit import kumomta-shaping shaping.toml > rules.toml
  godwit import kumomta-shaping shaping.toml --resolve -o rules.toml
  godwit import kumomta-shaping shaping.toml --json | jq '.notes[]|select(.kind=="unmapped")'`
}

// Run translates a KumoMTA shaping file.
func (c *importKumoCmd) Run(e *env) error {
	data, err := os.ReadFile(c.File)
	if err != nil {
		return usageError{err}
	}
	r, err := convert.KumoShaping(data, c.options(e))
	if err != nil {
		return usageError{err}
	}
	return c.write(e, r)
}

type importPMTACmd struct{ importFlags }

// Help teaches by example.
func (importPMTACmd) Help() string {
	return `The rules and the [egress] section go to standard output, what does not map to
standard error with its line. Included files are read too. A virtual MTA becomes a source for
each address and a pool of the same name.

Examples:
  godwit import pmta /etc/pmta/config
  godwit import pmta /etc/pmta/config --resolve -o rules.toml > egress.toml`
}

// maxInclude bounds included files in bytes.
const maxInclude = 16 << 20

// Run translates a PowerMTA configuration.
func (c *importPMTACmd) Run(e *env) error {
	data, err := os.ReadFile(c.File)
	if err != nil {
		return usageError{err}
	}
	o := c.options(e)
	o.Include = func(pattern string) ([]convert.Input, error) { return includes(filepath.Dir(c.File), pattern) }
	return c.write(e, convert.PowerMTA(data, o))
}

// includes reads the files of a pattern. One that is not where the
// configuration says is looked for beside the file that is translated: it may be a copy from elsewhere.
func includes(dir, pattern string) (out []convert.Input, err error) {
	tries := []string{pattern, filepath.Join(dir, filepath.Base(pattern))}
	if !filepath.IsAbs(pattern) {
		tries[0] = filepath.Join(dir, pattern)
	}
	for _, try := range tries {
		files, err := filepath.Glob(try)
		if err != nil {
			return nil, err
		}
		for _, name := range files {
			info, err := os.Stat(name)
			if err != nil {
				return nil, err
			}
			if !info.Mode().IsRegular() || info.Size() > maxInclude {
				return nil, fmt.Errorf("%s is not a file of a reasonable size", name)
			}
			data, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			out = append(out, convert.Input{Name: name, Data: data})
		}
		if len(out) > 0 {
			return out, nil
		}
	}
	return nil, errors.New("there is no such file")
}
