package throttle

import (
	"slices"
	"strings"
	"time"
)

// KeyStatus is the state of one key, for people and metrics.
type KeyStatus struct {
	Key         Key
	Limits      Limits        // the strictest that clients named
	Rate        float64       // messages per second in force, by share, absents and factor; 0: no limit
	Slots       int           // connections in force, by share and absents; -1: no limit
	Connections int           // that count: granted, open, doubted and lingering
	Granted     int           // of them: leases that no client has opened yet
	Doubted     int           // of them: of clients out of contact
	Lingering   int           // of them: ended, and perhaps still counted by the provider
	Waiting     [2]int        // permits that clients could use: of Connect, of Send
	Clients     int           // that wait
	Next        time.Duration // until the next instant of a message; 0: now, or no limit
	Factor      float64       // of the closed loop: the share of the message rate in force
	Today       int64         // messages granted today, with a daily limit
	Why         string        // messages or connections wait; "" if none do
}

// Status returns the state of all keys in the order of their text.
func (a *Authority) Status(now time.Duration) []KeyStatus {
	all := make([]KeyStatus, 0, len(a.keys))
	byKey := make(map[*key]int, len(a.keys))
	for _, k := range a.keys {
		byKey[k] = len(all)
		all = append(all, a.statusOf(k, now))
	}
	for _, l := range a.leases {
		s := &all[byKey[l.key]]
		switch l.state {
		case granted:
			s.Granted++
		case doubted:
			s.Doubted++
		case lingering:
			s.Lingering++
		}
	}
	slices.SortFunc(all, func(x, y KeyStatus) int { return strings.Compare(x.Key.String(), y.Key.String()) })
	return all
}

func (a *Authority) statusOf(k *key, now time.Duration) KeyStatus {
	s := KeyStatus{Key: k.id, Limits: *k.limits, Slots: a.slots(k), Connections: k.count, Waiting: k.waiting,
		Factor: k.factor(), Today: a.daily.counts[k.id],
		Rate: k.limits.MessageRate.PerSecond() * a.part() * k.factor()}
	if s.Slots == unlimited {
		s.Slots = -1
	}
	if k.send.interval > 0 {
		s.Next = max(k.send.next-now, 0)
	}
	for _, m := range k.members {
		if m.waits() {
			s.Clients++
		}
	}
	for _, kind := range [...]Kind{Connect, Send} {
		if k.waiting[kind-1] > 0 && s.Why == "" {
			why, _ := a.whyWaits(k, kind, now)
			s.Why = a.reason(k, kind, why)
		}
	}
	return s
}
