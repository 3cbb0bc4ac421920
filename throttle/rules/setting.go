package rules

import (
	"fmt"
	"strconv"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle"
)

// name is one of the values that a block can set.
type name uint8

const (
	connections name = iota
	connectRate
	messageRate
	daily
	perConnection
	tlsMode
	loop
	numNames
)

var names = [numNames]string{"connections", "connect_rate", "message_rate", "daily", "messages_per_connection", "tls", "loop"}

// counts reports whether a value counts over a key.
func (n name) counts() bool { return n != perConnection && n != tlsMode }

// setting is one value that a block sets, with where.
type setting struct {
	count  int64
	rate   units.Rate
	text   string
	loop   throttle.Loop
	shown  string
	origin Origin
}

// none reports whether the setting lifts a limit.
func (s *setting) none() bool { return s.shown == shownNone }

const shownNone = "none"

// settings are the values of a block; nil is not set.
type settings [numNames]*setting

// override takes what later sets.
func (s *settings) override(later *settings) {
	for n, v := range later {
		if v != nil {
			s[n] = v
		}
	}
}

func (s *settings) empty() bool { return *s == settings{} }

// Bounds of values, against typing mistakes.
const (
	maxConnections = 1_000_000
	maxCount       = 1_000_000_000_000
)

// reader turns the values of one block into settings.
type reader struct {
	s    *source
	path string // of the block
	out  settings
	bad  *problems
}

func (r *reader) origin(n name) Origin {
	o := r.s.origin(join(r.path, names[n]))
	return o
}

func (r *reader) fail(n name, message string) {
	r.bad.add(r.s.fail(join(r.path, names[n]), message))
}

func (r *reader) number(n name, v *int64, limit int64) {
	if v == nil {
		return
	}
	if *v < 0 || *v > limit {
		r.fail(n, fmt.Sprintf("must be 0 (no limit) to %d", limit))
		return
	}
	s := &setting{count: *v, shown: strconv.FormatInt(*v, 10), origin: r.origin(n)}
	if *v == 0 {
		s.shown = shownNone
	}
	r.out[n] = s
}

func (r *reader) rate(n name, v *units.Rate) {
	if v == nil {
		return
	}
	if v.Count > maxCount {
		r.fail(n, fmt.Sprintf("must be %d or less in any time", int64(maxCount)))
		return
	}
	s := &setting{rate: *v, shown: v.String(), origin: r.origin(n)}
	if v.IsZero() {
		s.shown = shownNone
	}
	r.out[n] = s
}

func (r *reader) mode(v *string) {
	switch {
	case v == nil:
	case *v == "opportunistic" || *v == "required" || *v == "verify" || *v == "none":
		// "none" is a mode here, so it is shown in other words than a lifted limit.
		s := &setting{text: *v, shown: *v, origin: r.origin(tlsMode)}
		r.out[tlsMode] = s
	default:
		r.fail(tlsMode, fmt.Sprintf("%q is none of opportunistic, required, verify, none", *v))
	}
}

// defaultLoop is what a loop has where it does not say otherwise: deferrals of
// one message in five mean that the provider pushes back; a step up each minute
// brings a source from the floor to its full rate in about twenty minutes.
func defaultLoop() throttle.Loop {
	return throttle.Loop{High: 0.2, Low: 0.05, Decrease: 0.7, Increase: 0.05, Floor: 0.05, Window: time.Minute, Least: 20}
}

func (r *reader) loop(t *loopText) {
	if t == nil {
		return
	}
	s := &setting{origin: r.origin(loop), shown: shownNone}
	r.out[loop] = s
	if t.Off {
		return
	}
	l := defaultLoop()
	for _, f := range []struct {
		to *float64
		v  *float64
	}{{&l.High, t.High}, {&l.Low, t.Low}, {&l.Decrease, t.Decrease}, {&l.Increase, t.Increase}, {&l.Floor, t.Floor}} {
		if f.v != nil {
			*f.to = *f.v
		}
	}
	if t.Window != nil {
		l.Window = t.Window.D()
	}
	if t.Least != nil {
		l.Least = int(min(max(*t.Least, -1), maxCount))
	}
	if key, message := badLoop(l); key != "" {
		r.bad.add(r.s.fail(join(r.path, "loop."+key), message))
		return
	}
	s.loop = l
	s.shown = showLoop(l)
}

// badLoop names the first bad value of a loop. The comparisons are written so that NaN is bad.
func badLoop(l throttle.Loop) (key, message string) {
	switch {
	case !(l.High > 0 && l.High <= 1):
		return "high", "must be above 0 and at most 1, a share of messages deferred"
	case !(l.Low >= 0 && l.Low < l.High):
		return "low", "must be 0 or more and below high"
	case !(l.Decrease > 0 && l.Decrease < 1):
		return "decrease", "must be between 0 and 1"
	case !(l.Increase > 0 && l.Increase <= 1):
		return "increase", "must be above 0 and at most 1, a share of the full rate"
	case !(l.Floor > 0 && l.Floor <= 1):
		return "floor", "must be above 0 and at most 1, a share of the full rate"
	case l.Window < time.Second || l.Window > 24*time.Hour:
		return "window", "must be 1s to 24h"
	case l.Least < 1:
		return "least", "must be 1 or more"
	}
	return "", ""
}

// showLoop is short, for a column of a table: ">20% ×0.7, <5% +5%, floor 5%, 1m/20".
func showLoop(l throttle.Loop) string {
	return fmt.Sprintf(">%s ×%v, <%s +%s, floor %s, %s/%d", percent(l.High), l.Decrease, percent(l.Low), percent(l.Increase),
		percent(l.Floor), units.Duration(l.Window), l.Least)
}

func percent(share float64) string { return strconv.FormatFloat(share*100, 'g', 4, 64) + "%" }

// limits reads all values of a block that is about one source.
func (l *limitsText) limits(r *reader) {
	r.number(connections, l.Connections, maxConnections)
	r.rate(connectRate, l.ConnectRate)
	r.rate(messageRate, l.MessageRate)
	r.number(daily, l.Daily, maxCount)
	r.number(perConnection, l.MessagesPerConnection, maxCount)
	r.mode(l.TLS)
	r.loop(l.Loop)
}

// limits reads the values of a block that spans sources.
func (l *spanText) limits(r *reader) {
	r.number(connections, l.Connections, maxConnections)
	r.rate(connectRate, l.ConnectRate)
	r.rate(messageRate, l.MessageRate)
	r.number(daily, l.Daily, maxCount)
}

func (l *tenantBlock) limits(r *reader) {
	r.rate(messageRate, l.MessageRate)
	r.number(daily, l.Daily, maxCount)
}
