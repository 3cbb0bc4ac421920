package compose

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/mail"
)

// metrics count what was composed. A second Composer on the same registry, after
// a reload, goes on with the same counters.
type metrics struct {
	messages   *prometheus.CounterVec
	failures   *prometheus.CounterVec
	conversion *prometheus.CounterVec
	cache      *prometheus.CounterVec
	unsigned   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	vec := func(name, label, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	m := &metrics{
		messages: vec("godwit_compose_messages_total", "kind",
			"Messages composed, one per attempt, by kind of body."),
		failures: vec("godwit_compose_failures_total", "class",
			"Messages that could not be composed. render is a faulty template or row and bounces; policy is trouble of ours (body, key) and is tried again: see the log."),
		conversion: vec("godwit_compose_conversions_total", "result",
			"8-bit messages met: converted to 7 bits, kept because signed, passed by configuration, or malformed and left as they are. What is not converted needs a peer with 8BITMIME."),
		cache: vec("godwit_compose_cache_total", "result",
			"Look-ups of shared contents: hit or miss. Many misses during a campaign mean that compose.cache_size is too small for its content."),
		unsigned: prometheus.NewCounter(prometheus.CounterOpts{Name: "godwit_compose_unsigned_total",
			Help: "Messages sent without a DKIM signature, because no key matches their From domain. Big providers reject such bulk mail: check dkim.keys."}),
	}
	if r == nil {
		return m, nil
	}
	return m, errors.Join(register(r, &m.messages), register(r, &m.failures), register(r, &m.conversion),
		register(r, &m.cache), register(r, &m.unsigned))
}

// register registers *c, or replaces it by the collector of an earlier Composer.
func register[C prometheus.Collector](r prometheus.Registerer, c *C) error {
	err := r.Register(*c)
	if known, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if earlier, ok := known.ExistingCollector.(C); ok {
			*c = earlier
			return nil
		}
	}
	return err
}

func (m *metrics) composed(kind mail.BodyKind) {
	switch kind {
	case mail.BodyRaw:
		m.messages.WithLabelValues("raw").Inc()
	case mail.BodyRawTemplate:
		m.messages.WithLabelValues("raw_template").Inc()
	case mail.BodyContent:
		m.messages.WithLabelValues("content").Inc()
	}
}

func (m *metrics) failed(e *mail.OutcomeError) {
	m.failures.WithLabelValues(e.Outcome.Class).Inc()
}
