package throttle

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// stats are a Keeper's metrics.
type stats struct {
	granted [2]prometheus.Counter
	grants  *prometheus.CounterVec
	late    prometheus.Histogram
	others  []prometheus.Collector
}

func newStats(k *Keeper) *stats {
	s := &stats{
		grants: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_throttle_permits_total",
			Help: "Permits granted by this process as the owner of limits, by kind: connect, send. Compare with what clients used: the difference lapsed.",
		}, []string{"kind"}),
		late: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "godwit_throttle_late_seconds",
			Help:    "How late permits were granted. Those later than 15 ms are lost, so rates are not used up: give the process more CPU.",
			Buckets: []float64{.001, .002, .004, .008, .015, .03, .1, .5},
		}),
	}
	for i := range s.granted {
		s.granted[i] = s.grants.WithLabelValues(Kind(i + 1).String())
	}
	s.others = []prometheus.Collector{
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "godwit_throttle_stalls_total",
			Help: "Times the process was found to have been stopped, after which it grants nothing for a second. A rise means a machine that is overloaded or paused.",
		}, func() float64 { return float64(k.Stalls()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "godwit_throttle_keys",
			Help: "Limited keys that this process owns and knows.",
		}, func() float64 { return float64(k.keyCount()) }),
	}
	return s
}

// Describe implements prometheus.Collector. A process with several Keepers registers each with a label of its own.
func (k *Keeper) Describe(to chan<- *prometheus.Desc) {
	for _, c := range k.stats.all() {
		c.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (k *Keeper) Collect(to chan<- prometheus.Metric) {
	for _, c := range k.stats.all() {
		c.Collect(to)
	}
}

func (s *stats) all() []prometheus.Collector {
	return append([]prometheus.Collector{s.grants, s.late}, s.others...)
}

// turned counts what a turn granted.
func (s *stats) turned(out []Out, late time.Duration) {
	n := 0
	for _, o := range out {
		if o.Grant != nil {
			s.granted[o.Grant.Kind-1].Add(float64(o.Grant.N))
			n += o.Grant.N
		}
	}
	if n > 0 {
		s.late.Observe(max(late, 0).Seconds())
	}
}

func (k *Keeper) keyCount() (n int) {
	k.call(func(a *Authority, _ time.Duration) { n = len(a.keys) })
	return n
}
