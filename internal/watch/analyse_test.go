package watch

import (
	"bytes"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// steady is a record of one source that sends rate MAILs a second on one connection for some seconds, heart and all.
func steady(rate, seconds int) *Record {
	r := &Record{
		Start: time.Unix(1_800_000_000, 0), Period: DefaultPeriod, Complete: true,
		Sources: []netip.Addr{netip.MustParseAddr("127.0.0.2")}, Providers: []string{"open"},
		Conns: []Conn{{}}, End: time.Duration(seconds) * time.Second,
	}
	for i := range rate * seconds {
		r.Mails = append(r.Mails, Mail{At: time.Duration(i) * time.Second / time.Duration(rate)})
	}
	for i := range seconds {
		r.Beats = append(r.Beats, Beat{time.Duration(i+1) * time.Second, DefaultPeriod})
	}
	return r
}

const group = "127.0.0.2 open"

func TestLimits(t *testing.T) {
	for _, tt := range []struct{ rate, second, ten float64 }{
		{10, 12, 102}, {100, 103, 1020}, {1000, 1021, 10200}, {50, 52, 510}, {150, 154, 1530}, {1, 3, 10.2}, {0.5, 2, 5.1}, {12.5, 14, 127.5},
	} {
		l := Limit{Rate: tt.rate}
		if l.InSecond() != tt.second || l.InTen() != tt.ten {
			t.Errorf("R=%v: %v and %v, want %v and %v", tt.rate, l.InSecond(), l.InTen(), tt.second, tt.ten)
		}
	}
}

func TestSteadyIsGood(t *testing.T) {
	r := steady(100, 60)
	rep := Analyse(r, Query{Limits: map[string]Limit{group: {100, 1}}})
	if f := rep.Faults(); len(f) != 0 {
		t.Fatal(f)
	}
	g := rep.Groups[0]
	if g.Second.Worst.N != 100 || g.Ten.Worst.N != 1000 || g.Open.N != 1 || g.PerConn != 6000 || g.Mails != 6000 || g.Conns != 1 {
		t.Errorf("%+v", g)
	}
	if use := g.Use(); use < 1 || use > 1.001 {
		t.Errorf("use %v", use)
	}
	if g.OverSecond() != 100.0/103 || g.OverTen() != 1000.0/1020 || g.OverOpen() != 1 {
		t.Error(g.OverSecond(), g.OverTen(), g.OverOpen())
	}
	if g.Silence.Length() != 10*time.Millisecond {
		t.Errorf("silence %v", g.Silence)
	}
}

// TestFaults: each bar is broken by one MAIL, connection or moment, and only then.
func TestFaults(t *testing.T) {
	insert := func(r *Record, at time.Duration, n int) {
		for range n {
			r.Mails = append(r.Mails, Mail{At: at})
		}
		slices.SortStableFunc(r.Mails, func(a, b Mail) int { return int(a.At - b.At) })
	}
	tests := []struct {
		name   string
		change func(r *Record, q *Query)
		want   string // of the only fault
	}{
		{"three more in a second", func(r *Record, _ *Query) { insert(r, 30*time.Second, 3) }, ""},
		{"four more in a second", func(r *Record, _ *Query) { insert(r, 30*time.Second, 4) }, group + ": 104 MAILs in the second from "},
		{"two more in each second", func(r *Record, _ *Query) {
			for i := range 10 {
				insert(r, 20*time.Second+time.Duration(i)*time.Second, 2)
			}
		}, ""},
		{"and one", func(r *Record, _ *Query) {
			for i := range 10 {
				insert(r, 20*time.Second+time.Duration(i)*time.Second, 2)
			}
			insert(r, 24500*time.Millisecond, 1)
		}, group + ": 1021 MAILs in the ten seconds from 19.01s, 1020.0 are allowed"},
		{"a burst behind a stall", func(r *Record, _ *Query) {
			r.Mails = slices.DeleteFunc(r.Mails, func(m Mail) bool { return m.At >= 30*time.Second && m.At < 30100*time.Millisecond })
			insert(r, 30100*time.Millisecond, 10)
			r.Beats = slices.Insert(r.Beats, 30, Beat{30100 * time.Millisecond, 100 * time.Millisecond})
		}, ""},
		{"more than can have queued", func(r *Record, _ *Query) {
			r.Mails = slices.DeleteFunc(r.Mails, func(m Mail) bool { return m.At >= 30*time.Second && m.At < 30100*time.Millisecond })
			insert(r, 30100*time.Millisecond, 20)
			r.Beats = slices.Insert(r.Beats, 30, Beat{30100 * time.Millisecond, 100 * time.Millisecond})
		}, group + ": 1"},
		{"a second connection", func(r *Record, _ *Query) {
			r.Conns = append(r.Conns, Conn{Open: 5 * time.Second, opened: 1})
		}, group + ": 2 connections at 5s, 1 are allowed"},
		{"one that was turned away counts", func(r *Record, _ *Query) {
			r.Conns = append(r.Conns, Conn{Open: 5 * time.Second, opened: 1, Closed: true, Close: 5 * time.Second, closed: 2, Verdict: Limited})
		}, group + ": 2 connections"},
		{"a successor at the same instant", func(r *Record, _ *Query) {
			r.Conns[0] = Conn{Closed: true, Close: 60 * time.Second, closed: 5}
			r.Conns = append(r.Conns, Conn{Open: 60 * time.Second, opened: 6})
		}, ""},
		{"too little", func(_ *Record, q *Query) {
			q.To = time.Unix(1_800_000_000+64, 0)
		}, group + ": used 93.8 % of its rate"},
		{"too little, excused", func(r *Record, q *Query) {
			q.To = time.Unix(1_800_000_000+64, 0)
			q.LessOf = map[string][]Span{group: r.Less5s(r.Start.Add(60 * time.Second))}
		}, ""},
		{"no time left", func(_ *Record, q *Query) { q.Less = []Span{{0, time.Hour}} }, group + ": no time is left"},
		{"a group that never came", func(_ *Record, q *Query) { q.Limits["127.0.0.9 open"] = Limit{Rate: 1} }, "127.0.0.9 open: used 0.0 % of its rate"},
		{"no end", func(r *Record, _ *Query) { r.Complete = false }, "the record has no end"},
		{"no heart", func(r *Record, _ *Query) { r.Beats = slices.Delete(r.Beats, 10, 12) }, "no heartbeat is on record from 10s to 12.995s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, q := steady(100, 60), Query{Limits: map[string]Limit{group: {100, 1}}}
			tt.change(r, &q)
			rep := Analyse(r, q)
			f := rep.Faults()
			if tt.want == "" && len(f) != 0 || tt.want != "" && (len(f) != 1 || !strings.HasPrefix(f[0], tt.want)) {
				t.Errorf("faults %q, want %q", f, tt.want)
			}
			var text bytes.Buffer
			if err := rep.WriteText(&text); err != nil || strings.Count(text.String(), "FAULT") != len(f) {
				t.Errorf("%v\n%s", err, text.String())
			}
		})
	}
}

// TestGroupsSpanSources: the limit of a pool counts over its sources; what no group wants is left out.
func TestGroupsSpanSources(t *testing.T) {
	r := steady(10, 10)
	r.Sources = append(r.Sources, netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.4"))
	r.Conns = append(r.Conns, Conn{Source: 1, Open: time.Second, opened: 1}, Conn{Source: 2, Open: time.Second, opened: 2})
	for i := range r.Mails {
		r.Mails[i].Conn = i % 3
		if i%4 == 0 {
			r.Mails[i].Verdict = Limited
		}
	}
	rep := Analyse(r, Query{Default: Limit{Rate: 7, Connections: 2}, Group: func(s netip.Addr, provider string) (string, bool) {
		return "pool at " + provider, s.String() != "127.0.0.4"
	}})
	if len(rep.Groups) != 1 {
		t.Fatalf("%+v", rep.Groups)
	}
	g := rep.Groups[0]
	if g.Name != "pool at open" || g.Mails != 67 || g.Not != 17 || g.Open.N != 2 || g.Conns != 2 || g.PerConn != 34 || g.Second.Worst.N != 7 {
		t.Errorf("%+v", g)
	}
}

func TestOpenInStall(t *testing.T) {
	r := steady(10, 10)
	r.Conns = append(r.Conns, Conn{Open: 2050 * time.Millisecond, opened: 1})
	r.Beats = slices.Insert(r.Beats, 2, Beat{2049 * time.Millisecond, 47 * time.Millisecond})
	rep := Analyse(r, Query{})
	if g := rep.Groups[0]; g.Open.N != 2 || !g.OpenInStall || len(rep.Stalls) != 1 {
		t.Errorf("%+v %v", g.Open, rep.Stalls)
	}
}

// TestJudgedAgainstNaive counts nanoseconds and events one by one.
func TestJudgedAgainstNaive(t *testing.T) {
	span := rapid.Custom(func(t *rapid.T) Span {
		from := rapid.Int64Range(-5, 60).Draw(t, "from")
		return Span{time.Duration(from), time.Duration(from + rapid.Int64Range(0, 30).Draw(t, "length"))}
	})
	has := func(s Span, t time.Duration) bool { return t >= s.From && t < s.To }
	rapid.Check(t, func(t *rapid.T) {
		run := span.Draw(t, "run")
		less := rapid.SliceOfN(span, 0, 4).Draw(t, "less")
		raw := rapid.SliceOfN(rapid.Int64Range(0, 80), 0, 30).Draw(t, "at")
		slices.Sort(raw)
		var at []time.Duration
		for _, v := range raw {
			at = append(at, time.Duration(v))
		}
		counts := func(t time.Duration) bool {
			return has(run, t) && !slices.ContainsFunc(less, func(s Span) bool { return has(s, t) })
		}
		length, n := time.Duration(0), 0
		for x := time.Duration(-10); x < 120; x++ {
			if counts(x) {
				length++
			}
		}
		for _, v := range at {
			if counts(v) {
				n++
			}
		}
		if gotLength, gotN := judged(at, run, less); gotLength != length || gotN != n {
			t.Fatalf("got %d and %d, want %d and %d", gotLength, gotN, length, n)
		}
		longest := time.Duration(0)
		quiet := run.From
		for _, v := range append(slices.Clone(at), run.To) {
			if v > run.From && v <= run.To {
				longest = max(longest, v-quiet)
				quiet = v
			}
		}
		if got := silence(at, run).Length(); got != longest {
			t.Fatalf("silence %d, want %d", got, longest)
		}
	})
}

// TestOpenAgainstNaive counts at every step of a random history.
func TestOpenAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var conns []Conn
		var open []int
		most, mine := 0, 0
		which := []int{}
		for order := range rapid.IntRange(0, 60).Draw(t, "steps") {
			at := time.Duration(order / 3) // equal stamps are common
			if len(open) > 0 && rapid.Bool().Draw(t, "close") {
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				c := &conns[open[i]]
				c.Close, c.Closed, c.closed = at, true, order
				if c.Source == 0 {
					mine--
				}
				open = slices.Delete(open, i, i+1)
				continue
			}
			source := rapid.IntRange(0, 1).Draw(t, "source")
			conns = append(conns, Conn{Source: source, Open: at, opened: order})
			open = append(open, len(conns)-1)
			if source == 0 {
				which = append(which, len(conns)-1)
				mine++
				most = max(most, mine)
			}
		}
		if got := mostOpen(conns, which); got.N != most {
			t.Fatalf("got %d, want %d", got.N, most)
		}
	})
}

func TestVerdictNames(t *testing.T) {
	var names []string
	for v := range verdicts + 1 {
		names = append(names, v.String())
	}
	if want := []string{"accepted", "limited", "blocked", "refused", "verdict 4"}; !reflect.DeepEqual(names, want) {
		t.Error(names)
	}
}
