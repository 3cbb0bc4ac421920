package watch

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
)

const (
	// StallLimit is the lateness of the heartbeat from which on windows of a second are exempt.
	StallLimit = 30 * time.Millisecond

	tolerance = 1.02 // of a rate, in any window
	leastUse  = 0.95
)

// Limit is what a group was allowed. A zero field is no limit.
type Limit struct {
	Rate        float64 `json:"rate,omitempty"`        // MAILs a second
	Connections int     `json:"connections,omitempty"` // at a time
}

// InSecond is the highest count allowed in any sliding second: ceil(1.02 R) + 1.
func (l Limit) InSecond() float64 { return math.Ceil(decimal(tolerance*l.Rate)) + 1 }

// InTen is the highest count allowed in any sliding ten seconds: 1.02 * 10 R. A count is whole, so it may hold a fraction.
func (l Limit) InTen() float64 { return decimal(tolerance * 10 * l.Rate) }

// decimal rounds to six places: 1.02 * 10 * 100 would be less than 1020, and a count of 1020 a fault.
func decimal(x float64) float64 { return math.Round(x*1e6) / 1e6 }

// Query says how to judge a record.
type Query struct {
	// Limits are what each group was allowed, by name. A group that is named here
	// and did nothing is judged too. Default is for all others.
	Limits  map[string]Limit
	Default Limit
	// From and To bound the time in which use is judged; zero is the first and behind the last MAIL.
	From, To time.Time
	// Less are times that do not count for use, such as the 5 s after each kill:
	// of all groups, and of the group of that name.
	Less   []Span
	LessOf map[string][]Span
	// Group names the group of a connection; ok false leaves it out. Nil is GroupBySource.
	Group func(source netip.Addr, provider string) (name string, ok bool)
	Stall time.Duration // lateness of the heartbeat that counts as a stall; 0 for StallLimit
}

// GroupBySource makes a group of each source at each provider: "127.0.0.2 open".
func GroupBySource(source netip.Addr, provider string) (string, bool) {
	return source.String() + " " + provider, true
}

// Less5s are the five seconds after each of the instants.
func (r *Record) Less5s(kills ...time.Time) []Span {
	var out []Span
	for _, k := range kills {
		at := r.Since(k)
		out = append(out, Span{at, at + 5*time.Second})
	}
	return out
}

// Report is what Analyse found.
type Report struct {
	Start    time.Time `json:"start"`
	Run      Span      `json:"run"`      // in which use is judged
	Complete bool      `json:"complete"` // the record has an end
	Stalls   []Span    `json:"stalls"`
	Blind    []Span    `json:"blind"` // without a heartbeat on record
	Groups   []Group   `json:"groups"`
}

// Group is what a provider, or several, saw of a source, or several.
type Group struct {
	Name   string  `json:"name"`
	Limit  Limit   `json:"limit"`
	Mails  int     `json:"mails"`
	Not    int     `json:"not_accepted"` // of the MAILs
	Second Windows `json:"second"`
	Ten    Windows `json:"ten"`

	Conns         int     `json:"connections"`    // in all
	Open          Peak    `json:"open"`           // most at a time
	OpenInStall   bool    `json:"open_in_stall"`  // that was in a stall, or as long after it as it lasted
	ConnectSecond Windows `json:"connect_second"` // new connections
	PerConn       int     `json:"per_connection"` // most MAILs on one

	Judged  time.Duration `json:"judged_ns"` // the part of the run that counts for use
	InTime  int           `json:"in_time"`   // MAILs in it
	Silence Span          `json:"silence"`   // longest time of the run without a MAIL
}

// Analyse judges a record.
func Analyse(r *Record, q Query) *Report {
	q.setDefaults(r)
	rep := &Report{Start: r.Start, Run: Span{r.Since(q.From), r.Since(q.To)}, Complete: r.Complete,
		Stalls: r.Stalls(q.Stall), Blind: r.Blind()}
	zones := zonesOf(rep.Stalls)
	for _, m := range members(r, &q) {
		g := m.group(r, zones)
		g.Limit = q.Default
		if l, ok := q.Limits[m.name]; ok {
			g.Limit = l
		}
		less := slices.Concat(q.Less, q.LessOf[m.name])
		g.Judged, g.InTime = judged(m.mails, rep.Run, less)
		g.Silence = silence(m.mails, rep.Run)
		rep.Groups = append(rep.Groups, g)
	}
	return rep
}

func (q *Query) setDefaults(r *Record) {
	if q.Group == nil {
		q.Group = GroupBySource
	}
	if q.Stall == 0 {
		q.Stall = StallLimit
	}
	first, behind := time.Duration(0), time.Duration(0)
	if n := len(r.Mails); n > 0 {
		first, behind = r.Mails[0].At, r.Mails[n-1].At+1
	}
	if q.From.IsZero() {
		q.From = r.Start.Add(first)
	}
	if q.To.IsZero() {
		q.To = r.Start.Add(behind)
	}
}

// member is what belongs to a group, in order.
type member struct {
	name  string
	mails []time.Duration
	not   int
	conns []int // numbers
	sent  []int // MAILs of each
}

// members sorts a record into groups, in the order of their names.
func members(r *Record, q *Query) []*member {
	byName := map[string]*member{}
	get := func(name string) *member {
		m := byName[name]
		if m == nil {
			m = &member{name: name}
			byName[name] = m
		}
		return m
	}
	for name := range q.Limits {
		get(name)
	}
	of, place := make([]*member, len(r.Conns)), make([]int, len(r.Conns))
	for i, c := range r.Conns {
		name, ok := q.Group(r.Sources[c.Source], r.Providers[c.Provider])
		if !ok {
			continue
		}
		m := get(name)
		of[i], place[i] = m, len(m.conns)
		m.conns = append(m.conns, i)
		m.sent = append(m.sent, 0)
	}
	for _, mail := range r.Mails {
		m := of[mail.Conn]
		if m == nil {
			continue
		}
		m.mails = append(m.mails, mail.At)
		m.sent[place[mail.Conn]]++
		if mail.Verdict != Accepted {
			m.not++
		}
	}
	out := make([]*member, 0, len(byName))
	for _, m := range byName {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *member) int { return cmp.Compare(a.name, b.name) })
	return out
}

func (m *member) group(r *Record, zones []zone) Group {
	opens := make([]time.Duration, len(m.conns))
	for i, c := range m.conns {
		opens[i] = r.Conns[c].Open
	}
	g := Group{
		Name: m.name, Mails: len(m.mails), Not: m.not, Conns: len(m.conns),
		Second: slide(m.mails, time.Second, zones), Ten: slide(m.mails, 10*time.Second, nil),
		ConnectSecond: slide(opens, time.Second, zones),
		Open:          mostOpen(r.Conns, m.conns),
	}
	g.OpenInStall = g.Open.N > 0 && touches(zones, g.Open.At, g.Open.At+1)
	for _, n := range m.sent {
		g.PerConn = max(g.PerConn, n)
	}
	return g
}

// mostOpen is the highest number of the connections that are open at a time.
// The order is that of the file, in which no two things happen at once.
func mostOpen(conns []Conn, which []int) Peak {
	type step struct {
		order, change int
		at            time.Duration
	}
	steps := make([]step, 0, 2*len(which))
	for _, i := range which {
		c := &conns[i]
		steps = append(steps, step{c.opened, 1, c.Open})
		if c.Closed {
			steps = append(steps, step{c.closed, -1, c.Close})
		}
	}
	slices.SortFunc(steps, func(a, b step) int { return cmp.Compare(a.order, b.order) })
	var p Peak
	open := 0
	for _, s := range steps {
		open += s.change
		p.raise(open, s.at)
	}
	return p
}

// judged returns the length of run without the spans of less, and how many of the events lie in it.
func judged(at []time.Duration, run Span, less []Span) (length time.Duration, n int) {
	less = slices.Clone(less)
	slices.SortFunc(less, func(a, b Span) int { return cmp.Compare(a.From, b.From) })
	from := run.From
	for _, l := range append(less, Span{run.To, run.To}) {
		if to := min(l.From, run.To); to > from {
			length += to - from
			n += within(at, Span{from, to})
		}
		from = max(from, l.To)
	}
	return length, n
}

// within counts events in a span.
func within(at []time.Duration, s Span) int {
	from, _ := slices.BinarySearch(at, s.From)
	to, _ := slices.BinarySearch(at, s.To)
	return max(0, to-from)
}

// silence is the longest part of the run without an event.
func silence(at []time.Duration, run Span) Span {
	longest := Span{run.From, run.From}
	last := run.From
	for _, t := range at {
		if t <= run.From || t >= run.To {
			continue
		}
		if t-last > longest.Length() {
			longest = Span{last, t}
		}
		last = t
	}
	if run.To-last > longest.Length() {
		longest = Span{last, run.To}
	}
	return longest
}

// Use is the share of what was allowed in the judged time that was used; 0 without a rate or time.
func (g *Group) Use() float64 { return ratio(float64(g.InTime), g.Limit.Rate*g.Judged.Seconds()) }

// OverSecond is the worst count of a sliding second over what is allowed: at most 1 is good; 0 without a rate.
// It takes windows that touch no stall, and the certain part of all others.
func (g *Group) OverSecond() float64 {
	if g.Limit.Rate <= 0 {
		return 0
	}
	return float64(max(g.Second.Worst.N, g.Second.Certain.N)) / g.Limit.InSecond()
}

// OverTen is the worst count of ten sliding seconds over what is allowed, stalls or not.
func (g *Group) OverTen() float64 { return ratio(float64(g.Ten.Worst.N), g.Limit.InTen()) }

// OverOpen is the most connections at a time over what is allowed.
func (g *Group) OverOpen() float64 { return ratio(float64(g.Open.N), float64(g.Limit.Connections)) }

func ratio(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

// Faults lists what breaks a limit or makes the record unfit to tell, one sentence each.
func (rep *Report) Faults() []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if !rep.Complete {
		say("the record has no end")
	}
	for _, s := range rep.Blind {
		say("no heartbeat is on record from %v to %v", short(s.From), short(s.To))
	}
	for i := range rep.Groups {
		g := &rep.Groups[i]
		if g.OverSecond() > 1 {
			worst := worse(g.Second.Worst, g.Second.Certain)
			say("%s: %d MAILs in the second from %v, %.0f are allowed", g.Name, worst.N, short(worst.At), g.Limit.InSecond())
		}
		if g.OverTen() > 1 {
			say("%s: %d MAILs in the ten seconds from %v, %.1f are allowed", g.Name, g.Ten.Worst.N, short(g.Ten.Worst.At), g.Limit.InTen())
		}
		if g.OverOpen() > 1 {
			say("%s: %d connections at %v, %d are allowed", g.Name, g.Open.N, short(g.Open.At), g.Limit.Connections)
		}
		switch {
		case g.Limit.Rate > 0 && g.Judged <= 0:
			say("%s: no time is left in which to judge its use", g.Name)
		case g.Limit.Rate > 0 && g.Use() < leastUse:
			say("%s: used %.1f %% of its rate", g.Name, 100*g.Use())
		}
	}
	return out
}
