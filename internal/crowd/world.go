// Package crowd is the load source of the pipeline: customers of several tenants
// who do things, as events over the HTTP API. Event n of a world is a function of its seed
// and n, so a checker can make it again and knows what must have been counted.
//
// Shapes are those of real stores: few tenants, profiles, metrics and dimension values have most of the
// events (power laws), some events are late by days, some are sent twice, some identifiers are first seen apart and then together.
package crowd

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// Options describe a world and how much of it is sent.
type Options struct {
	Seed     uint64         `toml:"seed" doc:"Two worlds with one seed are equal."`
	Profiles int            `toml:"profiles" doc:"Profiles over all tenants."`
	Metrics  int            `toml:"metrics" doc:"Metrics of each tenant."`
	Values   int            `toml:"values" doc:"Values of the widest dimension."`
	Skew     float64        `toml:"skew" doc:"How uneven it is: 1 is even, 3 gives the first tenth of all half of the events."`
	Late     float64        `toml:"late" doc:"Share of events that happened up to LateBy ago."`
	LateBy   units.Duration `toml:"late_by" doc:"How late a late event may be."`
	Twice    float64        `toml:"twice" doc:"Share of events that are sent again later."`
	External float64        `toml:"external" doc:"Share of profiles that have an external id beside their email; now and then both are given, which joins what was known apart."`
	Mail     float64        `toml:"mail" doc:"Share of events that are about mail: Received Email, and what follows some of it, as the MTA and its tracking would tell."`
	From     time.Time      `toml:"from" doc:"When the first event happened."`
	Span     units.Duration `toml:"span" doc:"Time over which events happen that are not late; 0 is now."`
}

// DefaultOptions is the world that benchmarks use.
func DefaultOptions() Options {
	return Options{Seed: 1, Profiles: 1_000_000, Metrics: 1000, Values: 100_000, Skew: 3, Late: 0.01, LateBy: units.Duration(72 * time.Hour),
		Twice: 0.01, External: 0.2}
}

// Validate names the first option that cannot be used.
func (o Options) Validate() error {
	switch {
	case o.Profiles < 1:
		return fmt.Errorf("profiles: must be positive")
	case o.Metrics < 1:
		return fmt.Errorf("metrics: must be positive")
	case o.Values < 1:
		return fmt.Errorf("values: must be positive")
	case o.Skew < 1:
		return fmt.Errorf("skew: must be at least 1")
	}
	for _, s := range []struct {
		name  string
		share float64
	}{{"late", o.Late}, {"twice", o.Twice}, {"external", o.External}, {"mail", o.Mail}} {
		if s.share < 0 || s.share > 1 {
			return fmt.Errorf("%s: must be between 0 and 1", s.name)
		}
	}
	return nil
}

// World makes events. It is safe for concurrent use.
type World struct {
	o     Options
	sends float64 // share of the numbers that would be the sending of a message
}

// NewWorld checks the options.
func NewWorld(o Options) (*World, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.From.IsZero() {
		o.From = time.Now()
	}
	o.From = o.From.Truncate(time.Millisecond)
	return &World{o, sendsOf(o.Mail)}, nil
}

// Event is what happens as number n.
type Event struct {
	N        uint64 // of the event itself: one that is sent again has the number of the first
	Kind     Kind
	Profile  int
	Email    bool // which identifiers are given
	External bool
	Metric   int // of Shop
	Time     time.Time
	Value    int // of Shop, in hundredths
	Inbox    int
	Campaign int
	Client   int
	URL      int
	Mail     Mail // of all kinds but Shop
}

// dice are random numbers that depend on seed and n alone (splitmix64).
type dice uint64

func (d *dice) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (d *dice) float() float64 { return float64(d.next()>>11) / (1 << 53) }

// pick draws one of n, the first ones more often.
func (d *dice) pick(n int, skew float64) int {
	return min(int(float64(n)*power(d.float(), skew)), n-1)
}

// power is math.Pow, to the bit: the skews that worlds have must not cost most of an event.
func power(x, y float64) float64 {
	switch y {
	case 2:
		return x * x
	case 3:
		return x * x * x
	}
	return math.Pow(x, y)
}

// Event is number n.
func (w *World) Event(n uint64) Event {
	d, again := w.roll(n)
	if again {
		return w.Event(n - 1 - d.next()%repeatedWithin)
	}
	if w.o.Mail > 0 {
		if e, ok := w.mail(n); ok {
			return e
		}
	}
	return w.shop(n, d)
}

// repeatedWithin is how many events lie between one and its repetition at most.
const repeatedWithin = 1000

// roll begins event n, and tells whether it is an earlier one again.
func (w *World) roll(n uint64) (d dice, again bool) {
	d = dice(w.o.Seed*0x5851f42d4c957f2d + n*0x14057b7ef767814f)
	return d, n > repeatedWithin && d.float() < w.o.Twice
}

// shop is what somebody does in a shop; d comes from roll.
func (w *World) shop(n uint64, d dice) Event {
	o := &w.o
	e := Event{N: n, Profile: d.pick(o.Profiles, o.Skew), Metric: d.pick(o.Metrics, o.Skew), URL: d.pick(o.Values, o.Skew),
		Inbox: d.pick(8, 2), Campaign: d.pick(50, o.Skew), Client: d.pick(12, 2), Value: int(d.next() % 20_000)}
	e.Email = true
	if w.known(e.Profile) {
		both := d.float()
		e.Email, e.External = both < 0.6, both > 0.5
	}
	e.Time = o.From
	if o.Span > 0 {
		e.Time = e.Time.Add(time.Duration(d.float() * float64(o.Span)))
	}
	if d.float() < o.Late {
		e.Time = e.Time.Add(-time.Duration(d.float() * float64(o.LateBy)))
	}
	e.Time = e.Time.Truncate(time.Millisecond)
	return e
}

// known reports whether a profile has an external id.
func (w *World) known(profile int) bool {
	d := dice(w.o.Seed + uint64(profile)*0x9e3779b97f4a7c15)
	return d.float() < w.o.External
}

// UID is the unique id of an event.
func (e *Event) UID() string { return "c" + strconv.FormatUint(e.N, 36) }

// MetricName is the name of a metric of the shop.
func MetricName(metric int) string { return string(appendMetricName(nil, metric)) }

// EmailOf is the address of a profile.
func EmailOf(profile int) string { return string(appendEmail(nil, profile)) }

// ExternalOf is the external id of a profile.
func ExternalOf(profile int) string { return string(appendExternal(nil, profile)) }

// domain is that of all addresses.
const domain = "crowd.test"

func appendMetricName(b []byte, metric int) []byte {
	return strconv.AppendInt(append(b, "Metric "...), int64(metric), 10)
}

func appendEmail(b []byte, profile int) []byte {
	return append(strconv.AppendInt(append(b, 'p'), int64(profile), 10), "@"+domain...)
}

func appendExternal(b []byte, profile int) []byte {
	return strconv.AppendInt(append(b, 'x'), int64(profile), 10)
}

// The names of the dimensions that events have.
const (
	DimInbox    = "Inbox Provider"
	DimCampaign = "Campaign Name"
	DimClient   = "Client Name"
	DimURL      = "URL"
)
