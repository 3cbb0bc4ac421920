package backoff

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// Orders is the set of orders in force. The zero value is not ready; NewOrders
// makes one. It is safe for concurrent use, and asking costs next to nothing while it is empty.
type Orders struct {
	n        atomic.Int64
	mu       sync.RWMutex
	byID     map[string]Order
	suspends map[throttle.Key][]Order // of sources
	slows    map[throttle.Key][]Order
	tenants  map[throttle.Key][]Order
	streams  map[streamKey][]Order
	byRule   map[cause]string // the newest order's id
}

type streamKey struct {
	throttle.Key
	stream string
}

// cause is what triggers orders: a rule and what it is about.
type cause struct {
	rule   string
	scope  throttle.Key
	stream string
}

func (o *Order) cause() cause { return cause{o.Rule, o.Scope, o.Stream} }

// NewOrders returns an empty set.
func NewOrders() *Orders {
	return &Orders{byID: map[string]Order{}, suspends: map[throttle.Key][]Order{}, slows: map[throttle.Key][]Order{},
		tenants: map[throttle.Key][]Order{}, streams: map[streamKey][]Order{}, byRule: map[cause]string{}}
}

// Put adds an order, or replaces the one of its id. changed is false when the set
// has it as it is. Bounces are not kept: they are over when they are given.
func (s *Orders) Put(o Order) (changed bool) {
	if o.Action == rules.Bounce {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, had := s.byID[o.ID]
	if had && same(&old, &o) {
		return false
	}
	if had {
		s.remove(old)
	}
	s.byID[o.ID] = o
	s.index(&o, func(list []Order) []Order { return append(list, o) })
	if o.Rule != "" {
		s.byRule[o.cause()] = o.ID
	}
	s.n.Store(int64(len(s.byID)))
	return true
}

// same compares what is stored: times as instants.
func same(a, b *Order) bool {
	x, y := *a, *b
	if !x.Created.Equal(y.Created) || !x.Until.Equal(y.Until) {
		return false
	}
	x.Created, x.Until, y.Created, y.Until = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	return x == y
}

// index changes the list that the order belongs in.
func (s *Orders) index(o *Order, change func([]Order) []Order) {
	switch o.Action {
	case rules.Suspend:
		set(s.suspends, o.Scope, change(s.suspends[o.Scope]))
	case rules.Slow, rules.OneConnection:
		set(s.slows, o.Scope, change(s.slows[o.Scope]))
	case rules.SuspendTenant:
		set(s.tenants, o.Scope, change(s.tenants[o.Scope]))
	case rules.SuspendStream:
		k := streamKey{o.Scope, o.Stream}
		set(s.streams, k, change(s.streams[k]))
	}
}

// set leaves no empty lists behind.
func set[K comparable](m map[K][]Order, k K, list []Order) {
	if len(list) == 0 {
		delete(m, k)
		return
	}
	m[k] = list
}

func (s *Orders) remove(o Order) {
	delete(s.byID, o.ID)
	if c := o.cause(); s.byRule[c] == o.ID {
		delete(s.byRule, c)
	}
	s.index(&o, func(list []Order) []Order {
		return slices.DeleteFunc(list, func(x Order) bool { return x.ID == o.ID })
	})
	s.n.Store(int64(len(s.byID)))
}

// Lift takes an order away before its time.
func (s *Orders) Lift(id string) (Order, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.byID[id]
	if ok {
		s.remove(o)
	}
	return o, ok
}

// Expire takes away and returns what has ended.
func (s *Orders) Expire(now time.Time) []Order {
	if s.n.Load() == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var ended []Order
	for _, o := range s.byID {
		if !o.InForce(now) {
			ended = append(ended, o)
		}
	}
	for _, o := range ended {
		s.remove(o)
	}
	sortOrders(ended)
	return ended
}

// Get returns the order of an id, ended or not.
func (s *Orders) Get(id string) (Order, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.byID[id]
	return o, ok
}

// List returns all orders, the oldest first.
func (s *Orders) List() []Order {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]Order, 0, len(s.byID))
	for _, o := range s.byID {
		list = append(list, o)
	}
	sortOrders(list)
	return list
}

func sortOrders(list []Order) {
	slices.SortFunc(list, func(a, b Order) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
}

// Len is the number of orders kept.
func (s *Orders) Len() int { return int(s.n.Load()) }

// Blocked reports whether nothing may go from a source to a site of a provider
// (which may be ""), with the order that ends last.
func (s *Orders) Blocked(source, provider, site string, now time.Time) (Order, bool) {
	if s.n.Load() == 0 {
		return Order{}, false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var best last
	if len(s.suspends) > 0 {
		for k := range placesOf(throttle.Key{Source: source}, provider, site) {
			best.of(s.suspends[k], now)
		}
	}
	return best.order, best.found
}

// Held reports whether mail of a tenant's stream to a site of a provider must
// wait, whatever the source, with the order that ends last.
func (s *Orders) Held(tenant, stream, provider, site string, now time.Time) (Order, bool) {
	if s.n.Load() == 0 {
		return Order{}, false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var best last
	if len(s.tenants)+len(s.streams) > 0 {
		for k := range placesOf(throttle.Key{Tenant: tenant}, provider, site) {
			if k.Tenant == tenant {
				best.of(s.streams[streamKey{k, stream}], now)
			}
			best.of(s.tenants[k], now)
		}
	}
	return best.order, best.found
}

// Tighten lowers e, the limits of the query's source, to what orders say.
func (s *Orders) Tighten(e *rules.Effective, q rules.Query, now time.Time) {
	if s.n.Load() == 0 {
		return
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.slows) == 0 {
		return
	}
	for k := range placesOf(throttle.Key{Source: q.Source}, q.Provider, q.Site) {
		for i := range s.slows[k] {
			if o := &s.slows[k][i]; o.InForce(now) {
				e.Tighten(k, o.Limits, o.MessagesPerConnection, o.origin())
			}
		}
	}
}

// inForce returns the order that the cause triggered last, if it has not ended.
func (s *Orders) inForce(c cause, now time.Time) (Order, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.byID[s.byRule[c]]
	return o, ok && o.InForce(now)
}

// last picks the order in force that ends last.
type last struct {
	order Order
	found bool
}

func (l *last) of(list []Order, now time.Time) {
	for i := range list {
		o := &list[i]
		if !o.InForce(now) {
			continue
		}
		if !l.found || !l.order.Until.IsZero() && (o.Until.IsZero() || o.Until.After(l.order.Until)) {
			l.order, l.found = *o, true
		}
	}
}

// placesOf yields the scopes that cover who (a source or a tenant) at a site of
// a provider, each once: with and without each of the three.
func placesOf(who throttle.Key, provider, site string) func(func(throttle.Key) bool) {
	return func(yield func(throttle.Key) bool) {
		for bits := range 8 {
			k := who
			if bits&1 != 0 {
				if who == (throttle.Key{}) {
					continue
				}
				k = throttle.Key{}
			}
			if bits&2 != 0 {
				if provider == "" {
					continue
				}
				k.Provider = provider
			}
			if bits&4 != 0 {
				if site == "" {
					continue
				}
				k.Site = site
			}
			if !yield(k) {
				return
			}
		}
	}
}
