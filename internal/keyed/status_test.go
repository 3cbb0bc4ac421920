package keyed

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/stream"
)

// gappy is a topic whose end lies beyond the last record of a partition, as where partitions share offsets.
type gappy struct{ stream.Topic }

func (g gappy) End(ctx context.Context, p int32) (int64, error) {
	end, err := g.Topic.End(ctx, p)
	return end + 100, err
}

func TestNoLagWithGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, 1)
		n.o.FS, n.in = vfs.NewMem(), gappy{n.in}
		n.start()
		defer n.stop()
		n.wait(0, n.put(0, "a"))
		synctest.Wait()
		if s := n.w.Status()[0]; s.Lag != 0 || s.Behind != 0 || s.End != 101 || s.Committed != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestMetrics(t *testing.T) {
	n := newNode(t, 2)
	reg := prometheus.NewPedanticRegistry()
	for _, name := range []string{"one", "two"} { // workers share a registry
		s := n.spec()
		s.Name = name
		w, err := NewWorker(n.log, n.o, s, Deps{Registerer: reg})
		if err != nil {
			t.Fatal(err)
		}
		n.w = w
	}
	if _, err := reg.Gather(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.w.Run(ctx) }()
	n.wait(0, n.put(0, "a", "b"))
	if err := n.w.Snapshot(ctx, 0); err != nil {
		t.Fatal(err)
	}
	got, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range got {
		for _, m := range f.Metric {
			key := f.GetName()
			for _, l := range m.Label {
				key += " " + l.GetValue()
			}
			values[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for key, want := range map[string]float64{
		"godwit_keyed_records_total two 0": 2, "godwit_keyed_lag_records two 0": 0, "godwit_keyed_state two 0": 3, "godwit_keyed_state one 0": 0,
		"godwit_keyed_snapshots_total two 0 made": 1, "godwit_keyed_restores_total two 0 log": 1,
	} {
		if v, ok := values[key]; !ok || v != want {
			t.Errorf("%s is %v, want %v", key, v, want)
		}
	}
	if values["godwit_keyed_disk_bytes two 0"] == 0 {
		t.Error("no size on disk")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBadOptions(t *testing.T) {
	n := newNode(t, 1)
	for text, change := range map[string]func(*Options, *Spec){
		"dir is empty":         func(o *Options, _ *Spec) { o.Dir = "" },
		"snapshots lies":       func(o *Options, _ *Spec) { o.Snapshots = o.Dir + "/snaps" },
		"window is negative":   func(o *Options, _ *Spec) { o.Window = -1 },
		"memtable is from":     func(o *Options, _ *Spec) { o.MemTable = 5 },
		"records is negative":  func(o *Options, _ *Spec) { o.Records = -1 },
		`name "a/b"`:           func(_ *Options, s *Spec) { s.Name = "a/b" },
		"input and new":        func(_ *Options, s *Spec) { s.New = nil },
		"count: window is neg": func(_ *Options, s *Spec) { s.Window = -1 },
	} {
		o, s := n.o, n.spec()
		change(&o, &s)
		if _, err := NewWorker(n.log, o, s, Deps{}); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
