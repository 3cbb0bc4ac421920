package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// figure is a number that the benchmark yields.
type figure struct {
	name string
	unit string
	bar  string // what it should be, "" when it has no bar
}

// figures lists all of them in the order in which they are printed.
func figures() []figure { return slices.Concat(relayFigures(), egressFigures(), pipelineFigures()) }

func relayFigures() []figure {
	return []figure{
		{"relay.cpu_us_per_msg.plain", "us", "<= 170"},
		{"relay.cpu_us_per_msg.dkim", "us", "<= 480"},
		{"relay.cpu_vs_smtp_source.plain", "ratio", "<= 3.5"},
		{"relay.cpu_vs_smtp_source.dkim", "ratio", "<= 10"},
		{"relay.e2e.plain", "msg/s", ">= 4500"},
		{"relay.e2e.plain.vs_floor", "ratio", ""},
		{"relay.e2e.plain.vs_postfix", "ratio", ""},
		{"relay.e2e.dkim", "msg/s", ">= 2600"},
		{"relay.e2e.dkim.vs_floor", "ratio", ""},
		{"relay.e2e.dkim.vs_postfix", "ratio", ""},
		{"relay.e2e.plain_100", "msg/s", ">= 7000"},
		{"relay.e2e.plain_100.vs_floor", "ratio", ""},
		{"relay.e2e.plain_100.vs_postfix", "ratio", ""},
		{"relay.accept", "msg/s", ">= 8000"},
		{"relay.accept.p99", "ms", "<= 15"},
		{"relay.latency.p99", "ms", "< 20"},
		{"relay.fsyncs_per_msg.1", "fsync/msg", ""},
		{"relay.fsyncs_per_msg.20", "fsync/msg", ""},
		{"relay.fsyncs_per_msg.200", "fsync/msg", ""},
		{"relay.http_batch", "rcpt/s", ">= 10000"},
		{"relay.http_batch.spool_bytes_per_rcpt", "bytes", "< 400"},
		{"relay.scheduled_1m.anon", "MiB", "< 300"},
		{"relay.scheduled_1m.anon_cgroup512", "MiB", "< 300"},
		{"relay.scheduled_1m.restart", "s", "< 5"},
		{"relay.scheduled_1m.insert", "msg/s", ""},
		{"relay.uploads_200.anon", "MiB", "< 512"},
		// Not the engine's: what the figures above are held against.
		{"relay.source_cpu_us_per_msg", "us", ""},
		{"relay.smtp_source_cpu_us_per_msg", "us", ""},
		{"relay.openssl_rsa2048_us", "us", ""},
		{"relay.floor", "msg/s", ""},
		{"relay.floor_100", "msg/s", ""},
		{"relay.postfix", "msg/s", ""},
		{"relay.postfix_dkim", "msg/s", ""},
		{"relay.postfix_100", "msg/s", ""},
	}
}

// board collects figures, round by round.
type board struct {
	now  map[string]float64   // this round's
	past map[string][]float64 // of all rounds that ended
}

func newBoard() *board { return &board{now: map[string]float64{}, past: map[string][]float64{}} }

func (b *board) set(name string, value float64) { b.now[name] = value }

// ratios computes the figures that are quotients of two figures of the same round.
func (b *board) ratios() {
	for _, q := range [][3]string{
		{"relay.e2e.plain.vs_floor", "relay.e2e.plain", "relay.floor"},
		{"relay.e2e.dkim.vs_floor", "relay.e2e.dkim", "relay.floor"},
		{"relay.e2e.plain_100.vs_floor", "relay.e2e.plain_100", "relay.floor_100"},
		{"relay.e2e.plain.vs_postfix", "relay.e2e.plain", "relay.postfix"},
		{"relay.e2e.dkim.vs_postfix", "relay.e2e.dkim", "relay.postfix_dkim"},
		{"relay.e2e.plain_100.vs_postfix", "relay.e2e.plain_100", "relay.postfix_100"},
		{"egress.proxy_ratio", "egress.relay_proxy", "egress.relay_direct"},
	} {
		a, okA := b.now[q[1]]
		c, okC := b.now[q[2]]
		if okA && okC && c > 0 {
			b.now[q[0]] = a / c
		}
	}
}

func (b *board) endRound() {
	for name, v := range b.now {
		b.past[name] = append(b.past[name], v)
	}
	clear(b.now)
}

// print writes the table with ranges and then the BENCH lines.
func (b *board) print(w io.Writer) {
	var lines strings.Builder
	fmt.Fprintf(w, "\n%-42s %10s %-10s %-25s %s\n", "figure", "median", "unit", "lowest - highest (n)", "bar")
	for _, f := range b.known() {
		values := b.past[f.name]
		if len(values) == 0 {
			continue
		}
		slices.Sort(values)
		m := median(values)
		verdict := f.bar
		if f.bar != "" && !meets(m, f.bar) {
			verdict += "  MISSED"
		}
		spread := fmt.Sprintf("%s - %s (%d)", short(values[0]), short(values[len(values)-1]), len(values))
		fmt.Fprintf(w, "%-42s %10s %-10s %-25s %s\n", f.name, short(m), f.unit, spread, verdict)
		fmt.Fprintf(&lines, "BENCH %s %s %s\n", f.name, short(m), f.unit)
	}
	fmt.Fprintf(w, "\n%s", lines.String())
}

// known lists the figures, and behind them those that only a shortened run has.
func (b *board) known() []figure {
	list := figures()
	var more []figure
	for name := range b.past {
		if !slices.ContainsFunc(list, func(f figure) bool { return f.name == name }) {
			more = append(more, figure{name: name, unit: "(shortened)"})
		}
	}
	slices.SortFunc(more, func(a, c figure) int { return strings.Compare(a.name, c.name) })
	return append(list, more...)
}

// median of sorted values; of an even number the mean of the middle two.
func median(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// short prints about four digits.
func short(v float64) string {
	switch {
	case v >= 1000:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// meets compares with a bar such as "<= 170".
func meets(v float64, bar string) bool {
	sign, number, _ := strings.Cut(bar, " ")
	limit, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return false
	}
	switch sign {
	case "<":
		return v < limit
	case "<=":
		return v <= limit
	}
	return v >= limit
}
