package convert

import (
	"fmt"
	"strings"
)

// automation translates one automation block; it may become several rules.
func (k *kumo) automation(b *block, t *table) {
	at := k.at(t.line)
	var patterns []string
	for _, v := range t.vals["regex"].list() {
		s, ok := v.text()
		if !ok {
			continue
		}
		if strings.Contains(s, "KumoMTA internal:") {
			k.notes.add(k.at(v.line), "regex "+s, Unmapped, "it is about KumoMTA's own messages")
			continue
		}
		if err := compiles(s); err != nil {
			k.notes.add(k.at(v.line), "regex "+s, Unmapped, "%v", err)
			continue
		}
		patterns = append(patterns, s)
	}
	if len(patterns) == 0 {
		if t.vals["regex"].v == nil {
			k.notes.add(at, "automation", Unmapped, "has no regex")
		}
		return
	}
	k.known(t)
	base := rule{at: at, match: expression(patterns), perSite: true}
	if err := compiles(base.match); err != nil {
		k.notes.add(at, "regex "+base.match, Unmapped, "%v", err)
		return
	}
	if !k.trigger(t, &base) || !k.holds(t, &base) {
		return
	}
	var err error
	if base.matches, base.not, err = samples(patterns); err != nil {
		base.todo = fmt.Sprintf("%v: write samples that match and that do not", err)
		base.matches, base.not = []string{""}, []string{""}
		k.notes.add(at, "regex "+base.match, Todo, "the rule is a comment: %v; write samples and take the # away", err)
	}
	k.actions(b, t, base, slug(patterns[0]))
}

// known lists the keys of an automation block that mean nothing here.
func (k *kumo) known(t *table) {
	for _, key := range t.keys {
		switch key {
		case "regex", "action", "trigger", "duration":
		case "match_internal":
			k.notes.add(k.at(t.vals[key].line), "match_internal", Unmapped, "it is about KumoMTA's own messages")
		default:
			k.notes.add(k.at(t.vals[key].line), "automation."+key, Unmapped, "has no counterpart in rule files")
		}
	}
}

// trigger reads Immediate or {Threshold="5/hr"}.
func (k *kumo) trigger(t *table, r *rule) bool {
	v, ok := t.vals["trigger"]
	if !ok {
		return true
	}
	if s, _ := v.text(); s == "Immediate" {
		return true
	}
	fail := func(why string) bool {
		k.notes.add(k.at(v.line), "trigger", Unmapped, "the rule is left out: %s", why)
		return false
	}
	tt := v.table()
	if tt == nil || len(tt.keys) != 1 || tt.keys[0] != "Threshold" {
		return fail("it is neither Immediate nor Threshold")
	}
	s, _ := tt.vals["Threshold"].text()
	s = strings.TrimPrefix(k.burst(k.at(v.line), "trigger", s), "local:")
	count, per, _ := strings.Cut(s, "/")
	n, err := whole(count)
	d, known := splitPeriod(per)
	switch {
	case err != nil || !known || n < 1:
		return fail(fmt.Sprintf("%q is not a threshold", s))
	case n > 1000:
		return fail("a threshold is 1000 at most")
	}
	r.threshold = n
	window, changed := hold(d)
	r.window = window
	if d > maxWindow {
		r.window, changed = "7d", true
	}
	if changed {
		k.notes.add(k.at(v.line), "trigger", Changed, "its time is %s", r.window)
	}
	return true
}

func (k *kumo) holds(t *table, r *rule) bool {
	v, ok := t.vals["duration"]
	s, _ := v.text()
	d, err := duration(s)
	if !ok || err != nil {
		at := v.line
		if !ok {
			at = t.line
		}
		k.notes.add(k.at(at), "duration", Unmapped, "the rule is left out: it has no duration that can be read")
		return false
	}
	holds, changed := hold(d)
	if r.holds = holds; changed {
		k.notes.add(k.at(v.line), "duration", Changed, "is %s, the most that a rule holds", holds)
	}
	return true
}

// actions makes the rules: those that set values are one, each other is one.
func (k *kumo) actions(b *block, t *table, base rule, name string) {
	slow := base
	slow.action = "slow"
	var list []rule
	for _, v := range t.vals["action"].list() {
		kind, _ := v.text()
		var args *table
		if at := v.table(); at != nil && len(at.keys) == 1 {
			kind, args = at.keys[0], at.vals[at.keys[0]].table()
		}
		simple := map[string]string{"Suspend": "suspend", "SuspendTenant": "suspend_tenant", "SuspendCampaign": "suspend_stream", "Bounce": "bounce"}[kind]
		switch {
		case simple != "":
			r := base
			if r.action = simple; simple == "bounce" {
				r.holds = ""
				k.notes.add(k.at(v.line), "action Bounce", Changed, "bounces the message that got the reply, not all that wait for the site")
			}
			list = append(list, r)
		case (kind == "SetConfig" || kind == "SetDomainConfig") && args != nil:
			if kind == "SetDomainConfig" {
				k.notes.add(k.at(v.line), "action SetDomainConfig", Changed, "holds for the site, not for the one domain")
			}
			k.setConfig(&slow, v, args)
		default:
			k.notes.add(k.at(v.line), "action "+kind, Unmapped, "has no counterpart")
		}
	}
	if slow.connections+slow.perConn > 0 || slow.messageRate+slow.connectRate != "" {
		if slow.connections == 1 && slow.perConn == 0 && slow.messageRate+slow.connectRate == "" {
			slow.action, slow.connections = "one_connection", 0
		}
		list = append(list, slow)
	}
	for _, r := range list {
		r.name = uniqueRule(b, name)
		b.rules = append(b.rules, r)
	}
}

// uniqueRule is a name that no rule of the block has.
func uniqueRule(b *block, name string) string {
	taken := names{}
	for i := range b.rules {
		taken[b.rules[i].name] = true
	}
	return taken.unique(name)
}

// setConfig reads {name=…, value=…}.
func (k *kumo) setConfig(r *rule, v value, args *table) {
	name, _ := args.vals["name"].text()
	raw, _ := args.vals["value"].text()
	at, directive := k.at(v.line), "SetConfig "+name
	var err error
	var n int64
	switch name {
	case "connection_limit":
		n, err = connections(strings.TrimPrefix(raw, "local:"))
		r.connections = n
	case "max_deliveries_per_connection":
		n, err = whole(raw)
		r.perConn = n
	case "max_message_rate":
		r.messageRate, err = rate(k.burst(at, directive, strings.TrimPrefix(raw, "local:")))
		n = 1
	case "max_connection_rate":
		r.connectRate, err = rate(k.burst(at, directive, strings.TrimPrefix(raw, "local:")))
		n = 1
	default:
		k.notes.add(at, directive, Unmapped, "a rule lowers connections, rates and messages per connection only")
		return
	}
	if err == nil && n == 0 {
		err = fmt.Errorf("%s: a rule only lowers; to stop use Suspend", raw)
	}
	if err != nil {
		k.notes.add(at, directive, Unmapped, "%v", err)
	}
}
