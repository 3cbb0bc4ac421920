//go:build egress

package egress

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/godwit-mta/godwit/internal/watch"
)

// bound is a limit and whom it is over.
type bound struct {
	name     string
	sources  []string // all if there are none
	provider string
	limit    watch.Limit
	// late is how long before its MAIL a permit may be taken: that of a tenant is
	// when a message is chosen for a connection, and is good for 200 ms then.
	late time.Duration
}

const (
	// starved is the lateness of the simulator's heartbeat by which it shows that processes
	// wait for the machine. The bench has 30 ms for it; there nothing else runs.
	starved = 20 * time.Millisecond
	// slack is how late a message may be under a machine that is starved.
	slack = 100 * time.Millisecond
)

// of makes a bound's groups for watch.
func (w *world) of(b bound) func(netip.Addr, string) (string, bool) {
	return func(from netip.Addr, provider string) (string, bool) {
		if provider != b.provider {
			return "", false
		}
		for _, s := range b.sources {
			if from == w.source(s) {
				return b.name, true
			}
		}
		return b.name, len(b.sources) == 0
	}
}

// overshoot fails the test for each bound that was broken, by the bars of the bench: windows of one
// and ten seconds, connections at a time. Windows of a second in which the machine was starved have slack.
func (w *world) overshoot(r *watch.Record, bounds ...bound) {
	w.t.Helper()
	for _, b := range bounds {
		rep := watch.Analyse(r, watch.Query{Default: b.limit, Group: w.of(b), Stall: starved})
		if len(rep.Groups) != 1 {
			w.t.Errorf("%s: nothing was seen", b.name)
			continue
		}
		g := &rep.Groups[0]
		second := b.limit.InSecond() + math.Ceil(b.limit.Rate*b.late.Seconds())
		most := second + math.Ceil(b.limit.Rate*slack.Seconds())
		w.t.Logf("%s: %d MAILs, worst second %d of %.0f (starved: %d of %.0f), worst ten %d of %.0f, connections %d of %d; %d stalls", b.name, g.Mails,
			g.Second.Worst.N, second, g.Second.Certain.N, most, g.Ten.Worst.N, b.limit.InTen(), g.Open.N, b.limit.Connections, len(rep.Stalls))
		tooMany := b.limit.Rate > 0 && (float64(g.Second.Worst.N) > second || float64(g.Second.Certain.N) > most)
		tooOpen := g.OverOpen() > 1 && !frozen(r, g.Open.At)
		if tooMany || g.OverTen() > 1 || tooOpen {
			var text bytes.Buffer
			_ = rep.WriteText(&text)
			w.t.Errorf("%s: limit %+v is broken: second %+v certain %+v, ten %+v, connections %+v\n%s", b.name, b.limit,
				g.Second.Worst, g.Second.Certain, g.Ten.Worst, g.Open, &text)
		}
	}
}

// frozen reports whether a process stood still at an instant of the record, for so long that the others had begun to use their shares
// (half a second without a heartbeat, and one second more). It cannot close the connections that it has beyond its own share,
// so there may be too many until it goes on; what is sent stays within its limits.
func frozen(r *watch.Record, at time.Duration) bool {
	const shared, recovers = 1500 * time.Millisecond, time.Second
	for i, m := range r.Marks {
		if m.Text == stopped && at >= m.At+shared && (i+1 == len(r.Marks) || at <= r.Marks[i+1].At+recovers) {
			return true
		}
	}
	return false
}

// used is the share of a bound's rate that was used between two instants.
func (w *world) used(r *watch.Record, b bound, from, to time.Time) float64 {
	rep := watch.Analyse(r, watch.Query{Default: b.limit, Group: w.of(b), From: from, To: to})
	if len(rep.Groups) != 1 {
		return 0
	}
	return rep.Groups[0].Use()
}

// mails counts those of a bound between two instants.
func (w *world) mails(r *watch.Record, b bound, from, to time.Time) int {
	rep := watch.Analyse(r, watch.Query{Default: b.limit, Group: w.of(b), From: from, To: to})
	if len(rep.Groups) != 1 {
		return 0
	}
	return rep.Groups[0].InTime
}

// silence is the longest time without a MAIL of a bound between two instants.
func (w *world) silence(r *watch.Record, b bound, from, to time.Time) time.Duration {
	rep := watch.Analyse(r, watch.Query{Default: b.limit, Group: w.of(b), From: from, To: to})
	if len(rep.Groups) != 1 {
		return to.Sub(from)
	}
	return rep.Groups[0].Silence.Length()
}

// marks prints the notes of a record, which say when each fault began.
func (w *world) marks(r *watch.Record) {
	for _, m := range r.Marks {
		w.t.Logf("%8v %s", m.At.Round(time.Millisecond), m.Text)
	}
}

// mark notes what is about to happen and returns the instant.
func (w *world) mark(format string, args ...any) time.Time {
	w.sink.Mark(fmt.Sprintf(format, args...))
	return time.Now()
}

// course lists the MAILs of a bound in each second of the record.
func (w *world) course(r *watch.Record, b bound) (list []int) {
	pick := w.of(b)
	for _, m := range r.Mails {
		c := r.Conns[m.Conn]
		if _, ok := pick(r.Sources[c.Source], r.Providers[c.Provider]); !ok {
			continue
		}
		for at := int(m.At / time.Second); len(list) <= at; {
			list = append(list, 0)
		}
		list[len(list)-1]++
	}
	return list
}
