package cluster

import (
	"reflect"
	"slices"
	"time"
)

// listener is one function that is told of changes.
type listener struct {
	f    func([]Member)
	last []Member // what it was told, without what changes all the time
}

// OnChange calls f with the members soon after it is registered (or after Start, if
// that comes later) and after each change: somebody came, went, or tells
// something else of itself. Load and Seen are no change. Calls come one at a time, outside of
// locks; changes in quick succession may share one. After cancel at most the call under way goes on. With the cluster off f is never called.
func (c *Cluster) OnChange(f func([]Member)) (cancel func()) {
	l := &listener{f: f}
	c.mu.Lock()
	c.listeners = append(slices.Clip(c.listeners), l)
	c.mu.Unlock()
	c.mayHaveChanged()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.listeners = slices.DeleteFunc(slices.Clone(c.listeners), func(have *listener) bool { return have == l })
	}
}

// mayHaveChanged makes the notifier look.
func (c *Cluster) mayHaveChanged() { poke(c.changed) }

// notifier tells the log and the listeners.
func (c *Cluster) notifier() {
	history := &listener{}
	history.f = func(now []Member) { c.logChanges(history.last, now) }
	for {
		select {
		case <-c.stop:
			return
		case <-c.changed:
		}
		c.mu.Lock()
		listeners := c.listeners
		c.mu.Unlock()
		all := c.Members()
		history.tell(all)
		for _, l := range listeners {
			l.tell(all)
		}
	}
}

// tell calls the listener if there is something new.
func (l *listener) tell(all []Member) {
	essence := slices.Clone(all)
	for i := range essence {
		essence[i].Load, essence[i].Seen = Load{}, time.Time{}
	}
	if l.last != nil && reflect.DeepEqual(essence, l.last) {
		return
	}
	l.f(slices.Clone(all))
	l.last = essence
}

// logChanges logs who came and went, and whose configuration differs.
func (c *Cluster) logChanges(before, now []Member) {
	was := map[string]Member{}
	for _, m := range before {
		was[m.Name] = m
	}
	for _, m := range now {
		b := was[m.Name]
		switch {
		case m.Status == b.Status:
		case m.Present() && !b.Present():
			c.log.Info("member is there", "member", m.Name, "role", m.Role, "zone", m.Zone, "address", m.Addr)
		case m.Status == Left:
			c.log.Info("member left", "member", m.Name)
		default:
			c.log.Warn("member does not answer", "member", m.Name, "status", string(m.Status))
		}
		if m.Drift && !b.Drift {
			c.log.Warn("configuration differs from that of most members of the role", "member", m.Name, "role", m.Role, "digest", m.ConfigDigest)
		}
	}
}
