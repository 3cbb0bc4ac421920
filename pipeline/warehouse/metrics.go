package warehouse

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	facts    prometheus.Counter
	events   prometheus.Counter
	repeated prometheus.Counter
	damaged  prometheus.Counter
	merges   prometheus.Counter
	seconds  prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "godwit_warehouse_" + name, Help: help})
	}
	m := &metrics{
		facts:    counter("facts_total", "Facts read from the log for the warehouse. It follows the rate of the API; if it stands still while the log grows, see the lag and the log."),
		events:   counter("events_total", "Events given to the warehouse, duplicates included. It needs no action."),
		repeated: counter("repeated_total", "Facts that came a second time, as a stage repeats some after a crash, and were left out. It needs no action."),
		damaged:  counter("damaged_total", "Records of the log that are no facts and were left out. Any is a defect of the disk or the program: keep the log and report it."),
		merges:   counter("merges_total", "Profiles that were merged into others or deleted. It needs no action."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "godwit_warehouse_append_seconds", Help: "Time to store the facts of one window. Above the window the warehouse falls behind: give it a longer window or a faster disk.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.facts, m.events, m.repeated, m.damaged, m.merges, m.seconds} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) stored(took time.Duration, events int) {
	m.seconds.Observe(took.Seconds())
	m.events.Add(float64(events))
}
