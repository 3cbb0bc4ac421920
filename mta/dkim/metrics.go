package dkim

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count signatures. A reload registers again and goes on with the
// counters that are there.
type metrics struct {
	rsa, ed25519, failures prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (metrics, error) {
	signatures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "godwit_dkim_signatures_total",
		Help: "DKIM signatures made. A message has one per key of its domain; a flat line while mail flows means that no key matches the From domains: check dkim.keys.",
	}, []string{"algorithm"})
	failures := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "godwit_dkim_failures_total",
		Help: "Messages that could not be signed and were deferred. Anything above zero is a broken key or libcrypto: see the log, or set dkim.libcrypto = \"off\".",
	})
	if r != nil {
		if err := register(r, &signatures); err != nil {
			return metrics{}, err
		}
		if err := register(r, &failures); err != nil {
			return metrics{}, err
		}
	}
	return metrics{
		rsa:      signatures.WithLabelValues(algorithmRSA),
		ed25519:  signatures.WithLabelValues(algorithmEd25519),
		failures: failures,
	}, nil
}

// register registers *c, or replaces it by the collector of an earlier Signer.
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

func (m *metrics) count(k *key) {
	if k.algorithm == algorithmRSA {
		m.rsa.Inc()
	} else {
		m.ed25519.Inc()
	}
}
