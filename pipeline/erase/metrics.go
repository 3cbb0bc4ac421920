package erase

import "github.com/prometheus/client_golang/prometheus"

// metrics are the eraser's numbers for monitoring.
type metrics struct {
	passes   *prometheus.CounterVec
	profiles prometheus.Counter
	records  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, e *Eraser) (*metrics, error) {
	m := &metrics{
		passes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_erase_passes_total",
			Help: "Passes that took deleted profiles out of logs, state and warehouse. result: done or failed; a failed one is tried again, and the log tells why."}, []string{"result"}),
		profiles: prometheus.NewCounter(prometheus.CounterOpts{Name: "godwit_erase_profiles_total",
			Help: "Deleted profiles that were erased."}),
		records: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_erase_records_total",
			Help: "Records that were emptied or lost their personal data, by topic."}, []string{"topic"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.passes, m.profiles, m.records,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "godwit_erase_waiting_profiles",
			Help: "Deleted profiles that are not erased yet."}, func() float64 { return float64(e.Status().Waiting) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "godwit_erase_oldest_seconds",
			Help: "Time since the oldest deletion that is not erased yet was accepted; 0 if none waits. Above pipeline.erase.within the promise is broken: godwit pipeline tells what it waits for."},
			func() float64 {
				s := e.Status()
				if s.Oldest.IsZero() {
					return 0
				}
				return e.d.Now().Sub(s.Oldest).Seconds()
			}),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
