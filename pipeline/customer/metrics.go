package customer

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/meter"
)

// metrics count what all processors of a process did.
type metrics struct {
	events, duplicates, repeated, stray, damaged, oversize, folded, left, arrived prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "godwit_customer_" + name + "_total", Help: help})
		all = append(all, c)
		return c
	}
	m := &metrics{
		events:     counter("events", "Events stored with their profile."),
		duplicates: counter("duplicates", "Events that were not stored because the profile had one of the metric with the same unique_id."),
		repeated:   counter("repeated", "Records that came a second time, after a crash of the stage that wrote them. It needs no action."),
		stray:      counter("stray", "Records of profiles that were merged or deleted, dropped. None should come: report it if it grows."),
		damaged:    counter("damaged", "Records, or parts of them, that could not be read and were passed over. The log says which: report it."),
		oversize:   counter("oversize", "Changes that were not taken because the profile would have become larger than max_profile."),
		folded:     counter("folded", "Events that were moved into counts per day."),
		left:       counter("merged_away", "Profiles that were merged into others or deleted."),
		arrived:    counter("transfers", "Parts of merged profiles that arrived."),
	}
	var set meter.Set
	return m, set.Register(r, all...)
}
