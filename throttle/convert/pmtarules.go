package convert

import (
	"fmt"
	"strings"
	"time"
)

// rulesOf translates smtp-pattern-lists for the queues that use them.
func (p *pmta) rulesOf() {
	done := map[string]bool{}
	for _, q := range p.inOrder(p.domains) {
		p.patterns(q, done)
	}
	for _, s := range p.root.sections {
		if v := p.vmtas[strings.ToLower(s.arg)]; s.tag == "virtual-mta" && v != nil && v.s == s {
			for _, q := range p.inOrder(p.queuesOf(v)) {
				p.patterns(q, done)
			}
		}
	}
}

// patterns adds the rules of the list that a queue uses to its block, once.
func (p *pmta) patterns(q *queue, done map[string]bool) {
	d, ok := q.last("smtp-pattern-list")
	if !ok || d.value == "" {
		return
	}
	name := strings.ToLower(d.value)
	l := p.lists[name]
	if l.s == nil {
		p.notes.add(d.at, "smtp-pattern-list "+d.value, Todo, "there is no such list")
		return
	}
	var target *block
	switch b := p.rollups[q.name]; {
	case q.name == "*":
		target = &p.out.def
	case b != nil:
		target = b
	case p.star != nil && p.uses(p.star, name):
		return // the default has the same rules
	default:
		p.notes.add(d.at, "smtp-pattern-list "+d.value, Unmapped, "rules belong to providers and to the default, not to the domain %s", q.name)
		l.used = true
		p.lists[name] = l
		return
	}
	l.used = true
	p.lists[name] = l
	mark := target.name + "\x00" + name
	if done[mark] {
		return
	}
	done[mark] = true
	for _, line := range l.s.lines {
		p.reply(q, target, line)
	}
}

func (p *pmta) uses(q *queue, list string) bool {
	d, ok := q.last("smtp-pattern-list")
	return ok && strings.EqualFold(d.value, list)
}

// setting is a directive of the queue, or of <domain *>.
func (p *pmta) setting(q *queue, name string) (directive, bool) {
	if d, ok := q.last(name); ok {
		return d, true
	}
	return p.star.last(name)
}

// reply is one line: reply /PATTERN/ ACTIONS.
func (p *pmta) reply(q *queue, to *block, d directive) {
	pattern, actions, ok := cutPattern(d.value)
	whole := "reply " + d.value
	if d.name != "reply" || !ok {
		p.notes.add(d.at, d.name+" "+d.value, Unmapped, "is not reply /expression/ action")
		return
	}
	if err := compiles(pattern); err != nil {
		p.notes.add(d.at, whole, Unmapped, "%v", err)
		return
	}
	base := rule{at: d.at, match: pattern}
	var err error
	if base.matches, base.not, err = samples([]string{pattern}); err != nil {
		base.todo = fmt.Sprintf("%v: write samples that match and that do not", err)
		base.matches, base.not = []string{""}, []string{""}
		p.notes.add(d.at, whole, Todo, "the rule is a comment: %v; write samples and take the # away", err)
	}
	var again time.Duration
	for _, a := range listOf(actions) {
		if t, is := strings.CutPrefix(strings.ToLower(a), "reenable-after="); is {
			again, _ = duration(t)
		}
	}
	for _, a := range listOf(strings.ToLower(actions)) {
		if r, ok := p.action(q, a, base, again, whole); ok {
			r.name = uniqueRule(to, slug(pattern))
			to.rules = append(to.rules, r)
		}
	}
}

// cutPattern splits /PATTERN/ REST; \/ stands for a slash.
func cutPattern(s string) (pattern, rest string, ok bool) {
	if !strings.HasPrefix(s, "/") {
		return "", "", false
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '/':
			return strings.ReplaceAll(strings.ReplaceAll(s[1:i], `\/`, "/"), `\"`, `"`), strings.TrimSpace(s[i+1:]), true
		}
	}
	return "", "", false
}

// action makes the rule of one action.
func (p *pmta) action(q *queue, action string, r rule, again time.Duration, whole string) (rule, bool) {
	at := r.at
	switch {
	case action == "mode=backoff":
		p.backoff(q, &r, whole)
	case action == "disable-source-ip":
		r.action = "suspend"
		if d, ok := p.setting(q, "reenable-source-ip-after"); ok && again == 0 {
			again, _ = duration(d.value)
		}
		if again == 0 {
			again = maxHold
			p.notes.add(at, whole, Changed, "the source comes back after 30 days at the latest, in PowerMTA never")
		}
		r.holds, _ = hold(again)
	case strings.HasPrefix(action, "reenable-after="):
		return r, false
	case action == "defer-queue":
		r.action, again = "suspend", 10*time.Minute
		if d, ok := p.setting(q, "retry-after"); ok {
			first, _, _ := strings.Cut(d.value, ",")
			if t, err := duration(first); err == nil {
				again = t
			}
		}
		r.holds, _ = hold(again)
	case action == "bounce-rcpt":
		r.action = "bounce"
	default:
		why := map[string]string{"bounce-queue": "a rule bounces the message that got the reply, not all that wait", "skip-mx": "the next mail exchanger is tried after a connection that failed only",
			"mode=normal": "an order ends by itself or is lifted by hand"}[action]
		if why == "" {
			why = "the action " + action + " has no counterpart"
		}
		p.notes.add(at, whole, Unmapped, "%s", why)
		return r, false
	}
	return r, true
}

// backoff makes a slow rule of the queue's backoff limits.
func (p *pmta) backoff(q *queue, r *rule, whole string) {
	r.action = "slow"
	if d, ok := p.setting(q, "backoff-max-msg-rate"); ok {
		r.messageRate, _ = pmtaRate(d.value)
	}
	if d, ok := p.setting(q, "backoff-max-connect-rate"); ok {
		r.connectRate, _ = pmtaRate(d.value)
	}
	if d, ok := p.setting(q, "backoff-max-smtp-out"); ok {
		r.connections, _ = boundless(connections)(d.value)
	}
	if r.messageRate+r.connectRate == "" && r.connections == 0 {
		r.action = "one_connection"
		p.notes.add(r.at, whole, Changed, "no backoff-max-msg-rate says how slow: it is one connection")
	}
	r.holds = "1h"
	d, ok := p.setting(q, "backoff-to-normal-after")
	t, err := duration(d.value)
	if ok && err == nil {
		r.holds, _ = hold(t)
		return
	}
	p.notes.add(r.at, whole, Changed, "it holds for an hour; in PowerMTA until a delivery, or for good")
}
