package adminapi

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// The settings that orders and the closed loop lower.
const (
	settingConnections = "connections"
	settingMessageRate = "message_rate"
	settingConnectRate = "connect_rate"
	settingDaily       = "daily"
	settingWarmUp      = "warm-up" // how the origin of a warm-up's limit begins
	noLimit            = "none"    // how rules show that a block lifted a limit
)

// scope is what a path's mail counts under.
func (x *Explanation) scope(p *Path) Scope {
	s := Scope{Source: p.Source.Name, Pool: x.Pool, Tenant: x.Tenant, Stream: x.Stream, Provider: x.Provider, Site: x.Site, Domain: x.Domain}
	if p.Fallback != "" {
		s.Pool = p.Fallback
	}
	return s
}

// derive fills what follows from the facts: what is in force, what is usable, the verdict.
func (x *Explanation) derive(now time.Time) {
	slices.SortStableFunc(x.Orders, func(a, b Order) int { return b.Created.Compare(a.Created) })
	for i := range x.Paths {
		p := &x.Paths[i]
		var touching []Order
		for _, o := range x.Orders {
			if x.scope(p).Within(o.Scope) && (o.Until.IsZero() || o.Until.After(now)) {
				touching = append(touching, o)
			}
		}
		p.lower(touching, now)
		p.judge(touching, now)
	}
	x.Verdict = x.verdict(now)
}

// lower tells which values orders and the closed loop replace.
func (p *Path) lower(orders []Order, now time.Time) {
	for i := range orders {
		o := &orders[i]
		switch o.Action {
		case ActionOneConnection:
			p.lowerTo(settingConnections, "1", o, now)
		case ActionSlow:
			if o.Connections > 0 {
				p.lowerTo(settingConnections, strconv.Itoa(o.Connections), o, now)
			}
			if o.MessageRate != "" {
				p.lowerTo(settingMessageRate, o.MessageRate, o, now)
			}
		}
	}
	for i := range p.Throttles {
		t := &p.Throttles[i]
		if t.Factor <= 0 || t.Factor >= 1 {
			continue
		}
		for j := range p.Values {
			v := &p.Values[j]
			base := v.now()
			if v.Name != settingMessageRate || v.Key != t.Key || base == "" || v.State == ValueOverridden {
				continue
			}
			by := "the closed loop"
			if t.FactorReason != "" {
				by += " (" + t.FactorReason + ")"
			}
			if v.By != "" {
				by = v.By + " and " + by
			}
			v.InForce, v.By = scaled(base, t.Factor), by
		}
	}
}

// lowerTo applies an order to the value of the same name and key. Where there is none
// it is one more limit beside the others.
func (p *Path) lowerTo(name, to string, o *Order, now time.Time) {
	at := slices.IndexFunc(p.Values, func(v Value) bool { return v.Name == name && v.Key == o.Scope && v.State != ValueOverridden })
	if at < 0 {
		p.Values = append(p.Values, Value{Name: name, Key: o.Scope})
		at = len(p.Values) - 1
	}
	v := &p.Values[at]
	if have := v.now(); have == "" || lower(name, to, have) {
		v.InForce, v.By, v.Order = to, o.origin(now), o.ID
	}
}

// now is the value in force; "" where there is no limit.
func (v *Value) now() string {
	switch {
	case v.InForce != "":
		return v.InForce
	case v.Value == noLimit:
		return ""
	}
	return v.Value
}

// lower reports whether a allows less than b. Texts that are not limits are left alone.
func lower(name, a, b string) bool {
	if name == settingConnections {
		x, err1 := strconv.Atoi(a)
		y, err2 := strconv.Atoi(b)
		return err1 == nil && err2 == nil && x < y
	}
	var x, y units.Rate
	return x.UnmarshalText([]byte(a)) == nil && y.UnmarshalText([]byte(b)) == nil && x.Less(y)
}

// scaled is a part of a rate, in the rate's own unit: 2.5/min.
func scaled(rate string, factor float64) string {
	count, per, ok := strings.Cut(rate, "/")
	n, err := strconv.ParseFloat(count, 64)
	if !ok || err != nil {
		return rate
	}
	return strconv.FormatFloat(n*factor, 'g', 3, 64) + "/" + per
}

// judge tells whether mail may go by the path.
func (p *Path) judge(orders []Order, now time.Time) {
	p.Usable, p.Why, p.Until = true, "", time.Time{}
	block := func(until time.Time, why string) {
		if p.Usable || p.Until.Before(until) || until.IsZero() {
			p.Until = until
		}
		if p.Usable = false; p.Why != "" {
			p.Why += "; "
		}
		p.Why += why
	}
	endless := false
	for i := range orders {
		if o := &orders[i]; o.Stops() {
			endless = endless || o.Until.IsZero()
			block(o.Until, "suspended by "+o.origin(now))
		}
	}
	down := p.Source.State != StateUp && p.Source.State != ""
	if down {
		endless = true
		block(time.Time{}, describe(p.Source.State, p.Source.Reason))
	}
	for i := range p.Throttles {
		switch t := &p.Throttles[i]; {
		case t.Daily > 0 && t.Today >= t.Daily:
			block(now.UTC().Truncate(24*time.Hour).Add(24*time.Hour), fmt.Sprintf("at its %s of %d messages a day", p.dailyName(t.Key), t.Daily))
		case t.Mode == ModeDown && !down: // or it would be told twice
			endless = true
			block(time.Time{}, describe("out of contact with "+orElse(t.Authority, "the authority of "+t.Key.String()), t.Hint))
		}
	}
	if p.PausedUntil.After(now) && p.Usable {
		block(p.PausedUntil, describe("not tried "+untilText(p.PausedUntil, now)+" after a connection failed", p.PausedReason))
	}
	if endless {
		p.Until = time.Time{}
	}
}

// dailyName is whose limit a day's is: that of a warm-up, unless a rule has set one.
func (p *Path) dailyName(k Scope) string {
	for _, v := range p.Values {
		if v.Name == settingDaily && v.Key == k && v.State != ValueOverridden && !strings.HasPrefix(v.Origin, settingWarmUp) {
			return "limit"
		}
	}
	return "warm-up limit"
}

func describe(state, reason string) string {
	if reason == "" {
		return state
	}
	return state + ": " + reason
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// origin tells who set an order and until when it holds.
func (o *Order) origin(now time.Time) string {
	s := "hand"
	switch {
	case o.Rule != "":
		s = "rule " + o.Rule
	case o.By != "":
		s = "hand of " + o.By
	}
	return s + " " + untilText(o.Until, now)
}

// untilText is "until 14:05 UTC" in the zone of now, with the date unless it is within a day.
func untilText(t, now time.Time) string {
	if t.IsZero() {
		return "until lifted"
	}
	layout := "15:04 MST"
	if d := t.Sub(now); d > 20*time.Hour || d < -20*time.Hour {
		layout = "2006-01-02 15:04 MST"
	}
	return "until " + t.In(now.Location()).Format(layout)
}

// about tells a wait as people say it: 12 s, 5 min, 3 h.
func about(d time.Duration) string {
	switch {
	case d < time.Second:
		return "a second"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Round(time.Second).Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
	}
	return fmt.Sprintf("%d h", int(d.Round(time.Hour).Hours()))
}
