package egress

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/records"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/backoff"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// orderPrefix begins the keys of orders among the shared records.
const orderPrefix = "order/"

// feed lets the automation rules look at one outcome.
func (g *Gate) feed(l *lease, m *mail.Message, o *mail.Outcome) {
	site, _ := splitSite(l.site)
	given := g.backoff.Feed(time.Now(), backoff.Attempt{Source: l.source, Provider: l.provider, Site: site,
		Tenant: m.Tenant, Stream: m.Stream, Class: o.Class, Reply: o.Reply})
	for _, order := range given {
		if order.Action == rules.Bounce {
			o.Kind = mail.Bounced
			continue
		}
		g.publish(order)
	}
}

// publish tells of a new order here and makes it a record that every node learns.
// The disk is not waited for: the order is in force already.
func (g *Gate) publish(o backoff.Order) {
	g.tellOrder(o)
	g.orderIsNews(o)
	g.stores.add(func() {
		if err := g.store(o); err != nil {
			g.log.Error("backoff order is not stored: other nodes and the next start will not know it", "order", o.String(), "error", err)
		}
	})
}

func (g *Gate) store(o backoff.Order) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	var ttl time.Duration
	if !o.Until.IsZero() {
		ttl = max(time.Until(o.Until), time.Millisecond)
	}
	_, err = g.d.Records.Put(orderPrefix+o.ID, b, ttl)
	return err
}

// orderChanged follows the shared records.
func (g *Gate) orderChanged(r records.Record) {
	id := r.Key[len(orderPrefix):]
	if r.Deleted {
		if o, was := g.orders.Lift(id); was {
			g.backoff.Forget(o)
			g.tellLifted(o, time.Now(), "lifted")
			g.orderIsNews(o)
		}
		return
	}
	var o backoff.Order
	if err := json.Unmarshal(r.Value, &o); err != nil {
		g.log.Error("shared order cannot be read", "id", id, "error", err)
		return
	}
	if g.orders.Put(o) {
		if o.Node != g.o.Node { // ours was told when it was given
			g.tellOrder(o)
		}
		g.orderIsNews(o)
	}
}

// orderIsNews has an order that began, changed or ended put into effect, together with others
// that come meanwhile. It may be called under any lock.
func (g *Gate) orderIsNews(o backoff.Order) {
	g.ordersMu.Lock()
	defer g.ordersMu.Unlock()
	if g.news = append(g.news, o); len(g.news) == 1 {
		g.post(g.ordersChanged)
	}
}

// ordersChanged puts the orders into effect: connections to end whose limits
// became other ones, and what waited for an order's end may look again.
func (g *Gate) ordersChanged() {
	g.ordersMu.Lock()
	news := g.news
	g.news = nil
	g.ordersMu.Unlock()
	ofOthers := slices.ContainsFunc(news, func(o backoff.Order) bool { return !ofSources(&o) })
	if c := (change{orders: slices.DeleteFunc(news, func(o backoff.Order) bool { return !ofSources(&o) })}); len(c.orders) > 0 {
		g.refresh(&c)
	}
	if ofOthers {
		g.admissions.release()
	}
}

// Orders lists the orders in force, the oldest first.
func (g *Gate) Orders() []backoff.Order { return g.orders.List() }

// Give puts an operator's order in force on every node. It is durable on return.
func (g *Gate) Give(action rules.Action, scope throttle.Key, stream, reason string, limits throttle.Limits, until time.Time) (backoff.Order, error) {
	o, err := backoff.Give(action, scope, stream, reason, g.o.Node, limits, time.Now(), until)
	if err != nil {
		return o, err
	}
	if err := g.store(o); err != nil { // our own subscription puts it in force
		return o, err
	}
	g.tellOrder(o)
	return o, nil
}

// Lift ends an order on every node; mail.ErrNotFound if there is none of that id.
func (g *Gate) Lift(id string) error {
	existed, err := g.d.Records.Delete(orderPrefix + id)
	switch {
	case err != nil:
		return err
	case existed:
		return nil
	}
	if o, was := g.orders.Lift(id); was { // it was not stored
		g.tellLifted(o, time.Now(), "lifted")
		g.orderIsNews(o)
		return nil
	}
	return mail.ErrNotFound
}

// tellOrder writes the event of an order.
func (g *Gate) tellOrder(o backoff.Order) {
	e := event.Event{ID: o.ID + "." + strconv.FormatInt(o.Until.Unix(), 36), Kind: event.Suspended, Time: time.Now(),
		Source: o.Scope.Source, Provider: o.Scope.Provider, Site: o.Scope.Site, Tenant: o.Scope.Tenant, Stream: o.Stream,
		Reason: o.Reason, Rule: o.Rule, Until: o.Until, Filter: o.Scope.String()}
	if o.Action == rules.Slow || o.Action == rules.OneConnection {
		e.Kind, e.Limit = event.Throttled, limitText(o.Limits)
	}
	g.log.Warn("sending is slowed or stopped", "order", o.String())
	g.d.Events(e)
}

func limitText(l throttle.Limits) string {
	switch {
	case !l.MessageRate.IsZero() && l.Connections > 0:
		return fmt.Sprintf("%v, %d connections", l.MessageRate, l.Connections)
	case !l.MessageRate.IsZero():
		return l.MessageRate.String()
	case l.Connections > 0:
		return strconv.Itoa(l.Connections) + " connections"
	}
	return ""
}

func (g *Gate) tellLifted(o backoff.Order, now time.Time, why string) {
	g.log.Info("order has ended", "order", o.String(), "why", why)
	g.d.Events(event.Event{ID: o.ID + ".end", Kind: event.Resumed, Time: now, Source: o.Scope.Source, Provider: o.Scope.Provider,
		Site: o.Scope.Site, Tenant: o.Scope.Tenant, Stream: o.Stream, Reason: why, Rule: o.Rule, Filter: o.Scope.String()})
}

// changed hears of the closed loop of an authority.
func (g *Gate) changed(by string, c throttle.Change) {
	if c.Reason == "" {
		return // it was slowed before; we came later
	}
	g.loops.note(&c)
	full := ""
	if s, ok := g.desk.KeyStatus(c.Key); ok && !s.Limits.MessageRate.IsZero() {
		full = " of " + s.Limits.MessageRate.String()
	}
	limit := strconv.FormatFloat(100*c.Factor, 'f', 0, 64) + " %" + full
	g.log.Info("closed loop changed a rate", "key", c.Key.String(), "limit", limit, "reason", c.Reason)
	g.d.Events(event.Event{ID: "loop." + by + "." + c.Key.String() + "." + strconv.FormatUint(c.Seq, 36), Kind: event.Throttled, Time: time.Now(),
		Source: c.Key.Source, Provider: c.Key.Provider, Site: c.Key.Site, Pool: c.Key.Pool, Tenant: c.Key.Tenant,
		Limit: limit, Reason: c.Reason, Filter: c.Key.String()})
}
