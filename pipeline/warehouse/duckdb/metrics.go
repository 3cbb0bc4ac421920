//go:build cgo

package duckdb

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/meter"
)

type metrics struct {
	events     prometheus.Counter
	duplicates prometheus.Counter
	profiles   prometheus.Counter
	sorted     prometheus.Counter
	seconds    prometheus.Counter
	queries    *prometheus.CounterVec
	set        meter.Set
}

func newMetrics(reg prometheus.Registerer, d *DB) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "godwit_warehouse_" + name, Help: help})
	}
	m := &metrics{
		events:     counter("event_rows_total", "Rows of events written, those of merged profiles again. It needs no action."),
		duplicates: counter("duplicates_total", "Events left out since there was one of the same profile, metric and unique id. Many mean that a client sends things twice."),
		profiles:   counter("profile_rows_total", "Rows of profiles written. Far more than profiles change means that clients send ever changing properties."),
		sorted:     counter("sorted_rows_total", "Rows written anew, sorted by profile. It is a few times the rows of events; it needs no action."),
		seconds:    counter("sort_seconds_total", "Time spent sorting and merging tables. Near one second a second, questions about single profiles become slow: allow more unsorted events, or give the database more memory."),
		queries:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_warehouse_queries_total", Help: "Questions by how they ended: ok, error, busy. Many busy ones: raise pipeline.warehouse.queries, or ask less at once."}, []string{"outcome"}),
	}
	if reg == nil {
		return m, nil
	}
	rows := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "godwit_warehouse_unsorted_rows", Help: "Events that wait to be sorted by profile. Above twice pipeline.warehouse.unsorted, sorting does not keep up."}, d.unsorted)
	return m, m.set.Register(reg, m.events, m.duplicates, m.profiles, m.sorted, m.seconds, m.queries, rows)
}

func (m *metrics) count(p *plan) {
	m.events.Add(float64(len(p.rows)))
	m.profiles.Add(float64(len(p.people)))
	m.duplicates.Add(float64(p.duplicates))
}

func (m *metrics) merged(rows int64, took time.Duration) {
	m.sorted.Add(float64(rows))
	m.seconds.Add(took.Seconds())
}

func (d *DB) unsorted() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return float64(d.events.unsorted())
}
