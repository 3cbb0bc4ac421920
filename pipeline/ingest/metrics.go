package ingest

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// doorMetrics are the door's numbers for monitoring.
type doorMetrics struct {
	records, refused, failed, hydrated prometheus.Counter
	archive                            *prometheus.CounterVec
	took                               prometheus.Histogram
}

func newDoorMetrics(reg prometheus.Registerer) (*doorMetrics, error) {
	m := &doorMetrics{
		records: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_ingest_records_total",
			Help: "Records taken in: events, changes of profiles, documents. They were durable before anything was acknowledged.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_ingest_refused_total",
			Help: "Requests, and events of bulk jobs, that were refused because of what they contain. The answers name the fields; a rise means that some client has changed.",
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_ingest_failures_total",
			Help: "Requests whose records could not be made durable. Their clients were told to try again; look at the log's volume.",
		}),
		hydrated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_ingest_hydrated_total",
			Help: "Events that named a message of ours and were completed with its campaign, flow and provider.",
		}),
		archive: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_ingest_archive_total",
			Help: "Events of so long ago that the warehouse was asked whether they came before. new: they had not. repeated: they had, and were dropped. none: it did not answer, and they were taken: one that came before counts twice with its profile, in the days of then.",
		}, []string{"answer"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "godwit_ingest_append_seconds",
			Help:    "Time until the records of a request were durable. It is most of a request's time; far more than a sync of the volume takes means that it is overloaded.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.records, m.refused, m.failed, m.hydrated, m.archive, m.took} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
