package queue

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/mail"
)

type metrics struct {
	injected    prometheus.Counter
	outcomes    map[mail.OutcomeKind]prometheus.Counter
	expired     prometheus.Counter
	unreadable  prometheus.Counter
	flushErrors prometheus.Counter
	reportsLost prometheus.Counter
}

func newMetrics(r prometheus.Registerer, q *Queue) *metrics {
	if r == nil {
		r = prometheus.NewRegistry()
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	outcomes := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_queue_outcomes_total",
		Help: "Attempts by outcome. Many deferred ones: look at `godwit queue list` for the site and its last reply."}, []string{"outcome"})
	r.MustRegister(outcomes)
	m := &metrics{
		injected:    counter("godwit_queue_injected_total", "Messages accepted: durable and answered 250 or 202."),
		expired:     counter("godwit_queue_expired_total", "Messages given up because their life or deadline passed."),
		unreadable:  counter("godwit_queue_unreadable_total", "Rows that could not be read back from the segments. Anything but 0: check the disk, then `godwit queue repair`."),
		flushErrors: counter("godwit_queue_index_errors_total", "Index writes that failed and are tried again. Rising: the volume is full or broken."),
		reportsLost: counter("godwit_queue_reports_lost_total", "Delivery reports that could not be put into the queue."),
		outcomes:    map[mail.OutcomeKind]prometheus.Counter{},
	}
	for _, k := range []mail.OutcomeKind{mail.Delivered, mail.Deferred, mail.Bounced, mail.Ambiguous, mail.Moved} {
		m.outcomes[k] = outcomes.WithLabelValues(k.String())
	}
	gauge := func(name, help string, f func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	locked := func(f func() int) func() float64 {
		return func() float64 {
			q.mu.Lock()
			defer q.mu.Unlock()
			return float64(f())
		}
	}
	gauge("godwit_queue_messages", "Messages the queue owes delivery.", locked(func() int { return int(q.queued) }))
	gauge("godwit_queue_messages_in_memory", "Those of them that are in memory.", locked(func() int { return len(q.live) }))
	gauge("godwit_queue_scheduled_queues", "Scheduled queues, one for each (priority, tenant, stream, domain).", locked(func() int { return len(q.names) }))
	gauge("godwit_queue_sites", "Ready queues, one for each site.", locked(func() int { return len(q.sites) }))
	gauge("godwit_queue_connections", "Outgoing connections.", locked(func() int { return q.openCount }))
	gauge("godwit_queue_body_bytes", "Bodies kept in memory for their first attempt.", locked(func() int { return int(q.bodyBytes) }))
	gauge("godwit_queue_segment_syncs_total", "fdatasync calls of the segment log.", func() float64 { return float64(q.spool.LogStats().Syncs) })
	return m
}

func (m *metrics) outcome(o *mail.Outcome) {
	if o.Class == mail.ClassExpired {
		m.expired.Inc()
		return
	}
	if c := m.outcomes[o.Kind]; c != nil {
		c.Inc()
	}
}
