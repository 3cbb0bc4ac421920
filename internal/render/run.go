package render

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/flosch/pongo2/v6"
)

// run is one rendering: its variables, its output and what it has used up.
type run struct {
	prog *program
	ctx  context.Context

	// vars are the caller's, scopes what tags bound on top of them.
	vars   map[string]any
	scopes []binding
	frames []int // where each open frame starts in scopes
	// converted are variables in the types of value.go, see known.
	converted []binding
	loop      *loop // innermost, nil outside of loops
	escape    bool  // autoescape is on

	deadline      time.Time
	maxOutput     int
	maxIterations int

	iterations int
	work       int // since the clock was last read
	written    int // bytes in all open outputs
	values     int // bytes of values made by filters and tags, ever
	stop       error
	tooMuch    bool // an output was cut at maxOutput
	cycles     map[*cycleNode]int
	changes    map[*changedNode]any // outside of loops
}

type binding struct {
	name  string
	value any
}

// The costs of work, in ticks of roughly a microsecond.
const (
	clockEvery = 128 // read the clock after so much work
	// valueFactor times the output limit is what filters may make in all. Big
	// intermediate values cost memory until the rendering ends.
	valueFactor = 16
)

var errDeadline = errors.New("rendering took longer than the deadline")

// tick counts work and stops the run at its deadline.
func (r *run) tick(n int) error {
	r.work += n + 1
	if r.work < clockEvery {
		return r.stop
	}
	r.work = 0
	return r.checkClock()
}

func (r *run) checkClock() error {
	if r.stop != nil {
		return r.stop
	}
	switch {
	case r.ctx.Err() != nil:
		r.stop = r.ctx.Err()
	case time.Now().After(r.deadline):
		r.stop = errDeadline
	}
	return r.stop
}

// iterate counts one loop iteration.
func (r *run) iterate() error {
	if r.iterations++; r.iterations > r.maxIterations {
		r.stop = fmt.Errorf("more than %d loop iterations", r.maxIterations)
		return r.stop
	}
	if r.tooMuch {
		return r.tooLarge()
	}
	return r.tick(0)
}

// charge counts n bytes of a new value.
func (r *run) charge(n int) error {
	r.values += n
	if r.values > valueFactor*r.maxOutput {
		r.stop = fmt.Errorf("the values made by filters have more than %d bytes", valueFactor*r.maxOutput)
		return r.stop
	}
	return r.tick(n / 256)
}

// made charges the result of a filter and bounds it.
func (r *run) made(v any) error {
	n := 0
	switch v := v.(type) {
	case string:
		n = len(v)
	case safe:
		n = len(v)
	case []any:
		n = 16 * len(v)
	}
	if n > r.maxOutput {
		return r.tooLarge()
	}
	return r.charge(n)
}

func (r *run) tooLarge() error {
	r.stop = fmt.Errorf("the output has more than %d bytes", r.maxOutput)
	return r.stop
}

// over reports whether the run has used up a limit and must end, whatever
// construct would otherwise hide the failure.
func (r *run) over() bool { return r.stop != nil }

// markSafe is Django's mark_safe: everything becomes safe text.
func (r *run) markSafe(v any) (any, error) {
	switch v := v.(type) {
	case safe:
		return v, nil
	case string:
		return safe(v), nil
	}
	s, err := r.str(v)
	return safe(s), err
}

// out collects output. Bytes past the limit are dropped; the run notices at the
// next tag, iteration or at the end. pongo2 ignores write errors, so an error
// could not be told here.
type out struct {
	r *run
	b strings.Builder
}

// WriteString implements pongo2.TemplateWriter.
func (o *out) WriteString(s string) (int, error) {
	r := o.r
	if r.written += len(s); r.written > r.maxOutput {
		r.written -= len(s)
		r.tooMuch = true
		return len(s), nil
	}
	return o.b.WriteString(s)
}

// Write implements pongo2.TemplateWriter.
func (o *out) Write(b []byte) (int, error) { return o.WriteString(string(b)) }

// capture runs body and returns what it wrote instead of writing it.
func (r *run) capture(body *pongo2.NodeWrapper) (string, *Error) {
	o := &out{r: r}
	err := r.body(body, o)
	r.written -= o.b.Len()
	if err != nil {
		return "", err
	}
	if cerr := r.charge(o.b.Len()); cerr != nil {
		return "", position{}.errorf("%s", cerr)
	}
	return o.b.String(), nil
}

// show writes a value as {{ }} does.
func (r *run) show(o *out, v any) error {
	switch v := v.(type) {
	case string:
		if r.escape {
			o.writeEscaped(v)
		} else {
			o.WriteString(v)
		}
		return nil
	case safe:
		o.WriteString(string(v))
		return nil
	case int64:
		o.WriteString(itoa(v))
		return nil
	}
	s, err := r.shown(v)
	if err != nil {
		return err
	}
	if r.escape {
		o.writeEscaped(s)
	} else {
		o.WriteString(s)
	}
	return nil
}

// shownSafe is show into a string.
func (r *run) shownSafe(v any) (any, error) {
	if s, ok := v.(safe); ok {
		return s, nil
	}
	s, err := r.shown(v)
	if err != nil {
		return nil, err
	}
	if r.escape {
		return safe(escape(s)), nil
	}
	return s, nil
}

// push opens a frame for names that end with it; pop closes it.
func (r *run) push() { r.frames = append(r.frames, len(r.scopes)) }

func (r *run) pop() {
	last := len(r.frames) - 1
	clear(r.scopes[r.frames[last]:])
	r.scopes = r.scopes[:r.frames[last]]
	r.frames = r.frames[:last]
}

// bind sets a name in the innermost frame.
func (r *run) bind(name string, v any) {
	start := 0
	if len(r.frames) > 0 {
		start = r.frames[len(r.frames)-1]
	}
	for i := start; i < len(r.scopes); i++ {
		if r.scopes[i].name == name {
			r.scopes[i].value = v
			return
		}
	}
	r.scopes = append(r.scopes, binding{name, v})
}

// rebind sets a name in the innermost frame that has it, or else as bind.
func (r *run) rebind(name string, v any) {
	for i := len(r.scopes) - 1; i >= 0; i-- {
		if r.scopes[i].name == name {
			r.scopes[i].value = v
			return
		}
	}
	r.bind(name, v)
}

// expand is a strings.Builder with the run's limit: for filters whose result can
// be much larger than what went in.
type expand struct {
	r   *run
	b   strings.Builder
	err error
}

func (e *expand) add(parts ...string) bool {
	for _, s := range parts {
		if e.err != nil {
			return false
		}
		if e.b.Len()+len(s) > e.r.maxOutput {
			e.err = e.r.tooLarge()
			return false
		}
		e.b.WriteString(s)
	}
	return e.err == nil
}
