package cluster

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/meter"
)

// metrics are the cluster's numbers for monitoring.
type metrics struct {
	dropped, conflicts prometheus.Counter
	set                meter.Set
}

// newMetrics registers the metrics of c; with a nil registerer they are only counted.
func newMetrics(c *Cluster, reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_cluster_dropped_messages_total",
			Help: "Messages of other members that came faster than they could be handled. The next comparison brings what was in them; a steady rise means that the disk of the records is slow.",
		}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_cluster_name_conflicts_total",
			Help: "Times that two members with one name were seen: give one of them another name.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	return m, m.set.Register(reg, m.dropped, m.conflicts, &membersCollector{c: c})
}

// membersCollector counts members when asked.
type membersCollector struct{ c *Cluster }

// Describe implements prometheus.Collector.
func (k *membersCollector) Describe(ch chan<- *prometheus.Desc) {
	members, drift := k.descs()
	ch <- members
	ch <- drift
}

func (*membersCollector) descs() (members, drift *prometheus.Desc) {
	members = prometheus.NewDesc("godwit_cluster_members",
		"Members by status, this node included. Any that are suspect, dead or missing for longer than a restart takes need a look: godwit cluster lists them.",
		[]string{"status"}, nil)
	drift = prometheus.NewDesc("godwit_cluster_drifting_members",
		"Members whose configuration differs from that of most members of their role. More than 0 for longer than a rollout takes: bring the configuration files in line.", nil, nil)
	return members, drift
}

// Collect implements prometheus.Collector.
func (k *membersCollector) Collect(ch chan<- prometheus.Metric) {
	count, drifting := map[Status]int{}, 0
	for _, m := range k.c.Members() {
		count[m.Status]++
		if m.Drift {
			drifting++
		}
	}
	members, drift := k.descs()
	for _, s := range []Status{Alive, Suspect, Dead, Left, Missing} {
		ch <- prometheus.MustNewConstMetric(members, prometheus.GaugeValue, float64(count[s]), string(s))
	}
	ch <- prometheus.MustNewConstMetric(drift, prometheus.GaugeValue, float64(drifting))
}
