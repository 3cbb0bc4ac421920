package records

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/meter"
)

// metrics are the store's numbers for monitoring.
type metrics struct {
	failures, refused prometheus.Counter
	set               meter.Set
}

// newMetrics registers the metrics of s; with a nil registerer they are only counted.
func newMetrics(s *Store, reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_records_write_failures_total",
			Help: "Writes of cluster records (suspensions, orders) that the disk refused. What other nodes ordered is in force nevertheless but would be lost with the power: check the volume.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_records_refused_total",
			Help: "Records of other nodes that were refused because they were written more than a day in the future: set the clock of the node that the log names.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	return m, m.set.Register(reg,
		m.failures, m.refused,
		s.gauge("godwit_records_in_force", "Records in force: suspensions, backoff orders, actions.", true),
		s.gauge("godwit_records_remembered", "Records kept after they were deleted or expired, so that a node that was away cannot bring them back.", false),
	)
}

// gauge counts the records that are, or are not, in force.
func (s *Store) gauge(name, help string, shown bool) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		s.mu.RLock()
		defer s.mu.RUnlock()
		n := 0
		for _, e := range s.byKey {
			if e.shown == shown {
				n++
			}
		}
		return float64(n)
	})
}
