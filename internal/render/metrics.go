package render

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	seconds  prometheus.Histogram
	failed   prometheus.Counter
	compiled prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "godwit_render_seconds",
			Help:    "Time to render one compiled template. A tail near the deadline points at templates with large loops.",
			Buckets: []float64{25e-6, 100e-6, 500e-6, 2e-3, 10e-3, 50e-3, 250e-3},
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_render_failed_total",
			Help: "Templates that could not be compiled or rendered. A rise means a tenant sends templates with errors; the bounce of class render has line and column.",
		}),
		compiled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_render_compiled_total",
			Help: "Templates compiled, that is cache misses. If it grows as fast as messages, raise cache_bytes or send one template with variables.",
		}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.seconds, m.failed, m.compiled} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
