package smtpd

import "github.com/prometheus/client_golang/prometheus"

// metrics are the counters of one Server.
type metrics struct {
	connections *prometheus.CounterVec // by listener
	closed      *prometheus.CounterVec // by reason
	refused     *prometheus.CounterVec // by reason
	auth        *prometheus.CounterVec // by result
	replies     *prometheus.CounterVec // by verb and code, 4xx and 5xx
	denied      prometheus.Counter
}

func newMetrics(s *Server, r prometheus.Registerer) (*metrics, error) {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_smtpd_" + name, Help: help}, labels)
	}
	m := &metrics{
		connections: vec("connections_total", "Connections taken, by listener address.", "listener"),
		closed:      vec("connections_closed_total", "Connections ended, by reason. Many idle timeouts mean clients that keep connections without need.", "reason"),
		refused: vec("connections_refused_total",
			"Connections refused before the greeting: total and per_ip are the limits (raise them or look who floods), auth is an address with too many failed logins, proxy a missing or bad PROXY header.", "reason"),
		auth:    vec("auth_total", "Logins by result: ok, wrong, blocked (address over auth_failures), error (could not verify: too many at once).", "result"),
		replies: vec("replies_refused_total", "Replies with 4xx and 5xx codes, by command. Look up the code in the log to see who is refused and why.", "command", "code"),
		denied: prometheus.NewCounter(prometheus.CounterOpts{Name: "godwit_smtpd_relaying_denied_total",
			Help: "Recipients refused because the client may not relay. A rise is a misconfigured client, or somebody looking for an open relay."}),
	}
	if r == nil {
		return m, nil
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "godwit_smtpd_connections",
		Help: "Connections open now, on all listeners."}, func() float64 { return float64(s.Conns()) })
	for _, c := range []prometheus.Collector{m.connections, m.closed, m.refused, m.auth, m.replies, m.denied, open} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
