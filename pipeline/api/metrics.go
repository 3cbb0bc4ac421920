package api

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	replayed prometheus.Counter
	unseen   prometheus.Counter
}

func newMetrics(r prometheus.Registerer, held func() float64) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_api_requests_total",
			Help: "Requests of the pipeline's API by operation and status. Many 4xx: a client sends what is refused, its responses say why. 429: a tenant is over its limits. 503: the log or the memory for requests is full.",
		}, []string{"operation", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "godwit_api_request_seconds",
			Help:    "Time from a request's header to its response, in seconds. Rising with a quiet CPU: the disk's fsync is slow.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}, []string{"operation"}),
		replayed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_api_replayed_total",
			Help: "Requests answered from the receipt of an earlier one with the same idempotency key. Many: a client does not get our answers in time.",
		}),
		unseen: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_api_unseen_total",
			Help: "Writes that were answered before they could be read, because that took longer than wait_visible. Rising: the identity or customer stage lags or stands.",
		}),
	}
	if r == nil {
		return m, nil
	}
	memory := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "godwit_api_memory_bytes",
		Help: "Memory taken by request bodies now. Near the option memory: requests get 503; raise it or send smaller batches.",
	}, held)
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.replayed, m.unseen, memory} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) done(operation string, status int, took time.Duration) {
	m.requests.WithLabelValues(operation, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(operation).Observe(took.Seconds())
}
