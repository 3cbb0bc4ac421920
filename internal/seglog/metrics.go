package seglog

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/meter"
)

// metrics are the log's numbers for monitoring, each with the label log.
type metrics struct {
	syncSeconds  prometheus.Histogram
	groupRecords prometheus.Histogram
	set          meter.Set
}

// newMetrics registers the metrics of l; with a nil registerer they are only counted.
func newMetrics(l *Log, reg prometheus.Registerer, name string) (*metrics, error) {
	m := &metrics{
		syncSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "godwit_seglog_sync_seconds",
			Help:    "Time of one write and fdatasync of a commit group. Accepting a message waits for one: a p99 above 10 ms means a slow or shared disk.",
			Buckets: []float64{.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .5, 2},
		}),
		groupRecords: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "godwit_seglog_group_records",
			Help:    "Records that shared one commit. Larger groups mean more concurrent appends per fdatasync; it needs no action.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 1024},
		}),
	}
	if reg == nil {
		return m, nil
	}
	wrapped := prometheus.WrapRegistererWith(prometheus.Labels{"log": name}, reg)
	return m, m.set.Register(wrapped, append(l.collectors(), m.syncSeconds, m.groupRecords)...)
}

// collectors are the metrics computed from the log's own counts.
func (l *Log) collectors() []prometheus.Collector {
	counter := func(name, help string, f func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(f()) })
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	return []prometheus.Collector{
		counter("godwit_seglog_records_total", "Records appended and durable.", l.count.records.Load),
		counter("godwit_seglog_bytes_total", "Bytes of data appended and durable, without headers.", l.count.bytes.Load),
		counter("godwit_seglog_commits_total", "Commit groups written.", l.count.commits.Load),
		counter("godwit_seglog_syncs_total", "fdatasync calls on segments. Divided by records it is the price of durability.", l.count.syncs.Load),
		counter("godwit_seglog_inline_segments_total", "Segments that had to be made while appends waited, because no spare was ready. If it grows steadily raise spares.", l.count.inline.Load),
		gauge("godwit_seglog_segments", "Segments that hold records, the active one included.", func() float64 {
			l.mu.RLock()
			defer l.mu.RUnlock()
			return float64(len(l.segs))
		}),
		gauge("godwit_seglog_failed", "1 when a write or sync has failed and the log takes no more records: check the disk, then restart.", func() float64 {
			if l.failure() != nil {
				return 1
			}
			return 0
		}),
	}
}
