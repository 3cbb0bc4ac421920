package event

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/meter"
)

// logMetrics are the event log's numbers for monitoring.
type logMetrics struct {
	kinds map[Kind]prometheus.Counter
	other prometheus.Counter
	gaps  *prometheus.CounterVec
	set   meter.Set
}

func newLogMetrics(l *Log, reg prometheus.Registerer) (*logMetrics, error) {
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "godwit_event_events_total",
		Help: "Events written to the event log, by kind. The rates of deferred and bounced against delivered tell how delivery goes.",
	}, []string{"kind"})
	m := &logMetrics{
		kinds: map[Kind]prometheus.Counter{},
		other: events.WithLabelValues("other"),
		gaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_event_gap_events_total",
			Help: "Events dropped before the named cursor had read them, for want of space. Any increase is a loss: make the sink keep up, or the volume or max_size larger.",
		}, []string{"cursor"}),
	}
	for _, k := range Kinds() {
		m.kinds[k.Kind] = events.WithLabelValues(string(k.Kind))
	}
	if reg == nil {
		return m, nil
	}
	size := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "godwit_event_log_bytes",
		Help: "Bytes that the event log uses. At max_size the oldest events go, read or not.",
	}, func() float64 { return float64(l.Size()) })
	return m, m.set.Register(reg, events, m.gaps, size, newLagCollector(l))
}

func (m *logMetrics) count(events []Event) {
	for i := range events {
		if c := m.kinds[events[i].Kind]; c != nil {
			c.Inc()
		} else {
			m.other.Inc()
		}
	}
}

func (m *logMetrics) lost(cursor string, events int64) {
	m.gaps.WithLabelValues(cursor).Add(float64(events))
}

// lagCollector reports how far each cursor is behind.
type lagCollector struct {
	log  *Log
	desc *prometheus.Desc
}

func newLagCollector(l *Log) *lagCollector {
	return &lagCollector{log: l, desc: prometheus.NewDesc("godwit_event_cursor_lag_bytes",
		"Bytes of the event log that the named cursor has not committed. If it keeps growing the sink is too slow or down, and will lose events at max_size.",
		[]string{"cursor"}, nil)}
}

// Describe implements prometheus.Collector.
func (c *lagCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *lagCollector) Collect(ch chan<- prometheus.Metric) {
	segs := c.log.records.Segments()
	for _, cur := range c.log.allCursors() {
		pos, _ := cur.Position()
		var lag int64
		for _, s := range segs {
			switch {
			case s.Seq > pos.Seg:
				lag += s.Bytes
			case s.Seq == pos.Seg:
				lag += max(0, s.Bytes-pos.Off)
			}
		}
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(lag), cur.name)
	}
}
