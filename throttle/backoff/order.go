// Package backoff turns replies into orders: what automation rules of package
// rules say must happen when a provider pushes back.
//
// An Engine is fed with attempts. It counts, for each rule and for what the rule is about
// (a source at a provider, a tenant, a stream), the replies that match, in a
// window that slides; at the threshold it returns an Order, to be stored where all nodes see it.
// The same again while the order is in force extends it; orders do not pile up.
//
// Orders is the set of orders in force, as the hot path asks it: may this source send to that
// site now, must its limits be lower, must this tenant's stream wait.
//
// Neither reads a clock: the time is given. docs/formats/orders.md describes the stored form.
package backoff

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// Version is the version of the stored form of orders.
const Version = 1

// Order is one thing that backoff, or an operator, has decided.
type Order struct {
	ID     string
	Action rules.Action
	// Scope is what it is about; empty fields do not restrict. What sources do has
	// source, provider and site; what tenants do has tenant, provider and site.
	Scope  throttle.Key
	Stream string // for rules.SuspendStream, of the tenant in Scope
	// Limits and MessagesPerConnection are what rules.Slow and rules.OneConnection
	// lower to; the limits count over Scope.
	Limits                throttle.Limits
	MessagesPerConnection int
	Created               time.Time
	Until                 time.Time // zero: until it is lifted. Of rules.Bounce the same as Created
	Rule                  string    // such as google/unusual-rate; "" for an operator's
	Reason                string    // in words
	Node                  string    // that gave it
}

// InForce reports whether the order has not ended.
func (o *Order) InForce(now time.Time) bool { return o.Until.IsZero() || now.Before(o.Until) }

// String says what is ordered, for how long and why.
func (o Order) String() string {
	var b strings.Builder
	b.WriteString(string(o.Action))
	if s := o.Scope.String(); s != "" {
		b.WriteString(" " + s)
	}
	if o.Action == rules.SuspendStream {
		b.WriteString(" stream=" + o.Stream)
	}
	for _, l := range o.lowered() {
		b.WriteString(", " + l)
	}
	switch {
	case o.Action == rules.Bounce:
	case o.Until.IsZero():
		b.WriteString(", until lifted")
	default:
		b.WriteString(", until " + o.Until.UTC().Format(time.RFC3339))
	}
	if o.Rule != "" {
		b.WriteString(", by rule " + o.Rule)
	}
	if o.Reason != "" {
		b.WriteString(": " + o.Reason)
	}
	return b.String()
}

// lowered lists the limits in words.
func (o *Order) lowered() []string {
	var list []string
	if n := o.Limits.Connections; n > 0 {
		list = append(list, fmt.Sprintf("connections %d", n))
	}
	if r := o.Limits.ConnectRate; !r.IsZero() {
		list = append(list, "connect rate "+r.String())
	}
	if r := o.Limits.MessageRate; !r.IsZero() {
		list = append(list, "message rate "+r.String())
	}
	if n := o.Limits.Daily; n > 0 {
		list = append(list, fmt.Sprintf("%d messages a day", n))
	}
	if n := o.MessagesPerConnection; n > 0 {
		list = append(list, fmt.Sprintf("messages per connection %d", n))
	}
	return list
}

// ErrBadOrder is behind every error of Validate and Decode.
var ErrBadOrder = errors.New("backoff: not an order")

// Validate reports what does not make sense.
func (o *Order) Validate() error {
	bad := func(what string) error { return fmt.Errorf("%w: %s", ErrBadOrder, what) }
	s := o.Scope
	switch {
	case o.ID == "":
		return bad("no id")
	case s.Pool != "" || s.Domain != "":
		return bad("scope: must not name a pool or a domain")
	case o.Created.IsZero():
		return bad("created: must be given")
	case o.Stream != "" && o.Action != rules.SuspendStream:
		return bad("stream: goes with the action suspend_stream only")
	}
	lowers := len(o.lowered()) > 0
	switch o.Action {
	case rules.Suspend, rules.Slow, rules.OneConnection, rules.Bounce:
		if s.Tenant != "" {
			return bad("scope: the action is about a source, so it must not name a tenant")
		}
		if s == (throttle.Key{}) {
			return bad("scope: must name a source, a provider or a site")
		}
	case rules.SuspendTenant:
		if s.Tenant == "" || s.Source != "" {
			return bad("scope: must name a tenant and no source")
		}
	case rules.SuspendStream:
		if s.Tenant == "" && o.Stream == "" || s.Source != "" {
			return bad("scope: must name a tenant or a stream and no source")
		}
	default:
		return bad(fmt.Sprintf("action: %q is not known", o.Action))
	}
	if l := o.Action == rules.Slow || o.Action == rules.OneConnection; l != lowers {
		return bad("limits: go with the actions slow and one_connection, and these need them")
	}
	return nil
}

// Give makes an operator's order. A zero until holds until it is lifted.
func Give(action rules.Action, scope throttle.Key, stream, reason, node string, limits throttle.Limits, now, until time.Time) (Order, error) {
	o := Order{Action: action, Scope: scope, Stream: stream, Reason: reason, Node: node, Limits: limits, Created: now.UTC(), Until: until}
	if action == rules.OneConnection {
		o.Limits = throttle.Limits{Connections: 1}
	}
	o.ID = idOf("", scope, stream, now)
	if err := o.Validate(); err != nil {
		return Order{}, err
	}
	switch {
	case action == rules.Bounce:
		return Order{}, fmt.Errorf("%w: action: only a rule can bounce, for it is about a reply", ErrBadOrder)
	case !until.IsZero() && !until.After(now):
		return Order{}, fmt.Errorf("%w: until: must be after now", ErrBadOrder)
	}
	return o, nil
}

// idOf names an order by what triggered it and when: two nodes that come to the
// same at different instants give different orders, and a repetition gives the same.
func idOf(rule string, k throttle.Key, stream string, at time.Time) string {
	h := sha256.New()
	for _, s := range [...]string{rule, k.Source, k.Pool, k.Tenant, k.Provider, k.Site, k.Domain, stream} {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(s)))
		_, _ = h.Write(n[:]) // a hash takes everything
		_, _ = h.Write([]byte(s))
	}
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(at.UnixNano()))
	_, _ = h.Write(n[:])
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// stored is the JSON form.
type stored struct {
	Version               int             `json:"version"`
	ID                    string          `json:"id"`
	Action                rules.Action    `json:"action"`
	Scope                 scope           `json:"scope"`
	Limits                throttle.Limits `json:"limits,omitzero"`
	MessagesPerConnection int             `json:"messages_per_connection,omitempty"`
	Created               time.Time       `json:"created"`
	Until                 time.Time       `json:"until,omitzero"`
	Rule                  string          `json:"rule,omitempty"`
	Reason                string          `json:"reason,omitempty"`
	Node                  string          `json:"node,omitempty"`
}

type scope struct {
	Source   string `json:"source,omitempty"`
	Tenant   string `json:"tenant,omitempty"`
	Stream   string `json:"stream,omitempty"`
	Provider string `json:"provider,omitempty"`
	Site     string `json:"site,omitempty"`
}

// MarshalJSON implements json.Marshaler: the stored form.
func (o Order) MarshalJSON() ([]byte, error) {
	l := o.Limits
	l.Loop = throttle.Loop{}
	return json.Marshal(stored{Version, o.ID, o.Action,
		scope{o.Scope.Source, o.Scope.Tenant, o.Stream, o.Scope.Provider, o.Scope.Site},
		l, o.MessagesPerConnection, o.Created.UTC(), o.Until.UTC(), o.Rule, o.Reason, o.Node})
}

// UnmarshalJSON implements json.Unmarshaler. It refuses what Validate does.
func (o *Order) UnmarshalJSON(data []byte) error {
	var s stored
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%w: %w", ErrBadOrder, err)
	}
	if s.Version != Version {
		return fmt.Errorf("%w: version %d, this program reads %d", ErrBadOrder, s.Version, Version)
	}
	s.Limits.Loop = throttle.Loop{}
	read := Order{ID: s.ID, Action: s.Action, Stream: s.Scope.Stream,
		Scope:  throttle.Key{Source: s.Scope.Source, Tenant: s.Scope.Tenant, Provider: s.Scope.Provider, Site: s.Scope.Site},
		Limits: s.Limits, MessagesPerConnection: s.MessagesPerConnection,
		Created: s.Created, Until: s.Until, Rule: s.Rule, Reason: s.Reason, Node: s.Node}
	if err := read.Validate(); err != nil {
		return err
	}
	*o = read
	return nil
}

// origin is how the table of limits names the order.
func (o *Order) origin() rules.Origin {
	block := "order " + o.ID
	if o.Rule != "" {
		block += " by rule " + o.Rule
	}
	if !o.Until.IsZero() {
		block += " until " + o.Until.UTC().Format(time.RFC3339)
	}
	return rules.Origin{Block: block}
}
