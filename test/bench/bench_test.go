package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

func TestBoard(t *testing.T) {
	b := newBoard()
	for _, v := range []float64{300, 100, 200} {
		b.set("relay.e2e.plain", v)
		b.set("relay.floor", 1000)
		b.ratios()
		b.endRound()
	}
	b.set("relay.cpu_us_per_msg.plain", 200)
	b.set("relay.scheduled_100k.anon", 50)
	b.ratios()
	b.endRound()
	var out bytes.Buffer
	b.print(&out)
	for _, want := range []string{
		"BENCH relay.e2e.plain 200.0 msg/s\n", "BENCH relay.e2e.plain.vs_floor 0.200 ratio\n",
		"BENCH relay.cpu_us_per_msg.plain 200.0 us\n", "100.0 - 300.0 (3)", "<= 170  MISSED", ">= 4500  MISSED",
		"BENCH relay.scheduled_100k.anon 50.0 (shortened)\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "relay.accept") {
		t.Error("a figure that was not measured is printed")
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{4}, 4}, {[]float64{1, 2}, 1.5}, {[]float64{1, 5, 9}, 5}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

func TestMeets(t *testing.T) {
	for bar, want := range map[string][3]bool{"<= 10": {true, true, false}, "< 10": {true, false, false}, ">= 10": {false, true, true}} {
		for i, v := range []float64{9, 10, 11} {
			if meets(v, bar) != want[i] {
				t.Errorf("meets(%v, %q) = %v", v, bar, !want[i])
			}
		}
	}
	for _, f := range figures() {
		if f.bar != "" && meets(-1e9, f.bar) == meets(1e9, f.bar) {
			t.Errorf("%s: the bar %q cannot be read", f.name, f.bar)
		}
	}
}

func TestMetrics(t *testing.T) {
	m := metrics{}
	for line := range strings.Lines("# HELP x y\nlog_syncs{log=\"a\"} 3\nlog_syncs{log=\"b\"} 4\nup 1\n") {
		m.add(strings.TrimSpace(line))
	}
	if m["log_syncs"] != 7 || m[`log_syncs{log="b"}`] != 4 || m["up"] != 1 {
		t.Error(m)
	}
	if d := m.minus(metrics{"up": 1, "log_syncs": 2}); d["up"] != 0 || d["log_syncs"] != 5 {
		t.Error(d)
	}
}

func TestShares(t *testing.T) {
	p := newShares()
	p.read(`File: godwit
Type: cpu
-----------+-------------------------------------------------------
      30ms   internal/runtime/syscall/linux.Syscall6
             syscall.Syscall
             net.(*conn).Write
             github.com/godwit-mta/godwit/mta/smtp.(*conn).flush (inline)
             github.com/godwit-mta/godwit/mta/smtp.(*conn).serve
-----------+-------------------------------------------------------
      10ms   runtime.scanobject
             runtime.gcDrain
             runtime.gcBgMarkWorker
-----------+-------------------------------------------------------
`)
	if p.total != 40*time.Millisecond {
		t.Error(p.total)
	}
	f := p.functions["github.com/godwit-mta/godwit/mta/smtp.(*conn).flush"]
	if f == nil || f.all != 30*time.Millisecond || f.system != f.all {
		t.Errorf("%+v", f)
	}
	if g := p.packages["runtime"]; g == nil || g.all != 10*time.Millisecond || g.system != 0 {
		t.Errorf("%+v of %v", g, p.packages)
	}
}

func TestProcess(t *testing.T) {
	if _, err := cpuOf(os.Getpid()); err != nil {
		t.Error(err)
	}
	if n, err := memoryOf(os.Getpid(), "RssAnon"); err != nil || n <= 0 {
		t.Error(n, err)
	}
	h, err := readHost()
	if err != nil || h.all <= 0 || h.busy > h.all {
		t.Error(h, err)
	}
	after := host{busy: h.busy + 3*time.Second, all: h.all + 4*time.Second, stolen: h.stolen + time.Second}
	if foreign, steal := disturbance(h, after, time.Second); foreign != 50 || steal != 25 {
		t.Error(foreign, steal)
	}
}

func TestFilesystem(t *testing.T) {
	if kind, err := filesystem("/dev/shm"); err == nil {
		t.Errorf("/dev/shm is taken as %s", kind)
	}
}

func TestFlags(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	o, err := parse(suiteRelay, []string{"-godwit", exe, "-quick", "-only", "plain,floor"}, &out)
	if err != nil || o.rounds != 1 || o.load != 5*time.Second || len(o.only) != 2 {
		t.Error(o, err, out.String())
	}
	for _, args := range [][]string{{"-only", "plane"}, {"-rounds", "0"}, {"-seconds", "0.1"}, {"-godwit", "/nonexistent"}} {
		if o, err := parse(suiteRelay, append([]string{"-godwit", exe}, args...), &out); err == nil {
			t.Errorf("%v was taken: %+v", args, o)
		}
	}
}
