package warehouse

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/godwit-mta/godwit/pipeline/customer/patch"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Profile is what is known of one person. Its rules are those of the customer level, which answers the API:
// both end with the same from the same facts. Times are Unix milliseconds.
type Profile struct {
	Created, Updated int64
	// IDs are by kind: external id, email, phone number, anonymous id.
	IDs          [fact.ByAnonymous]string
	Attributes   patch.Object // without identifiers
	Properties   patch.Object
	Consents     []Consent     // sorted by channel and list
	Suppressions []Suppression // sorted by reason
	Lists        []Membership  // sorted by list
}

// Consent is what a profile said last about a channel, or about a list in it.
type Consent struct {
	Channel    string `json:"channel"`
	List       string `json:"list,omitempty"`
	Subscribed bool   `json:"subscribed"`
	Historical bool   `json:"historical,omitempty"`
	At         int64  `json:"at"`            // when the profile said so
	Updated    int64  `json:"updated"`       // when it was recorded
	Yes        *int64 `json:"yes,omitempty"` // when it subscribed last, even if something later counts
	Method     string `json:"method,omitempty"`
	Source     string `json:"source,omitempty"`
}

// Suppression is a reason not to send mail.
type Suppression struct {
	Reason string `json:"reason"`
	At     int64  `json:"at"`
}

// Membership is being on a list.
type Membership struct {
	List   string `json:"list"`
	Joined int64  `json:"joined"`
}

const (
	channelEmail = "email"
	unsubscribe  = "UNSUBSCRIBE"
)

// byAddress reports whether a suppression is about the address, not the person.
func byAddress(reason string) bool { return reason == "HARD_BOUNCE" || reason == "INVALID_EMAIL" }

// ID is an identifier.
func (p *Profile) ID(k fact.IdentifierKind) *string { return &p.IDs[k-fact.ByExternal] }

// Know takes identifiers that the profile is known by and has none of that kind. It reports whether there was one.
func (p *Profile) Know(who []fact.Identifier) (changed bool) {
	for _, id := range who {
		if id.Kind == fact.ByProfile || id.Kind > fact.ByAnonymous {
			continue
		}
		if mine := p.ID(id.Kind); *mine == "" && id.Value != "" {
			*mine, changed = id.Value, true
		}
	}
	return changed
}

// Apply applies what a fact says. What of it is no JSON is left out, with an error.
func (p *Profile) Apply(c *fact.Change, now int64) error {
	err := p.setJSON(c)
	for _, m := range c.Lists {
		if m.Join {
			p.join(m.List, now)
		} else if i, there := p.list(m.List); there {
			p.Lists = slices.Delete(p.Lists, i, i+1)
		}
	}
	for _, s := range c.Suppressions {
		p.change(s, now)
	}
	for i := range c.Consent {
		p.say(&c.Consent[i], now)
	}
	return err
}

// setJSON applies the part of a change that is JSON, whole or not at all.
func (p *Profile) setJSON(c *fact.Change) error {
	next := *p
	next.Attributes, next.Properties = slices.Clone(p.Attributes), slices.Clone(p.Properties)
	if err := next.setAttributes(c.Attributes); err != nil {
		return fmt.Errorf("attributes: %w", err)
	}
	if err := next.setProperties(c); err != nil {
		return fmt.Errorf("properties: %w", err)
	}
	*p = next
	return nil
}

func (p *Profile) setAttributes(text []byte) error {
	change, err := patch.Parse(text)
	if err != nil {
		return err
	}
	for kind := fact.ByExternal; kind <= fact.ByAnonymous; kind++ {
		v := change.Get(kind.String())
		if v == nil {
			continue
		}
		change.Remove(kind.String())
		if plain, ok := patch.Plain(v); ok && string(plain) == *p.ID(kind) {
			continue
		}
		var s string // null leaves it empty
		if err := json.Unmarshal(v, &s); err != nil {
			return err
		}
		if kind == fact.ByEmail && s != "" && s != *p.ID(kind) {
			p.Suppressions = slices.DeleteFunc(slices.Clone(p.Suppressions), func(s Suppression) bool { return byAddress(s.Reason) })
		}
		*p.ID(kind) = s
	}
	v := change.Get("location")
	if first := p.Attributes.Get("location") == nil && patch.Settled(v); !first && len(v) > 0 && v[0] == '{' {
		if err := within(&p.Attributes, "location", v); err != nil {
			return err
		}
		change.Remove("location")
	}
	p.Attributes.Set(change)
	return nil
}

// within sets what an object names in a member that is one.
func within(all *patch.Object, name string, change []byte) error {
	inner, err := patch.Load(change)
	if err != nil {
		return err
	}
	var old patch.Object
	if v := all.Get(name); len(v) > 0 && v[0] == '{' {
		if old, err = patch.Load(v); err != nil {
			return err
		}
	}
	old.Set(inner)
	if len(old) == 0 {
		all.Remove(name)
		return nil
	}
	*all, err = all.With(name, old.Append(nil))
	return err
}

func (p *Profile) setProperties(c *fact.Change) error {
	for i, text := range [][]byte{c.Properties, c.Append, c.Unappend} {
		change, err := patch.Parse(text)
		if err != nil {
			return err
		}
		switch i {
		case 0:
			p.Properties.Set(change)
		case 1:
			err = p.Properties.Extend(change)
		case 2:
			err = p.Properties.Reduce(change)
		}
		if err != nil {
			return err
		}
	}
	if len(c.Unset) > 0 {
		return p.Properties.Unset(c.Unset)
	}
	return nil
}

func (p *Profile) list(name string) (int, bool) {
	return slices.BinarySearchFunc(p.Lists, name, func(m Membership, l string) int { return strings.Compare(m.List, l) })
}

func (p *Profile) join(list string, at int64) {
	if i, there := p.list(list); !there {
		p.Lists = slices.Insert(p.Lists, i, Membership{list, at})
	}
}

func (p *Profile) consent(channel, list string) (int, bool) {
	return slices.BinarySearchFunc(p.Consents, 0, func(c Consent, _ int) int {
		return cmp.Or(strings.Compare(c.Channel, channel), strings.Compare(c.List, list))
	})
}

// say records a subscription or its end. Subscribing to a list joins it and subscribes to the channel; unsubscribing
// from a list that the profile is not on is for the whole channel.
func (p *Profile) say(c *fact.Consent, now int64) {
	list := c.List
	if list != "" && c.Subscribed {
		p.join(list, now)
		p.sayOf(c, "", now)
	}
	if _, on := p.list(list); list != "" && !c.Subscribed && !on {
		list = ""
	}
	p.sayOf(c, list, now)
}

// sayOf records it for a channel ("") or a list. What was said later stays; at the same time, the end of a
// subscription. Without a time of its own, what arrives later was said later.
func (p *Profile) sayOf(c *fact.Consent, list string, now int64) {
	i, there := p.consent(c.Channel, list)
	at := now
	if there {
		at = max(now, p.Consents[i].At+1)
	} else {
		p.Consents = slices.Insert(p.Consents, i, Consent{Channel: c.Channel, List: list, At: -1 << 62})
	}
	mine := &p.Consents[i]
	if !c.At.IsZero() {
		at = min(c.At.UnixMilli(), now)
	}
	if c.Subscribed && (mine.Yes == nil || *mine.Yes < at) {
		yes := at
		mine.Yes = &yes
	}
	if at > mine.At || at == mine.At && !c.Subscribed {
		mine.Subscribed, mine.Historical, mine.At, mine.Updated, mine.Method, mine.Source = c.Subscribed, c.Historical, at, now, c.Method, c.Source
		if !c.Subscribed && c.Channel == channelEmail && list == "" {
			p.suppress(unsubscribe, at)
		}
	}
	p.settle()
}

// suppress notes a reason not to send, or a later time of it.
func (p *Profile) suppress(reason string, at int64) {
	i, there := slices.BinarySearchFunc(p.Suppressions, reason, func(s Suppression, r string) int { return strings.Compare(s.Reason, r) })
	if there {
		p.Suppressions[i].At = max(p.Suppressions[i].At, at)
		return
	}
	p.Suppressions = slices.Insert(p.Suppressions, i, Suppression{reason, at})
}

// settle takes away the suppressions that a later subscription to mail ended: not those about the address.
func (p *Profile) settle() {
	i, there := p.consent(channelEmail, "")
	if !there || p.Consents[i].Yes == nil {
		return
	}
	c := p.Consents[i]
	p.Suppressions = slices.DeleteFunc(p.Suppressions, func(s Suppression) bool {
		return !byAddress(s.Reason) && s.At <= *c.Yes && (c.Subscribed || s.Reason != unsubscribe)
	})
}

// change sets or lifts a suppression. One that says the person does not want mail ends the subscription too.
func (p *Profile) change(s fact.Suppression, now int64) {
	if s.Lift {
		p.Suppressions = slices.DeleteFunc(p.Suppressions, func(m Suppression) bool { return m.Reason == s.Reason })
		return
	}
	if s.Reason == unsubscribe || s.Reason == "SPAM_COMPLAINT" {
		p.sayOf(&fact.Consent{Channel: channelEmail, Method: strings.ToLower(s.Reason)}, "", now)
	}
	if i, there := p.consent(channelEmail, ""); there && !byAddress(s.Reason) && p.Consents[i].Yes != nil {
		now = max(now, *p.Consents[i].Yes+1) // what comes later is later
	}
	p.suppress(s.Reason, now)
}

// Merge takes in what a merged profile had. What this one has stays; what it lacks is filled in. Of consent what was
// said later counts; suppressions add up, but those about another address.
func (p *Profile) Merge(from *Profile) {
	email := p.ID(fact.ByEmail)
	sameAddress := *email == "" || *email == *from.ID(fact.ByEmail)
	p.Created, p.Updated = min(p.Created, from.Created), max(p.Updated, from.Updated)
	for i := range p.IDs {
		if p.IDs[i] == "" {
			p.IDs[i] = from.IDs[i]
		}
	}
	p.Attributes.Fill(from.Attributes)
	p.Properties.Fill(from.Properties)
	for _, m := range from.Lists {
		if i, there := p.list(m.List); there {
			p.Lists[i].Joined = min(p.Lists[i].Joined, m.Joined)
		} else {
			p.Lists = slices.Insert(p.Lists, i, m)
		}
	}
	for _, c := range from.Consents {
		p.mergeConsent(c)
	}
	for _, s := range from.Suppressions {
		if sameAddress || !byAddress(s.Reason) {
			p.suppress(s.Reason, s.At)
		}
	}
	p.settle()
}

func (p *Profile) mergeConsent(c Consent) {
	i, there := p.consent(c.Channel, c.List)
	if !there {
		p.Consents = slices.Insert(p.Consents, i, c)
		return
	}
	mine := &p.Consents[i]
	yes := mine.Yes
	if yes == nil || c.Yes != nil && *c.Yes > *yes {
		yes = c.Yes
	}
	if c.At > mine.At || c.At == mine.At && mine.Subscribed && !c.Subscribed {
		*mine = c
	}
	mine.Yes = yes
}
