package identity

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are what one call of Apply did.
type counts struct {
	resolved, created, claimed, merged, deleted, conflicts int
	fresh, gone, invalid, repeated                         int
}

// metrics are the stage's numbers for monitoring. After a crash what is done again is counted again.
type metrics struct {
	resolved, created, claimed, merged, deleted, conflicts prometheus.Counter
	fresh, gone, invalid, repeated                         prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	one := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "godwit_identity_" + name + "_total", Help: help})
	}
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "godwit_identity_dropped_records_total",
		Help: "Records that changed nothing. fresh: it was to make a profile that exists by now. deleted: it named a profile by its id that is deleted. " +
			"invalid: it names nobody, which is an error of who wrote it; the log tells where it lies. repeated: it was applied before a crash.",
	}, []string{"reason"})
	m := &metrics{
		resolved:  one("resolved_records", "Events and changes whose profile was found, and documents passed on."),
		created:   one("created_profiles", "Identifiers that nobody had, or whose profile was deleted, and that made a new one."),
		claimed:   one("claimed_identifiers", "Identifiers that joined the profile of a stronger one they came along with."),
		merged:    one("merged_profiles", "Profiles that became part of another one."),
		deleted:   one("deleted_profiles", "Profiles that were deleted."),
		conflicts: one("conflicts", "Identifiers that came along with a stronger one though they belong to another profile; they stay where they are. Many: an identifier is shared, such as a shop's own phone number."),
		fresh:     dropped.WithLabelValues("fresh"), gone: dropped.WithLabelValues("deleted"),
		invalid: dropped.WithLabelValues("invalid"), repeated: dropped.WithLabelValues("repeated"),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.resolved, m.created, m.claimed, m.merged, m.deleted, m.conflicts, dropped} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) add(c counts) {
	for _, one := range []struct {
		counter prometheus.Counter
		n       int
	}{
		{m.resolved, c.resolved}, {m.created, c.created}, {m.claimed, c.claimed}, {m.merged, c.merged}, {m.deleted, c.deleted},
		{m.conflicts, c.conflicts}, {m.fresh, c.fresh}, {m.gone, c.gone}, {m.invalid, c.invalid}, {m.repeated, c.repeated},
	} {
		if one.n > 0 {
			one.counter.Add(float64(one.n))
		}
	}
}
