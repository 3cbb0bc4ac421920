package route

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/mail"
)

type metrics struct {
	cached, found prometheus.Counter
	results       *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "godwit_route_lookups_total",
		Help: "Routes asked for, by result: cached, found, or the kind and class of the decision against delivery. A rise of deferred_dns means that the resolver fails: look at godwit_dns_queries_total.",
	}, []string{"result"})
	m := &metrics{cached: v.WithLabelValues("cached"), found: v.WithLabelValues("found"), results: v}
	if reg == nil {
		return m, nil
	}
	return m, reg.Register(v)
}

func (m *metrics) failed(err error) {
	var o *mail.OutcomeError
	if errors.As(err, &o) {
		m.results.WithLabelValues(o.Outcome.Kind.String() + "_" + o.Outcome.Class).Inc()
	}
}
