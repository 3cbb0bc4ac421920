package throttle

import (
	"fmt"
	"time"
)

const (
	// hintFrom is the wait from which a client is told: below, the grant itself comes as soon.
	hintFrom = 50 * time.Millisecond
	// hintAgain is the least time between two hints that say the same.
	hintAgain = time.Second
	// calmAfter is how long nobody must have waited for a connection until those
	// that were asked to give some back hear that they may keep them.
	calmAfter = time.Second
)

// cause is why a client waits.
type cause uint8

const (
	notWaiting cause = iota
	byRate
	byCount
	byDay
	byPause
	byDrain
)

// hinted is what a member was last told.
type hinted struct {
	cause cause
	at    time.Duration
}

// contend tells those that hold connections whether others wait for some.
func (a *Authority) contend(k *key, now time.Duration) {
	waiters := 0
	if k.waiting[Connect-1] > 0 && k.count > 0 && k.count >= a.slots(k) {
		k.contendedAt = now
		for _, m := range k.members {
			if m.wants[Connect-1].n > 0 {
				waiters++
			}
		}
	}
	calm := now-k.contendedAt >= calmAfter
	for _, m := range k.members {
		others := waiters
		if m.wants[Connect-1].n > 0 {
			others--
		}
		if !m.client.joined || m.told == (others > 0) || m.told && !calm || !m.told && len(m.leases) == 0 {
			continue
		}
		m.told = others > 0
		a.out = append(a.out, Out{Client: m.client.name, Hint: &Hint{Key: k.id, Kind: Connect, Contended: m.told}})
	}
}

// hint tells those that still wait what to expect.
func (a *Authority) hint(k *key, now time.Duration) {
	for _, kind := range [...]Kind{Connect, Send} {
		if k.waiting[kind-1] == 0 {
			continue
		}
		why, after := a.whyWaits(k, kind, now)
		if why == byRate && after < hintFrom {
			continue
		}
		reason := ""
		for _, m := range k.members {
			h := &m.hinted[kind-1]
			if m.wants[kind-1].n == 0 || h.cause == why && now-h.at < hintAgain {
				continue
			}
			*h = hinted{why, now}
			if reason == "" {
				reason = a.reason(k, kind, why)
			}
			a.out = append(a.out, Out{Client: m.client.name, Hint: &Hint{Key: k.id, Kind: kind, After: after,
				Reason: reason, Contended: kind == Connect && m.told}})
		}
	}
}

// whyWaits is what keeps wants of the kind waiting, and for how long at least (0: not known).
func (a *Authority) whyWaits(k *key, kind Kind, now time.Duration) (cause, time.Duration) {
	switch {
	case a.draining:
		return byDrain, 0
	case now < a.pausedTill:
		return byPause, a.pausedTill - now
	case kind == Connect && k.count >= a.slots(k):
		return byCount, 0
	case kind == Send && a.dailyLeft(k) <= 0:
		return byDay, a.daily.left(a.o.Wall())
	}
	return byRate, max(k.pacer(kind).next-now, 0)
}

func (a *Authority) reason(k *key, kind Kind, why cause) string {
	switch why {
	case byDrain:
		return "the process that owns the limit is about to end"
	case byPause:
		return "the limit has a new owner, which waits until older permits lapsed"
	case byCount:
		return fmt.Sprintf("connections %d of %d in use", k.count, k.limits.Connections) + a.partText()
	case byDay:
		return fmt.Sprintf("daily limit %d reached", k.limits.Daily) + a.partText()
	}
	if kind == Connect {
		return "connect rate " + k.limits.ConnectRate.String() + a.partText()
	}
	text := "message rate " + k.limits.MessageRate.String() + a.partText()
	if f := k.factor(); f < 1 {
		text += fmt.Sprintf(", slowed to %.2g of it because messages were deferred", f)
	}
	return text
}

// partText tells that only a part of the limit may be granted.
func (a *Authority) partText() string {
	switch {
	case a.share > 1:
		return fmt.Sprintf(" (cut off: 1/%d of it)", a.share)
	case a.reserved > 0:
		return fmt.Sprintf(" (%d of %d nodes out of contact have a share)", a.reserved, a.configured)
	}
	return ""
}
