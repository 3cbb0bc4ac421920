package backoff

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/throttle/rules"
)

type metrics struct {
	replies *prometheus.CounterVec
	orders  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, set *Orders) (*metrics, error) {
	m := &metrics{
		replies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_backoff_replies_total",
			Help: "Replies that an automation rule claimed. A rise means that a provider pushes back: `godwit explain` tells what is slowed or suspended.",
		}, []string{"rule", "action"}),
		orders: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_backoff_orders_total",
			Help: "Orders by result: new, extended while in force, or refused because too many are in force (raise max_orders, or see which rule gives so many).",
		}, []string{"action", "result"}),
	}
	if reg == nil {
		return m, nil
	}
	inForce := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "godwit_backoff_orders",
		Help: "Orders kept on this node: suspended or slowed sources, tenants and streams, by rules and by operators.",
	}, func() float64 { return float64(set.Len()) })
	return m, errors.Join(reg.Register(m.replies), reg.Register(m.orders), reg.Register(inForce))
}

func (m *metrics) matched(r *rules.Rule) { m.replies.WithLabelValues(r.ID(), string(r.Action)).Inc() }

func (m *metrics) gave(a rules.Action, result string) {
	m.orders.WithLabelValues(string(a), result).Inc()
}
