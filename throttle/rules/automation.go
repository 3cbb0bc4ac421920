package rules

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// Bounds of automation rules.
const (
	maxPattern   = 1000 // bytes
	maxSample    = 2000 // bytes
	maxThreshold = 1000
	maxWindow    = 7 * 24 * time.Hour
	maxFor       = 30 * 24 * time.Hour
)

// drafts are the automation rules of one block, over all files.
type drafts struct {
	list []*ruleDraft
}

// ruleDraft is a rule that later files may override value by value.
type ruleDraft struct {
	ruleText
	provider string
	last     *source // that touched it last
	path     string
	from     map[string]spot // where each key was set
}

// spot is a path in a source.
type spot struct {
	s    *source
	path string
}

// take adds the rules of one block of one file.
func (d *drafts) take(s *source, block, provider string, list []ruleText, bad *problems) {
	seen := map[string]string{}
	for i := range list {
		t, path := &list[i], element(block+".rule", i)
		if message := badName(t.Name); message != "" {
			bad.add(s.fail(join(path, "name"), message))
			continue
		}
		if first, twice := seen[t.Name]; twice {
			bad.add(s.fail(join(path, "name"), fmt.Sprintf("the rule is in this block twice, first in line %d", s.where.find(first).line)))
			continue
		}
		seen[t.Name] = path
		j := slices.IndexFunc(d.list, func(r *ruleDraft) bool { return r.Name == t.Name })
		if j < 0 {
			j = len(d.list)
			d.list = append(d.list, &ruleDraft{provider: provider, from: map[string]spot{}})
			d.list[j].Name = t.Name
		}
		d.list[j].override(s, path, t)
	}
}

// override takes what a later text of the rule gives.
func (r *ruleDraft) override(s *source, path string, t *ruleText) {
	r.last, r.path = s, path
	set := func(key string, given bool) bool {
		if given {
			r.from[key] = spot{s, join(path, key)}
		}
		return given
	}
	take(&r.Off, t.Off, set("off", t.Off != nil))
	take(&r.Match, t.Match, set("match", t.Match != nil))
	take(&r.Scope, t.Scope, set("scope", t.Scope != nil))
	take(&r.Threshold, t.Threshold, set("threshold", t.Threshold != nil))
	take(&r.Window, t.Window, set("window", t.Window != nil))
	take(&r.For, t.For, set("for", t.For != nil))
	take(&r.Matches, t.Matches, set("matches", t.Matches != nil))
	take(&r.Not, t.Not, set("not", t.Not != nil))
	if set("action", t.Action != nil) { // what another action was to lower to means nothing to this one
		r.Action = t.Action
		r.Connections, r.ConnectRate, r.MessageRate, r.MessagesPerConnection = nil, nil, nil, nil
		if *t.Action == string(Bounce) {
			r.For = t.For
		}
	}
	take(&r.Connections, t.Connections, set("connections", t.Connections != nil))
	take(&r.ConnectRate, t.ConnectRate, set("connect_rate", t.ConnectRate != nil))
	take(&r.MessageRate, t.MessageRate, set("message_rate", t.MessageRate != nil))
	take(&r.MessagesPerConnection, t.MessagesPerConnection, set("messages_per_connection", t.MessagesPerConnection != nil))
}

func take[T any](to *T, v T, given bool) {
	if given {
		*to = v
	}
}

// fail is the error for a key of the rule, at the place that set it.
func (r *ruleDraft) fail(key, message string) *Error {
	if at, ok := r.from[key]; ok {
		return at.s.fail(at.path, message)
	}
	e := r.last.fail(r.path, message)
	e.Key = key
	return e
}

// sampleError is the error for one sample.
func (r *ruleDraft) sampleError(key string, i int, message string) *Error {
	at := r.from[key]
	e := at.s.fail(element(at.path, i), message)
	return e
}

// finish checks the rules and compiles them. Those that are off are left out.
func (d *drafts) finish(bad *problems) []*automation {
	var list []*automation
	for _, r := range d.list {
		if r.Off != nil && *r.Off {
			continue
		}
		if a := r.compile(bad); a != nil {
			list = append(list, a)
		}
	}
	return list
}

// automation is a rule ready to match.
type automation struct {
	Rule
	re *regexp.Regexp
	// any holds texts in lower case one of which occurs in every ASCII reply
	// that matches; none means that the expression must be tried.
	any [][]byte
}

// compile makes the rule; nil after a mistake.
func (r *ruleDraft) compile(bad *problems) *automation {
	before := len(*bad)
	a := &automation{Rule: Rule{Provider: r.provider, Name: r.Name, Origin: r.last.origin(r.path)}}
	r.pattern(a, bad)
	r.action(a, bad)
	r.trigger(a, bad)
	if a.re != nil {
		r.samples(a, bad)
	}
	if len(*bad) > before {
		return nil
	}
	return a
}

func (r *ruleDraft) pattern(a *automation, bad *problems) {
	if r.Match == nil || *r.Match == "" {
		bad.add(r.fail("match", "must be given: a regular expression for the reply"))
		return
	}
	if len(*r.Match) > maxPattern {
		bad.add(r.fail("match", fmt.Sprintf("must not be longer than %d bytes", maxPattern)))
		return
	}
	re, err := regexp.Compile("(?i)" + *r.Match)
	if err != nil {
		bad.add(r.fail("match", err.Error()))
		return
	}
	if re.MatchString("") {
		bad.add(r.fail("match", "matches every reply"))
		return
	}
	a.Match, a.re, a.any = *r.Match, re, literals(*r.Match)
}

func (r *ruleDraft) action(a *automation, bad *problems) {
	if r.Action == nil {
		bad.add(r.fail("action", "must be given: suspend, slow, one_connection, suspend_tenant, suspend_stream or bounce"))
		return
	}
	a.Action = Action(*r.Action)
	if !slices.Contains(actions[:], a.Action) {
		e := r.fail("action", fmt.Sprintf("%q is none of suspend, slow, one_connection, suspend_tenant, suspend_stream, bounce", *r.Action))
		bad.add(e)
		return
	}
	var values settings
	rd := reader{s: r.last, path: r.path, bad: bad}
	rd.number(connections, r.Connections, maxConnections)
	rd.rate(connectRate, r.ConnectRate)
	rd.rate(messageRate, r.MessageRate)
	rd.number(perConnection, r.MessagesPerConnection, maxCount)
	values = rd.out
	switch a.Action {
	case Slow:
		r.slow(a, &values, bad)
	case OneConnection:
		a.Limits.Connections = 1
		fallthrough
	default:
		for n, v := range values {
			if v != nil {
				bad.add(r.fail(names[n], "goes with the action slow only"))
			}
		}
	}
}

func (r *ruleDraft) slow(a *automation, values *settings, bad *problems) {
	if values.empty() {
		bad.add(r.fail("action", "slow needs one of connections, connect_rate, message_rate, messages_per_connection"))
	}
	for n, v := range values {
		switch {
		case v == nil:
		case v.none():
			bad.add(r.fail(names[n], "must be a limit: slow only lowers"))
		case name(n) == connections:
			a.Limits.Connections = int(v.count)
		case name(n) == connectRate:
			a.Limits.ConnectRate = v.rate
		case name(n) == messageRate:
			a.Limits.MessageRate = v.rate
		case name(n) == perConnection:
			a.MessagesPerConnection = int(v.count)
		}
	}
}

func (r *ruleDraft) trigger(a *automation, bad *problems) {
	a.Threshold, a.Window = 1, time.Hour
	if r.Threshold != nil {
		if *r.Threshold < 1 || *r.Threshold > maxThreshold {
			bad.add(r.fail("threshold", fmt.Sprintf("must be 1 to %d", maxThreshold)))
			return
		}
		a.Threshold = int(*r.Threshold)
	}
	if r.Window != nil {
		a.Window = r.duration("window", *r.Window, maxWindow, bad)
	}
	switch {
	case a.Action == Bounce:
		if r.For != nil {
			bad.add(r.fail("for", "a bounce is about the reply itself: it has no duration"))
		}
	case r.For == nil:
		bad.add(r.fail("for", "must be given: how long the action holds, such as 30m"))
	default:
		a.For = r.duration("for", *r.For, maxFor, bad)
	}
	switch {
	case r.Scope == nil || *r.Scope == "provider":
	case *r.Scope == "site":
		a.PerSite = true
	default:
		bad.add(r.fail("scope", fmt.Sprintf("%q is none of provider, site", *r.Scope)))
	}
}

func (r *ruleDraft) duration(key string, d units.Duration, limit time.Duration, bad *problems) time.Duration {
	if d.D() < time.Second || d.D() > limit {
		bad.add(r.fail(key, fmt.Sprintf("must be 1s to %s", units.Duration(limit))))
	}
	return d.D()
}

// samples holds the rule against the replies that it must and must not match.
func (r *ruleDraft) samples(a *automation, bad *problems) {
	if len(r.Matches) == 0 {
		bad.add(r.fail("matches", "must hold a reply that the rule matches, such as \"421 4.7.0 try later\""))
	}
	if len(r.Not) == 0 {
		bad.add(r.fail("not", "must hold a reply that the rule does not match, such as \"550 5.1.1 no such user\""))
	}
	for i, reply := range r.Matches {
		if len(reply) > maxSample {
			bad.add(r.sampleError("matches", i, fmt.Sprintf("must not be longer than %d bytes", maxSample)))
		} else if !a.claims(newReply(reply)) {
			bad.add(r.sampleError("matches", i, fmt.Sprintf("the rule does not match its own sample %q", reply)))
		}
	}
	for i, reply := range r.Not {
		if len(reply) > maxSample {
			bad.add(r.sampleError("not", i, fmt.Sprintf("must not be longer than %d bytes", maxSample)))
		} else if a.claims(newReply(reply)) {
			bad.add(r.sampleError("not", i, fmt.Sprintf("the rule matches %q, which it must not", reply)))
		}
	}
}
