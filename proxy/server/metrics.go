package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/proxy/wire"
)

// metrics are the counters of one Server. What belongs to a source is read from its own counters when asked for.
type metrics struct {
	refused *prometheus.CounterVec // by reason
	connect prometheus.Histogram
	idle    prometheus.Counter
}

func newMetrics(s *Server, r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_proxy_refused_total",
			Help: "Connections from nodes that were not carried out, by reason: no_lease is a permit that came too late (a slow network or a paused node), bad_source or bad_request a configuration that differs between node and proxy, network an address outside networks, tls a bad certificate, header or silent something that is no node, busy is max_connections."}, []string{"reason"}),
		connect: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "godwit_proxy_connect_seconds",
			Help: "Time to connect to a provider, failures included.", Buckets: []float64{.005, .02, .05, .1, .25, .5, 1, 3, 10, 30}}),
		idle: prometheus.NewCounter(prometheus.CounterOpts{Name: "godwit_proxy_idle_total",
			Help: "Connections cut because nothing moved for idle_timeout. Many mean providers, or nodes, that hang."}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.refused, m.connect, m.idle, newCollector(s)} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// collector tells Prometheus what Stats tells.
type collector struct {
	s                                             *Server
	open, opening, connects, bytes, nodes, drains *prometheus.Desc
}

func newCollector(s *Server) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("godwit_proxy_"+name, help, labels, nil)
	}
	return &collector{s: s,
		open:     desc("connections", "Connections to providers open now, by source.", "source"),
		opening:  desc("connections_opening", "Connects to providers under way, by source. Many mean hosts that swallow them.", "source"),
		connects: desc("connects_total", "Connects to providers, by source and result: connected, failed (refused or unreachable), timed_out, local (our machine's fault: is the address there, are descriptors left?).", "source", "result"),
		bytes:    desc("bytes_total", "Bytes passed on, by source and direction: sent goes to the provider, got comes from it.", "source", "direction"),
		nodes:    desc("node_connections", "Data connections of nodes open now."),
		drains:   desc("draining", "1 while the proxy is going away."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.open, c.opening, c.connects, c.bytes, c.nodes, c.drains} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for _, src := range c.s.conf.Load().sources.list {
		gauge(c.open, float64(src.open.Load()), src.name)
		gauge(c.opening, float64(src.opening.Load()), src.name)
		counter(c.bytes, src.up.Load(), src.name, "sent")
		counter(c.bytes, src.down.Load(), src.name, "got")
		for _, r := range []wire.Status{wire.Connected, wire.Failed, wire.TimedOut, wire.Local} {
			counter(c.connects, src.results[r].Load(), src.name, r.String())
		}
	}
	gauge(c.nodes, float64(c.s.Conns()))
	draining := 0.0
	if c.s.draining.Load() {
		draining = 1
	}
	gauge(c.drains, draining)
}
