package customer

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Reasons of suppressions. They are about mail.
const (
	HardBounce     = "HARD_BOUNCE"
	InvalidEmail   = "INVALID_EMAIL"
	SpamComplaint  = "SPAM_COMPLAINT"
	Unsubscribe    = "UNSUBSCRIBE"
	UserSuppressed = "USER_SUPPRESSED"
)

// Email is the channel that suppressions belong to.
const Email = "email"

// consent is what a profile said last about a channel, or about a list in it.
type consent struct {
	channel, list  string
	subscribed     bool
	historical     bool
	at             int64 // when the profile said so, milliseconds
	updated        int64 // when it was recorded
	yes            int64 // when it subscribed last, even if something later counts; never if it did not
	method, source string
}

// consentSize is the least size of one.
const consentSize = 8

func (c *consent) append(b []byte) []byte {
	b = append(b, flag(c.subscribed)|flag(c.historical)<<1|flag(c.yes != never)<<2)
	b = appendString(appendString(b, c.channel), c.list)
	b = binary.AppendVarint(binary.AppendVarint(b, c.at), c.updated)
	yes := c.yes
	if yes == never {
		yes = 0
	}
	b = binary.AppendVarint(b, yes)
	return appendString(appendString(b, c.method), c.source)
}

func parseConsent(r *decoder) consent {
	f := r.byte()
	c := consent{subscribed: f&1 != 0, historical: f&2 != 0, channel: r.string(), list: r.string(),
		at: r.varint(), updated: r.varint(), yes: r.varint(), method: r.string(), source: r.string()}
	if f&4 == 0 {
		c.yes = never
	}
	return c
}

type suppression struct {
	reason string
	at     int64
}

// byAddress reports whether a suppression is about the address, not the person.
func byAddress(reason string) bool { return reason == HardBounce || reason == InvalidEmail }

// findConsent returns where the consent of a channel and list is, or belongs.
func (d *document) findConsent(channel, list string) (int, bool) {
	return slices.BinarySearchFunc(d.consents, 0, func(c consent, _ int) int {
		return cmp.Or(strings.Compare(c.channel, channel), strings.Compare(c.list, list))
	})
}

// say records a subscription or its end. Without a list it is for the whole channel. Subscribing to a list
// joins it and subscribes to the channel; unsubscribing from a list that the profile is not on is for the whole channel.
func (d *document) say(c *fact.Consent, now int64) {
	list := c.List
	if list != "" && c.Subscribed {
		d.join(list, now)
		d.sayOf(c, "", now)
	}
	if list != "" && !c.Subscribed && !d.onList(list) {
		list = ""
	}
	d.sayOf(c, list, now)
}

// sayOf records it for a channel ("") or a list. What was said later stays; at the same time, the end of a subscription. Without a time
// of its own, what arrives later was said later, whatever the clocks of those who took it.
func (d *document) sayOf(c *fact.Consent, list string, now int64) {
	i, there := d.findConsent(c.Channel, list)
	if !there {
		d.consents = slices.Insert(d.consents, i, consent{channel: c.Channel, list: list, at: never, yes: never})
	}
	mine := &d.consents[i]
	at := max(now, mine.at+1)
	if !c.At.IsZero() {
		at = min(c.At.UnixMilli(), now)
	}
	if c.Subscribed {
		mine.yes = max(mine.yes, at)
	}
	if at > mine.at || at == mine.at && !c.Subscribed {
		mine.subscribed, mine.historical, mine.at, mine.updated, mine.method, mine.source = c.Subscribed, c.Historical, at, now, c.Method, c.Source
		if !c.Subscribed && c.Channel == Email && list == "" {
			d.suppress(Unsubscribe, at)
		}
	}
	d.settle()
}

// suppress notes a reason not to send, or a later time of it.
func (d *document) suppress(reason string, at int64) {
	i, there := slices.BinarySearchFunc(d.suppressions, reason, func(s suppression, r string) int { return strings.Compare(s.reason, r) })
	if there {
		d.suppressions[i].at = max(d.suppressions[i].at, at)
		return
	}
	d.suppressions = slices.Insert(d.suppressions, i, suppression{reason, at})
}

// settle takes away the suppressions that a later subscription to mail ended: not those about the address.
func (d *document) settle() {
	i, there := d.findConsent(Email, "")
	if !there {
		return
	}
	c := d.consents[i]
	d.suppressions = slices.DeleteFunc(d.suppressions, func(s suppression) bool {
		return !byAddress(s.reason) && s.at <= c.yes && (c.subscribed || s.reason != Unsubscribe)
	})
}

// change sets or lifts a suppression. One that says the person does not want mail ends the subscription too.
func (d *document) change(s fact.Suppression, now int64) {
	if s.Lift {
		d.suppressions = slices.DeleteFunc(d.suppressions, func(m suppression) bool { return m.reason == s.Reason })
		return
	}
	if s.Reason == Unsubscribe || s.Reason == SpamComplaint {
		d.sayOf(&fact.Consent{Channel: Email, Method: strings.ToLower(s.Reason)}, "", now)
	}
	if i, there := d.findConsent(Email, ""); there && !byAddress(s.Reason) {
		now = max(now, d.consents[i].yes+1) // what comes later is later
	}
	d.suppress(s.Reason, now)
}

// newAddress forgets what was known of the old address.
func (d *document) newAddress() {
	d.suppressions = slices.DeleteFunc(slices.Clone(d.suppressions), func(s suppression) bool { return byAddress(s.reason) })
}

// mergeConsent takes in the consent of a merged profile: as if one person had said all of it, what was said later counts, at the
// same time the end of a subscription; suppressions add up, but those about another address.
func (d *document) mergeConsent(from *document, sameAddress bool) {
	for _, c := range from.consents {
		i, there := d.findConsent(c.channel, c.list)
		if !there {
			d.consents = slices.Insert(d.consents, i, c)
			continue
		}
		mine := &d.consents[i]
		yes := max(mine.yes, c.yes)
		if c.at > mine.at || c.at == mine.at && mine.subscribed && !c.subscribed {
			*mine = c
		}
		mine.yes = yes
	}
	for _, s := range from.suppressions {
		if sameAddress || !byAddress(s.reason) {
			d.suppress(s.reason, s.at)
		}
	}
	d.settle()
}
