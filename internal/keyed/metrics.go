package keyed

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what happens. What is, is asked for when it is collected.
type metrics struct {
	records   *prometheus.CounterVec
	commits   *prometheus.CounterVec
	seconds   prometheus.Histogram
	errors    *prometheus.CounterVec
	restores  *prometheus.CounterVec
	snapshots *prometheus.CounterVec
	gauges    gauges
	labels    sync.Map // partition → string, so that counting does not format
}

type gauges struct {
	lag, behind, age, disk, memory, debt, readAmp, state *prometheus.Desc
}

func newMetrics(consumer string) *metrics {
	fixed := prometheus.Labels{"consumer": consumer}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: fixed}, append([]string{"partition"}, labels...))
	}
	gauge := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"partition"}, fixed)
	}
	return &metrics{
		records: counter("godwit_keyed_records_total", "Records applied, those that were applied again after an error or a restart included."),
		commits: counter("godwit_keyed_commits_total", "Commits of state together with its offset."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:        "godwit_keyed_commit_seconds",
			Help:        "Time that a commit took, outputs of the last changes included. Long ones mean that state is not written out fast enough: see godwit_keyed_read_amplification and the disk.",
			Buckets:     []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .5, 2},
			ConstLabels: fixed,
		}),
		errors:    counter("godwit_keyed_errors_total", "Failures of a partition, each tried again after a pause. If it keeps rising the partition is stuck: the log and the status name the offset."),
		restores:  counter("godwit_keyed_restores_total", "States that were replaced, by source: snapshot, log (made from its start). Expected after a lost folder or a rebuild only.", "source"),
		snapshots: counter("godwit_keyed_snapshots_total", "Snapshots, by result: made, failed. Failed ones make the log grow.", "result"),
		gauges: gauges{
			lag:     gauge("godwit_keyed_lag_records", "Records of the input that are not visible in the state yet (more where offsets have gaps)."),
			behind:  gauge("godwit_keyed_lag_seconds", "Age of the oldest record that is not visible in the state yet. It should be below a second."),
			age:     gauge("godwit_keyed_snapshot_age_seconds", "Age of the newest snapshot. Much more than snapshot_every means that they fail, or that nothing changes."),
			disk:    gauge("godwit_keyed_disk_bytes", "Size of the state's files. Snapshots share most of them."),
			memory:  gauge("godwit_keyed_memtable_bytes", "Memory of changes that are not written out."),
			debt:    gauge("godwit_keyed_compaction_debt_bytes", "Bytes that compactions have to rewrite. If it keeps rising, the disk or the processor is too slow."),
			readAmp: gauge("godwit_keyed_read_amplification", "Files that a read may have to look into. At 40 writes wait."),
			state:   gauge("godwit_keyed_state", "What the partition does: 0 away, 1 opening, 2 restoring, 3 running, 4 failing."),
		},
	}
}

func (m *metrics) label(partition int32) string {
	if s, ok := m.labels.Load(partition); ok {
		return s.(string)
	}
	s := strconv.Itoa(int(partition))
	m.labels.Store(partition, s)
	return s
}

func (m *metrics) applied(partition int32, n int) {
	m.records.WithLabelValues(m.label(partition)).Add(float64(n))
}

func (m *metrics) committed(partition int32, took time.Duration) {
	m.commits.WithLabelValues(m.label(partition)).Inc()
	m.seconds.Observe(took.Seconds())
}

func (m *metrics) failed(partition int32, _ error) {
	m.errors.WithLabelValues(m.label(partition)).Inc()
}

func (m *metrics) restored(partition int32, source string) {
	m.restores.WithLabelValues(m.label(partition), source).Inc()
}

func (m *metrics) snapshot(partition int32, result string) {
	m.snapshots.WithLabelValues(m.label(partition), result).Inc()
}

// collector is a worker as a prometheus.Collector.
type collector struct{ w *Worker }

func (c collector) counters() []prometheus.Collector {
	m := c.w.m
	return []prometheus.Collector{m.records, m.commits, m.seconds, m.errors, m.restores, m.snapshots}
}

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, v := range c.counters() {
		v.Describe(to)
	}
	g := c.w.m.gauges
	for _, d := range []*prometheus.Desc{g.lag, g.behind, g.age, g.disk, g.memory, g.debt, g.readAmp, g.state} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	for _, v := range c.counters() {
		v.Collect(to)
	}
	g := c.w.m.gauges
	for _, s := range c.w.Status() {
		p := c.w.m.label(s.Partition)
		gauge := func(d *prometheus.Desc, v float64) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, p)
		}
		gauge(g.state, float64(s.State))
		if s.State == StateAway {
			continue
		}
		if s.End >= 0 {
			gauge(g.lag, float64(s.Lag))
			gauge(g.behind, s.Behind.Seconds())
		}
		if !s.Snapshot.Taken.IsZero() {
			gauge(g.age, time.Since(s.Snapshot.Taken).Seconds())
		}
		gauge(g.disk, float64(s.Usage.Disk))
		gauge(g.memory, float64(s.Usage.Memory))
		gauge(g.debt, float64(s.Usage.Debt))
		gauge(g.readAmp, float64(s.Usage.ReadAmp))
	}
}
