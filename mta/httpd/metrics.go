package httpd

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests   *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	recipients *prometheus.CounterVec
	replayed   prometheus.Counter
}

func newMetrics(r prometheus.Registerer, held func() float64) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_httpd_requests_total",
			Help: "Requests of the injection API by operation and status. Many 4xx: a client sends what is refused, its responses say why. 503: the queue, the disk or the memory for requests is full.",
		}, []string{"operation", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "godwit_httpd_request_seconds",
			Help:    "Time from a request's header to its response, in seconds. Rising with a quiet CPU: the disk's fsync is slow.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}, []string{"operation"}),
		recipients: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_httpd_recipients_total",
			Help: "Recipients of injected messages by result: accepted or rejected. Many rejected: a client's list holds bad addresses.",
		}, []string{"result"}),
		replayed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_httpd_replayed_total",
			Help: "Requests answered from the receipt of an earlier one with the same idempotency key. Many: a client does not get our answers in time.",
		}),
	}
	if r == nil {
		return m, nil
	}
	memory := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "godwit_httpd_memory_bytes",
		Help: "Memory taken by request bodies now. Near http.memory: requests get 503; raise it or send smaller batches.",
	}, held)
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.recipients, m.replayed, memory} {
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
