// Package render turns Django templates and a recipient's variables into text.
//
// The templates are the users' existing ones, so the language is Django's, held
// to it by a corpus made with the real thing (testdata/corpus.json). They are
// also untrusted: whoever may inject a message may write one. Rendering must
// therefore end soon, in bounded memory, touch nothing but its variables, and
// never take the process down.
//
// How a template is rendered:
//
//  1. scan.go cuts the source into text, variables and tags as Django's lexer
//     does, keeping line and column.
//  2. compile.go parses every tag and expression into items (expr.go,
//     condition.go, tag_*.go), checks nesting and bans, and writes a skeleton:
//     the plain text with every tag replaced by the number of its item.
//  3. pongo.go gives the skeleton to pongo2, which builds the node tree and
//     walks it. pongo2 never sees a byte of tag syntax that a user wrote, so
//     none of its tags, filters, method calls or file access can be reached.
//  4. A run (run.go) holds the variables, the output and the meters that stop
//     it: deadline, loop iterations, bytes of output, bytes of values made.
//
// docs/templates.md tells users what they can write;
// docs/adr/0004-templates.md tells why it is built this way.
package render

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/prometheus/client_golang/prometheus"
)

// Options are the limits of an Engine. They hold for each Render by itself.
type Options struct {
	MaxSource     units.Size     `toml:"max_source" doc:"Largest template in bytes; a larger one is refused before it is parsed."`
	MaxNesting    int            `toml:"max_nesting" doc:"Deepest nesting of blocks, longest filter chain and most operators in one condition."`
	MaxOutput     units.Size     `toml:"max_output" doc:"Largest rendered text in bytes."`
	Deadline      units.Duration `toml:"deadline" doc:"Longest time one rendering may take."`
	MaxIterations int            `toml:"max_iterations" doc:"Most loop iterations in one rendering, nested loops counted together."`
	CacheBytes    units.Size     `toml:"cache_bytes" doc:"Memory for compiled templates, shared by all tenants; the least recently used are dropped."`
}

// DefaultOptions returns the limits meant for production.
func DefaultOptions() Options {
	return Options{
		MaxSource:     512 << 10,
		MaxNesting:    100,
		MaxOutput:     4 << 20,
		Deadline:      units.Duration(250 * time.Millisecond),
		MaxIterations: 100_000,
		CacheBytes:    64 << 20,
	}
}

// maxNesting is the deepest nesting that may be configured: the depth at which
// pongo2's recursive parser and executor were tested, far from a full stack.
const maxNesting = 1000

// Validate reports the first option that cannot be used.
func (o Options) Validate() error {
	switch {
	case o.MaxSource <= 0 || o.MaxSource > 16<<20:
		return errors.New("max_source: must be between 1 and 16MiB")
	case o.MaxNesting <= 0 || o.MaxNesting > maxNesting:
		return fmt.Errorf("max_nesting: must be between 1 and %d", maxNesting)
	case o.MaxOutput <= 0 || o.MaxOutput > 256<<20:
		return errors.New("max_output: must be between 1 and 256MiB")
	case o.Deadline <= 0:
		return errors.New("deadline: must be positive")
	case o.MaxIterations <= 0:
		return errors.New("max_iterations: must be positive")
	case o.CacheBytes < 0:
		return errors.New("cache_bytes: must not be negative")
	}
	return nil
}

// Deps are what an Engine uses besides its options; each may be nil.
type Deps struct {
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Engine compiles and renders templates. It is safe for concurrent use.
type Engine struct {
	opts    Options
	log     *slog.Logger
	cache   *cache
	metrics *metrics
}

// New returns an engine. The error names an option that is out of range or a
// metric that is registered already.
func New(opts Options, deps Deps) (*Engine, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if err := registerTags(); err != nil {
		return nil, fmt.Errorf("register template tags: %w", err)
	}
	m, err := newMetrics(deps.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	log := deps.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Engine{opts: opts, log: log, cache: newCache(int64(opts.CacheBytes)), metrics: m}, nil
}

// Check reports what is wrong with a template that can be known without its
// variables: syntax, tags that are not allowed, limits on source and nesting.
// The error is an *Error. html says where the template will be used, as in Render.
func (e *Engine) Check(src string, html bool) error {
	if _, err := e.program(src, html); err != nil {
		return err
	}
	return nil
}

// Render renders a template with variables. html turns escaping of variables
// on, as for the HTML part of a message; text parts and header values are
// rendered without.
//
// Variables are what a JSON decoder makes (nil, bool, numbers, string, []any,
// map[string]any, json.Number) and time.Time; anything else is refused. They
// are not changed, and nothing of them is kept.
//
// Render ends at the engine's deadline or when ctx is done, whichever is first.
// The error is an *Error with the place in the template, or wraps ctx.Err().
func (e *Engine) Render(ctx context.Context, src string, vars map[string]any, html bool) (string, error) {
	p, err := e.program(src, html)
	if err != nil {
		e.metrics.failed.Inc()
		return "", err
	}
	if cerr := ctx.Err(); cerr != nil {
		return "", fmt.Errorf("render: %w", cerr)
	}
	start := time.Now()
	text, rerr := p.render(ctx, &e.opts, vars, start)
	e.metrics.seconds.Observe(time.Since(start).Seconds())
	if rerr == nil {
		return text, nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return "", fmt.Errorf("render: %w", cerr)
	}
	e.metrics.failed.Inc()
	if rerr.internal != "" {
		e.log.Error("template renderer failed", "cause", rerr.internal)
	}
	return "", rerr
}

// program returns the compiled template, from the cache when it is there.
func (e *Engine) program(src string, html bool) (*program, error) {
	if len(src) > int(e.opts.MaxSource) {
		return nil, &Error{Line: 1, Column: 1, Message: fmt.Sprintf("the template has %d bytes, more than the %d allowed", len(src), int64(e.opts.MaxSource))}
	}
	return e.cache.get(src, html, func() (*program, error) {
		e.metrics.compiled.Inc()
		p, err := compile(src, html, e.opts.MaxNesting)
		if err != nil {
			if err.internal != "" {
				e.log.Error("template compiler failed", "cause", err.internal)
			}
			return nil, err
		}
		return p, nil
	})
}
