package dns

import (
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	hits, misses, stale prometheus.Counter
	entries             prometheus.Gauge
	queries             *prometheus.CounterVec
	seconds             prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "godwit_dns_lookups_total",
		Help: "Lookups by how they were answered. A rising share of stale means that the DNS servers fail: check dns.servers.",
	}, []string{"result"})
	m := &metrics{
		hits: lookups.WithLabelValues("cached"), misses: lookups.WithLabelValues("asked"), stale: lookups.WithLabelValues("stale"),
		entries: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "godwit_dns_cache_entries",
			Help: "Answers in the cache. At dns.cache_entries with many lookups asked, raise that limit.",
		}),
		queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_dns_queries_total",
			Help: "Queries sent, by type and answer code; lost means none came in time. Many SERVFAIL or lost: look at the resolver, mail is deferred meanwhile.",
		}, []string{"type", "result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "godwit_dns_query_seconds",
			Help:    "Time a server took to answer one query. A slow resolver delays the first message to each domain.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8),
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{lookups, m.entries, m.queries, m.seconds} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) query(qtype uint16, result string) {
	m.queries.WithLabelValues(dns.TypeToString[qtype], result).Inc()
}
