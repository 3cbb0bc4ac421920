package rules

import (
	"strconv"

	"github.com/godwit-mta/godwit/throttle"
)

// all adds every setting of a block that spans sources.
func (e *Effective) all(v *settings, k throttle.Key) {
	for n := range loop {
		if v[n] != nil {
			e.add(n, v[n], k)
		}
	}
}

// add puts a setting in force: a row of the table and, where it limits, a bound.
func (e *Effective) add(n name, v *setting, k throttle.Key) {
	if !n.counts() {
		e.row(n, v, throttle.Key{})
		return
	}
	e.row(n, v, k)
	if !v.none() {
		e.bound(k, v.limits(n))
	}
}

// limits is the setting as limits over a key.
func (v *setting) limits(n name) (l throttle.Limits) {
	switch n {
	case connections:
		l.Connections = int(v.count)
	case connectRate:
		l.ConnectRate = v.rate
	case messageRate:
		l.MessageRate = v.rate
	case daily:
		l.Daily = v.count
	}
	return l
}

func (e *Effective) row(n name, v *setting, k throttle.Key) {
	e.Values = append(e.Values, Value{names[n], v.shown, k, v.origin})
}

// set notes the most specific value of a name.
func (e *Effective) set(n name, v *setting) {
	switch n {
	case connections:
		e.Connections = int(v.count)
	case connectRate:
		e.ConnectRate = v.rate
	case messageRate:
		e.MessageRate = v.rate
	case daily:
		e.Daily = v.count
	case perConnection:
		e.MessagesPerConnection = int(v.count)
	case tlsMode:
		e.TLS = v.text
	}
}

func (e *Effective) find(k throttle.Key) *throttle.Bound {
	for i := range e.Bounds {
		if e.Bounds[i].Key == k {
			return &e.Bounds[i]
		}
	}
	return nil
}

// bound adds limits over a key; of two over the same key the tighter holds.
func (e *Effective) bound(k throttle.Key, l throttle.Limits) {
	b := e.find(k)
	if b == nil && e.aside != nil && e.aside.Key == k {
		e.Bounds = append(e.Bounds, *e.aside)
		b = &e.Bounds[len(e.Bounds)-1]
	}
	if b == nil {
		e.Bounds = append(e.Bounds, throttle.Bound{Key: k, Limits: l})
		return
	}
	tighten(&b.Limits, l)
}

// tighten lowers limits to those of l, where l has one.
func tighten(to *throttle.Limits, l throttle.Limits) {
	if l.Connections > 0 && (to.Connections == 0 || l.Connections < to.Connections) {
		to.Connections = l.Connections
	}
	if l.ConnectRate.Less(to.ConnectRate) {
		to.ConnectRate = l.ConnectRate
	}
	if l.MessageRate.Less(to.MessageRate) {
		to.MessageRate = l.MessageRate
	}
	if l.Daily > 0 && (to.Daily == 0 || l.Daily < to.Daily) {
		to.Daily = l.Daily
	}
}

// Tighten lowers what is in force over a key to the given limits, with rows
// that say so: what an order of backoff does, and the day's limit of a warm-up. messagesPerConnection 0 lowers nothing.
func (e *Effective) Tighten(k throttle.Key, l throttle.Limits, messagesPerConnection int, from Origin) {
	l.Loop = throttle.Loop{}
	if l != (throttle.Limits{}) {
		e.bound(k, l)
	}
	show := func(n name, value string) { e.Values = append(e.Values, Value{names[n], value, k, from}) }
	if l.Connections > 0 {
		e.Connections = lower(e.Connections, l.Connections)
		show(connections, strconv.Itoa(l.Connections))
	}
	if !l.ConnectRate.IsZero() {
		if l.ConnectRate.Less(e.ConnectRate) {
			e.ConnectRate = l.ConnectRate
		}
		show(connectRate, l.ConnectRate.String())
	}
	if !l.MessageRate.IsZero() {
		if l.MessageRate.Less(e.MessageRate) {
			e.MessageRate = l.MessageRate
		}
		show(messageRate, l.MessageRate.String())
	}
	if l.Daily > 0 {
		e.Daily = lower(e.Daily, l.Daily)
		show(daily, strconv.FormatInt(l.Daily, 10))
	}
	if messagesPerConnection > 0 {
		e.MessagesPerConnection = lower(e.MessagesPerConnection, messagesPerConnection)
		e.Values = append(e.Values, Value{names[perConnection], strconv.Itoa(messagesPerConnection), throttle.Key{}, from})
	}
}

// lower is the tighter of two limits of which 0 is none.
func lower[N int | int64](a, b N) N {
	if a == 0 || b < a {
		return b
	}
	return a
}
