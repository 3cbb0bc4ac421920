package account

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/meter"
)

// counts are what a processor did since it told the metrics.
type counts struct {
	events, repeated, moved, conflicts, stray, merges, deletions, lookups, rows, bytes int
}

// metrics count what all processors of a process did. After a crash what is done again is counted again.
type metrics struct {
	events, repeated, moved, conflicts, stray, merges, deletions, lookups, rows, bytes prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "godwit_account_" + name + "_total", Help: help})
		all = append(all, c)
		return c
	}
	m := &metrics{
		events:    counter("events", "Events counted, those that came by merges not among them."),
		repeated:  counter("repeated", "Events that were not counted because the profile had one of the metric with the same unique_id."),
		moved:     counter("moved_events", "Events that arrived with a merged profile."),
		conflicts: counter("moved_repeated", "Of those, the ones that the destination had itself, which therefore count once."),
		stray:     counter("stray", "Events of profiles that were merged before, sent on. None should come: report it if it grows."),
		merges:    counter("merges", "Profiles whose events went to another one."),
		deletions: counter("deletions", "Profiles that were deleted. Their counts stay."),
		lookups:   counter("lookups", "Events for which the state was asked whether they came before. Near to events: the option filter is too small."),
		rows:      counter("rows", "Changes of rows of counts written. Fewer for each event: more was combined before it was written."),
		bytes:     counter("row_bytes", "Bytes of those."),
	}
	var set meter.Set
	if err := set.Register(r, all...); err != nil {
		return nil, fmt.Errorf("account: %w", err)
	}
	return m, nil
}

func (m *metrics) add(c *counts) {
	for _, one := range [...]struct {
		counter prometheus.Counter
		n       int
	}{
		{m.events, c.events}, {m.repeated, c.repeated}, {m.moved, c.moved}, {m.conflicts, c.conflicts}, {m.stray, c.stray}, {m.merges, c.merges},
		{m.deletions, c.deletions}, {m.lookups, c.lookups}, {m.rows, c.rows}, {m.bytes, c.bytes},
	} {
		if one.n > 0 {
			one.counter.Add(float64(one.n))
		}
	}
}
