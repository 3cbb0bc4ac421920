package stream

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/meter"
)

// topicMetrics are one topic's numbers for monitoring, each with the label topic.
type topicMetrics struct {
	records, bytes prometheus.Counter
	seconds        prometheus.Histogram
	set            meter.Set
}

// newAppendMetrics makes the metrics of appending; with a nil registerer they are only counted.
func newAppendMetrics(topic string, reg prometheus.Registerer, more ...prometheus.Collector) (*topicMetrics, error) {
	m := &topicMetrics{
		records: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_stream_records_total",
			Help: "Records appended to the topic and durable.",
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_stream_bytes_total",
			Help: "Bytes appended to the topic and durable, as they lie on the disk.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "godwit_stream_append_seconds",
			Help:    "Time of one append, until it is durable. Accepting an event waits for it: a p99 above 20 ms means a slow or shared disk.",
			Buckets: []float64{.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .5, 2},
		}),
	}
	if reg == nil {
		return m, nil
	}
	wrapped := prometheus.WrapRegistererWith(prometheus.Labels{"topic": topic}, reg)
	return m, m.set.Register(wrapped, append(more, m.records, m.bytes, m.seconds)...)
}

// newTopicMetrics are those of an embedded topic.
func newTopicMetrics(t *topic, reg prometheus.Registerer) (*topicMetrics, error) {
	return newAppendMetrics(t.name, reg,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "godwit_stream_kept_bytes",
			Help: "Bytes of the topic that are kept. If it grows beyond keep_size a consumer holds the topic: look at its lag and at the age of its snapshots.",
		}, func() float64 {
			bytes, _ := t.usage()
			return float64(bytes)
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "godwit_stream_oldest_age_seconds",
			Help: "Age of the oldest record of the topic that is kept; 0 if there is none. If it grows beyond keep_for a consumer holds the topic.",
		}, func() float64 {
			_, oldest := t.usage()
			if oldest.IsZero() {
				return 0
			}
			return time.Since(oldest).Seconds()
		}))
}

func (m *topicMetrics) appended(records, bytes int, took time.Duration) {
	m.records.Add(float64(records))
	m.bytes.Add(float64(bytes))
	m.seconds.Observe(took.Seconds())
}
