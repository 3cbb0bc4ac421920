package backoff

import (
	"container/list"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// Options is what a configuration file can set.
type Options struct {
	MaxHits   int `toml:"max_hits" doc:"matching replies that are remembered at most until they trigger their rule; beyond it those not seen for longest are forgotten"`
	MaxOrders int `toml:"max_orders" doc:"orders in force beyond which no new ones are given"`
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options { return Options{MaxHits: 50_000, MaxOrders: 10_000} }

// Validate reports the first bad value; the error begins with its key.
func (o Options) Validate() error {
	switch {
	case o.MaxHits < 1000:
		return errors.New("max_hits: must be 1000 or more")
	case o.MaxOrders < 1:
		return errors.New("max_orders: must be 1 or more")
	}
	return nil
}

// Rules finds the rules that claim a reply. *rules.Set implements it.
type Rules interface {
	Match(provider, reply string) []rules.Rule
}

// Deps is what an Engine needs from others.
type Deps struct {
	Rules      Rules
	Orders     *Orders               // the orders in force on this node; the engine puts its own in
	Node       string                // our name, for orders
	Logger     *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil is none
}

// Attempt is one reply with whom it was given to.
type Attempt struct {
	Source   string
	Provider string
	Site     string
	Tenant   string
	Stream   string
	Class    string // of the outcome: only mail.ClassSMTP is looked at
	Reply    mail.Reply
}

// Engine counts replies and gives orders. It is safe for concurrent use.
type Engine struct {
	o     Options
	d     Deps
	m     *metrics
	rules atomic.Pointer[Rules]

	mu      sync.Mutex
	windows map[cause]*list.Element // of *window
	order   *list.List              // the one hit last in front
	hits    int                     // in all windows
}

// New returns an engine.
func New(o Options, d Deps) (*Engine, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if d.Rules == nil || d.Orders == nil {
		return nil, errors.New("backoff: rules and orders are needed")
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Engine{o: o, d: d, windows: map[cause]*list.Element{}, order: list.New()}
	e.Reload(d.Rules)
	var err error
	e.m, err = newMetrics(d.Registerer, d.Orders)
	return e, err
}

// Reload replaces the rules. What was counted stays, for rules of the same name.
func (e *Engine) Reload(r Rules) { e.rules.Store(&r) }

// Feed looks at one attempt and returns the orders to be stored, new or
// extended; the engine's own Orders has them already. An order of
// rules.Bounce is not to be stored: it says that this reply is a permanent one.
//
// Only replies of the peer count. A connection that failed is nobody's opinion.
func (e *Engine) Feed(now time.Time, a Attempt) []Order {
	if a.Class != mail.ClassSMTP || a.Reply.Code < 400 {
		return nil
	}
	matched := (*e.rules.Load()).Match(a.Provider, a.Reply.String())
	if len(matched) == 0 {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var orders []Order
	for i := range matched {
		r := &matched[i]
		e.m.matched(r)
		c, ok := causeOf(r, &a)
		if !ok || !e.hit(c, r, now) {
			continue
		}
		if o, given := e.give(c, r, &a, now); given {
			orders = append(orders, o)
		}
	}
	return orders
}

// causeOf tells what a rule is about, given one attempt. ok is false when there
// is nobody to be suspended: mail without tenant, an attempt without site.
func causeOf(r *rules.Rule, a *Attempt) (c cause, ok bool) {
	c = cause{rule: r.ID()}
	if a.Provider != "" && !r.PerSite {
		c.scope.Provider = a.Provider
	} else {
		c.scope.Site = a.Site
	}
	if c.scope == (throttle.Key{}) {
		return c, false
	}
	switch r.Action {
	case rules.SuspendTenant:
		c.scope.Tenant = a.Tenant
		return c, a.Tenant != ""
	case rules.SuspendStream:
		c.scope.Tenant, c.stream = a.Tenant, a.Stream
		return c, a.Tenant != "" || a.Stream != ""
	}
	c.scope.Source = a.Source
	return c, true
}

// leastExtension keeps a burst of replies from extending an order with each one,
// which all nodes would have to store: the end moves by a tenth of the rule's duration or not at all.
const leastExtension = 10

// give makes the order, or extends the one in force.
func (e *Engine) give(c cause, r *rules.Rule, a *Attempt, now time.Time) (Order, bool) {
	o := Order{Action: r.Action, Scope: c.scope, Stream: c.stream, Limits: r.Limits, MessagesPerConnection: r.MessagesPerConnection,
		Created: now.UTC(), Until: now.Add(r.For).UTC(), Rule: c.rule, Reason: reason(r, a), Node: e.d.Node}
	if r.Action == rules.Bounce {
		if a.Reply.Code >= 500 {
			return Order{}, false // it is one already
		}
		o.ID = idOf(c.rule, c.scope, c.stream, now)
		e.m.gave(r.Action, "new")
		return o, true
	}
	how := "new"
	if old, ok := e.d.Orders.inForce(c, now); ok {
		if old.Until.IsZero() || o.Until.Sub(old.Until) < r.For/leastExtension {
			return Order{}, false
		}
		how = "extended"
		o.ID, o.Created = old.ID, old.Created
	} else if o.ID = idOf(c.rule, c.scope, c.stream, now); e.d.Orders.Len() >= e.o.MaxOrders {
		e.m.gave(r.Action, "refused")
		e.d.Logger.Warn("too many orders in force, none is given", slog.String("rule", c.rule), slog.String("scope", c.scope.String()))
		return Order{}, false
	}
	e.m.gave(r.Action, how)
	e.d.Orders.Put(o)
	return o, true
}

// maxReason bounds the reply in a reason, in bytes.
const maxReason = 300

func reason(r *rules.Rule, a *Attempt) string {
	reply := a.Reply.String()
	if len(reply) > maxReason {
		cut := maxReason
		for cut > 0 && reply[cut]&0xc0 == 0x80 { // not through a character
			cut--
		}
		reply = reply[:cut] + "..."
	}
	if r.Threshold == 1 {
		return reply
	}
	return fmt.Sprintf("%d replies within %s, the last: %s", r.Threshold, units.Duration(r.Window), reply)
}

// Forget drops what was counted towards orders like o: after it has been lifted,
// the provider has to push back anew.
func (e *Engine) Forget(o Order) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if el, ok := e.windows[o.cause()]; ok {
		e.drop(el)
	}
}

// window is the latest hits of one cause.
type window struct {
	cause
	hits    []int64 // Unix nanoseconds, rising; never empty, at most the threshold
	expires int64   // when the last of them is too old to count
}

// hit counts one match and reports whether it is the threshold's. What triggered
// counts no more, except towards bounces: these go on while the rate does.
func (e *Engine) hit(c cause, r *rules.Rule, now time.Time) bool {
	el, ok := e.windows[c]
	if !ok {
		el = e.order.PushFront(&window{cause: c})
		e.windows[c] = el
	}
	e.order.MoveToFront(el)
	w := el.Value.(*window)
	at := now.UnixNano()
	if n := len(w.hits); n > 0 {
		at = max(at, w.hits[n-1]) // callers may overtake each other
	}
	before := len(w.hits)
	oldest := at - int64(r.Window)
	drop := 0
	for drop < len(w.hits) && (w.hits[drop] <= oldest || len(w.hits)-drop >= r.Threshold) {
		drop++
	}
	w.hits = append(w.hits[drop:], at)
	w.expires = at + int64(r.Window)
	e.hits += len(w.hits) - before
	triggered := len(w.hits) >= r.Threshold
	if triggered && r.Action != rules.Bounce {
		e.drop(el)
	}
	e.trim(at)
	return triggered
}

// trim forgets what is too old, a few at a time, and what is too much.
func (e *Engine) trim(now int64) {
	for range 2 {
		if el := e.order.Back(); el != nil && el.Value.(*window).expires <= now {
			e.drop(el)
		}
	}
	for e.hits > e.o.MaxHits {
		e.drop(e.order.Back())
	}
}

func (e *Engine) drop(el *list.Element) {
	w := e.order.Remove(el).(*window)
	e.hits -= len(w.hits)
	delete(e.windows, w.cause)
}

var _ Rules = (*rules.Set)(nil)
