package peer

import (
	"errors"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are of what this node asks others.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics() *metrics {
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_peer_requests_total",
			Help: "Requests to other nodes of the pipeline, by kind and result: ok, moved (the partition went elsewhere and is asked for there), unreachable, failed. Many unreachable: a node is down or the network is. Failed: see that node's log."},
			[]string{"request", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "godwit_peer_request_seconds",
			Help: "Time of requests to other nodes of the pipeline; wait takes as long as a write takes to be applied. What the API's own answers take follows it.", Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}},
			[]string{"request"}),
	}
}

func (m *metrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	return errors.Join(reg.Register(m.requests), reg.Register(m.seconds))
}

func (m *metrics) asked(request string, took time.Duration, err error) {
	result := "ok"
	switch {
	case err == nil:
	case errors.Is(err, errNotMine):
		result = "moved"
	case errors.Is(err, errUnreachable):
		result = "unreachable"
	default:
		result = "failed"
	}
	kind := path.Base(request)
	m.requests.WithLabelValues(kind, result).Inc()
	m.seconds.WithLabelValues(kind).Observe(took.Seconds())
}
