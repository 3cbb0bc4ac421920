package accept

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the counters of one Door.
type metrics struct {
	messages map[string]prometheus.Counter // by smtp, http
	bytes    prometheus.Counter
	refused  *prometheus.CounterVec
	large    prometheus.Counter
	store    prometheus.Histogram
	inFlight atomic.Int64
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	messages := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "godwit_accept_messages_total",
		Help: "Messages (one per recipient) that were promised delivery, by injection protocol.",
	}, []string{"protocol"})
	m := &metrics{
		messages: map[string]prometheus.Counter{
			"smtp": messages.WithLabelValues("smtp"),
			"http": messages.WithLabelValues("http"),
		},
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_accept_body_bytes_total",
			Help: "Bytes of new bodies stored; a body shared by many recipients counts once.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_accept_refused_total",
			Help: "Injections refused, by enhanced status code. 4.3.1 means the queue, the disk or the memory budget is full: deliver faster, add space, or raise the limit.",
		}, []string{"status"}),
		large: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_accept_large_bodies_total",
			Help: "Bodies that went to a file of their own, because of their size or because accept.memory was used up; the latter costs an fsync each.",
		}),
		store: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "godwit_accept_store_seconds",
			Help:    "Time a complete injection waits until it is durable. Slow means a slow disk: look at the spool's fsync time.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5},
		}),
	}
	if r == nil {
		return m, nil
	}
	inFlight := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "godwit_accept_in_flight",
		Help: "Injections being received or stored at this moment.",
	}, func() float64 { return float64(m.inFlight.Load()) })
	for _, c := range []prometheus.Collector{messages, m.bytes, m.refused, m.large, m.store, inFlight} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
