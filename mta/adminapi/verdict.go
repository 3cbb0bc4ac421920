package adminapi

import (
	"fmt"
	"path"
	"strings"
	"time"
)

// cause is something that keeps mail waiting.
type cause struct {
	until   time.Time
	endless bool // it does not end by itself, or nobody knows when
	text    string
}

// later reports whether c outlasts other; of two that are alike the first found counts.
func (c *cause) later(other *cause) bool {
	switch {
	case other == nil:
		return true
	case other.endless || c.endless:
		return c.endless && !other.endless
	}
	return c.until.After(other.until)
}

// worst is what lasts longest: before it ends nothing moves.
func worst(causes []cause) *cause {
	var out *cause
	for i := range causes {
		if causes[i].later(out) {
			out = &causes[i]
		}
	}
	return out
}

// at names where mail goes: the provider if there is one, else the site, else the domain.
func (x *Explanation) at() string {
	return orElse(x.Provider, orElse(x.Site, x.Domain))
}

// causes lists what stops mail to x altogether.
func (x *Explanation) causes(now time.Time) []cause {
	var out []cause
	for _, s := range x.Suspensions {
		if (s.Until.IsZero() || s.Until.After(now)) && x.covered(s.Filter) {
			text := "Suspended by an operator " + strings.Replace(untilText(s.Until, now), "lifted", "resumed", 1)
			out = append(out, cause{s.Until, s.Until.IsZero(), describe(text, s.Reason) + "; godwit queue resume " + s.ID})
		}
	}
	if x.RouteError != "" {
		out = append(out, cause{endless: true, text: describe("The mail exchangers of "+x.Domain+" cannot be found", x.RouteError)})
	}
	if o := x.common(now); o != nil {
		text := fmt.Sprintf("Nothing goes %s: suspended by %s", x.about(o.Scope), o.origin(now))
		if o.Reason != "" {
			text += " (" + o.Reason + ")"
		}
		out = append(out, cause{o.Until, o.Until.IsZero(), text + "; godwit throttles lift " + o.ID})
	} else if c := x.noPath(now); c != nil {
		out = append(out, *c)
	}
	if x.HeldUntil.After(now) {
		text := fmt.Sprintf("Held %s: no host of %s could be reached", untilText(x.HeldUntil, now), orElse(x.Site, x.Domain))
		out = append(out, cause{x.HeldUntil, false, describe(text, x.HeldReason)})
	}
	return out
}

// covered reports whether a suspension is about all that x is about: one of a
// tenant is not, unless x is of that tenant.
func (x *Explanation) covered(f Filter) bool {
	if !f.Message.IsZero() || f.Recipient != "" {
		return false
	}
	for _, p := range [][2]string{{f.Tenant, x.Tenant}, {f.Stream, x.Stream}, {f.Domain, x.Domain}, {f.Site, orElse(x.QueueSite, x.Site)}} {
		if ok, err := path.Match(p[0], p[1]); p[0] != "" && (err != nil || !ok) {
			return false
		}
	}
	return true
}

// about tells whose mail an order without sources stops.
func (x *Explanation) about(s Scope) string {
	text := ""
	switch {
	case s.Stream != "":
		text = "of stream " + s.Stream + " of tenant " + orElse(s.Tenant, x.Tenant) + " "
	case s.Tenant != "":
		text = "of tenant " + s.Tenant + " "
	}
	if s.Provider+s.Site+s.Domain != "" || text == "" {
		text += "to " + x.at() + " "
	}
	if s.Source != "" {
		text += "from source " + s.Source
	}
	return strings.TrimSpace(text)
}

// common is an order that stops every path, the one that lasts longest.
func (x *Explanation) common(now time.Time) *Order {
	var out *Order
	for i := range x.Orders {
		o := &x.Orders[i]
		if !o.Stops() || !o.Until.IsZero() && !o.Until.After(now) {
			continue
		}
		all := len(x.Paths) > 0
		for j := range x.Paths {
			all = all && x.scope(&x.Paths[j]).Within(o.Scope)
		}
		if all && (out == nil || !out.Until.IsZero() && (o.Until.IsZero() || o.Until.After(out.Until))) {
			out = o
		}
	}
	return out
}

// noPath tells that no source can be used, if that is so.
func (x *Explanation) noPath(now time.Time) *cause {
	if len(x.Paths) == 0 {
		return &cause{endless: true, text: fmt.Sprintf("No source: pool %q has none", x.Pool)}
	}
	var first time.Time
	var why []string
	for i := range x.Paths {
		p := &x.Paths[i]
		if p.Usable {
			return nil
		}
		why = append(why, sourceText(p.Source.Name)+" is "+p.Why)
		if !p.Until.IsZero() && (first.IsZero() || p.Until.Before(first)) {
			first = p.Until
		}
	}
	text := fmt.Sprintf("No source of pool %s can be used at %s", orElse(x.Pool, "default"), x.at())
	if !first.IsZero() {
		text += " before " + strings.TrimPrefix(untilText(first, now), "until ")
	}
	return &cause{first, first.IsZero(), text + ": " + strings.Join(why, "; ")}
}

func sourceText(name string) string {
	if name == "" {
		return "the host's own address"
	}
	return name
}

// verdict answers "how does mail to x go?".
func (x *Explanation) verdict(now time.Time) string {
	if c := worst(x.causes(now)); c != nil {
		x.Stopped = true
		return strings.TrimRight(c.text, ".") + "."
	}
	x.Stopped = false
	var names, out, slowed []string
	for i := range x.Paths {
		p := &x.Paths[i]
		if !p.Usable {
			out = append(out, sourceText(p.Source.Name)+" is "+p.Why)
			continue
		}
		if p.Fallback == "" {
			names = append(names, sourceText(p.Source.Name))
		}
		for _, v := range p.Values {
			if v.InForce != "" {
				slowed = append(slowed, fmt.Sprintf("%s of %s is %s by %s", v.Name, sourceText(p.Source.Name), v.InForce, v.By))
			}
		}
	}
	if len(names) == 0 {
		names = []string{"the sources of a fallback pool"}
	}
	text := "Mail goes to " + x.at() + " by " + list(names)
	if x.Pool != "" {
		text += " of pool " + x.Pool
	}
	text += "; nothing stops it"
	if n := len(out) + len(slowed); n > 0 {
		text += ", but " + strings.Join(append(out, slowed...), "; ")
	}
	return text + "."
}

// list joins names: a, b and c.
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// derive fills the verdict of a message and of its path.
func (m *MessageExplanation) derive(now time.Time) {
	if m.Path != nil {
		m.Path.derive(now)
		if m.Path.Stopped && m.Wait != nil && m.Wait.Key == (Scope{}) {
			m.Wait = nil // nobody is asked while nothing can go
		}
	}
	m.Verdict = strings.TrimRight(m.verdict(now), ".") + "."
}

// verdict answers "why has this not left?".
func (m *MessageExplanation) verdict(now time.Time) string {
	if m.Message == nil {
		return m.gone(now)
	}
	if m.Message.State == "delivering" {
		text := "Being delivered now"
		if m.Source != "" {
			text += " by source " + m.Source
		}
		if m.Path != nil {
			text += " to " + m.Path.at()
		}
		return text
	}
	var causes []cause
	if m.Path != nil {
		causes = m.Path.causes(now)
	}
	if due := m.Message.Due; due.After(now) {
		text := fmt.Sprintf("Waiting for its next attempt in about %s (%s)", about(due.Sub(now)), strings.TrimPrefix(untilText(due, now), "until "))
		if m.Message.LastReply != "" {
			text += fmt.Sprintf(", after attempt %d: %s", m.Message.Attempts, m.Message.LastReply)
		}
		causes = append(causes, cause{until: due, text: text})
	}
	if c := worst(causes); c != nil {
		return c.text
	}
	return m.ready(now)
}

// gone tells what became of a message that left the queue.
func (m *MessageExplanation) gone(now time.Time) string {
	if len(m.Events) == 0 {
		return "No longer in the queue; the event log does not tell why"
	}
	e := &m.Events[len(m.Events)-1]
	text := "No longer in the queue: " + e.Kind
	if e.Host != "" {
		text += " to " + e.Host
	}
	if e.Source != "" {
		text += " by source " + e.Source
	}
	text += " at " + e.Time.In(now.Location()).Format("2006-01-02 15:04:05 MST")
	switch {
	case e.Reply != "":
		text += fmt.Sprintf(", reply %s", strings.Join(strings.Fields(fmt.Sprint(nonzero(e.Code), " ", e.Enhanced, " ", e.Reply)), " "))
	case e.Reason != "":
		text += ", " + e.Reason
	}
	return text
}

func nonzero(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// ready tells what a message that is due waits for.
func (m *MessageExplanation) ready(now time.Time) string {
	w := m.Wait
	if w == nil {
		return "Due now: it is taken up as soon as its queue comes to it"
	}
	var text string
	switch w.For {
	case WaitRoute:
		return describe("Waiting for the name servers of its domain", w.Hint)
	case WaitTurn:
		text = "Ready: waits its turn"
		if w.Ahead > 0 {
			text = fmt.Sprintf("Ready: waits its turn behind %d messages", w.Ahead)
		}
	case WaitTenant:
		text = "Waiting for tenant " + orElse(w.Key.Tenant, m.Message.Tenant) + "'s limit" + m.limit(settingMessageRate)
	case WaitConnect:
		text = "Waiting for a connection" + m.holder() + m.limit(m.connecting())
	default:
		text = "Waiting for a message slot" + m.holder() + m.limit(settingMessageRate)
	}
	switch {
	case w.Next.After(now):
		text += ", next in about " + about(w.Next.Sub(now))
	case w.Hint != "":
		text += ": " + w.Hint
	}
	if w.Ahead > 0 && w.For != WaitTurn {
		text += fmt.Sprintf("; %d of its queue before it", w.Ahead)
	}
	return text
}

// connecting is which limit a connection waits for: only the authority's words tell.
func (m *MessageExplanation) connecting() string {
	if strings.HasPrefix(m.Wait.Hint, "connect rate ") {
		return settingConnectRate
	}
	return settingConnections
}

// holder names whose limit it is: " of source s1 at google"; or, where no limit is known, " to google".
func (m *MessageExplanation) holder() string {
	k := m.Wait.Key
	text := " of source " + sourceText(orElse(k.Source, m.Wait.Source))
	switch {
	case k == (Scope{}) && m.Wait.Source == "":
		if m.Path == nil {
			return ""
		}
		return " to " + m.Path.at()
	case k.Source == "" && m.Wait.Source == "" && k.Pool+k.Tenant == "":
		text = " of " + sourceText("")
	case k.Source == "" && k.Pool != "":
		text = " of pool " + k.Pool
	case k.Source == "" && k.Tenant != "":
		text = " of tenant " + k.Tenant
	}
	at := orElse(k.Provider, orElse(k.Site, k.Domain))
	if at == "" && m.Path != nil {
		at = m.Path.at()
	}
	return text + " at " + at
}

// limit tells the limit that the message waits under, and what set it.
func (m *MessageExplanation) limit(name string) string {
	if m.Path == nil {
		return ""
	}
	values := m.Path.Limits
	var throttles []Throttle
	for _, p := range m.Path.Paths {
		if p.Source.Name == m.Wait.Source || p.Source.Name == m.Wait.Key.Source {
			values, throttles = append(values[:len(values):len(values)], p.Values...), p.Throttles
			break
		}
	}
	for _, v := range values {
		if v.Name != name || v.State == ValueOverridden || v.Key != m.Wait.Key && m.Wait.Key != (Scope{}) {
			continue
		}
		text, by := v.Value, "set in "+v.Origin
		if v.now() == "" {
			return ""
		}
		if v.InForce != "" {
			text, by = v.InForce, "by "+v.By
		}
		if name == settingConnections {
			text = inUse(throttles, v.Key) + text + " in use,"
		}
		return " (" + text + " " + by + ")"
	}
	return ""
}

// inUse is "3 of " for a key whose connections are known.
func inUse(list []Throttle, k Scope) string {
	for i := range list {
		if list[i].Key == k {
			return fmt.Sprintf("%d of ", list[i].Connections)
		}
	}
	return "all "
}
