package deliver

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/mail"
)

type metrics struct {
	opened, failed, tlsBroken prometheus.Counter
	sessions                  prometheus.Gauge
	openSeconds, seconds      prometheus.Histogram
	tls                       *prometheus.CounterVec
	outcomes                  [mail.Ambiguous + 1]prometheus.Counter
	bytes                     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	opens := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "godwit_deliver_opens_total",
		Help: "Sessions asked for, by result. Many failed: providers do not answer or refuse us; look at deferred events of class connect, dns and tls.",
	}, []string{"result"})
	outcomes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "godwit_deliver_outcomes_total",
		Help: "Outcomes of attempts that reached a session. A rise of ambiguous means connections lost after the message: look at timeouts and the network.",
	}, []string{"outcome"})
	m := &metrics{
		opened: opens.WithLabelValues("opened"), failed: opens.WithLabelValues("failed"),
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "godwit_deliver_sessions",
			Help: "Sessions open now, idle ones included.",
		}),
		tlsBroken: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_deliver_tls_fallbacks_total",
			Help: "Opportunistic TLS that failed, so that the host was tried again in clear. A rise points at certificates or versions on our side.",
		}),
		openSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "godwit_deliver_open_seconds",
			Help:    "Time to open a session, or to fail. Slow ones tie up connection slots of their site.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10),
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "godwit_deliver_transaction_seconds",
			Help:    "Time of one transaction, from composing to the reply. Slow providers show here: give them more connections.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 11),
		}),
		tls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_deliver_tls_total",
			Help: "TLS handshakes completed, by version.",
		}, []string{"version"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_deliver_bytes_total",
			Help: "Bytes of messages handed to providers, each transaction once.",
		}),
	}
	for k := range m.outcomes {
		m.outcomes[k] = outcomes.WithLabelValues(mail.OutcomeKind(k).String())
	}
	outcomes.DeleteLabelValues(mail.OutcomeKind(0).String())
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{opens, outcomes, m.sessions, m.tlsBroken, m.openSeconds, m.seconds, m.tls, m.bytes} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
