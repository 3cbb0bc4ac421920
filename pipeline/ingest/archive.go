package ingest

import (
	"context"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Archive remembers all events, also those that the stages recognise no more when they come again.
//
// It is asked here and not by a stage: what a stage does must follow from its records and its state alone, or a replay would end in
// another state. The answer is in the log then, by what is missing there. The archive may lag
// behind the log for as long as the stages recognise what came lately, which is months.
type Archive interface {
	// Seen reports whether the profile that the strongest identifier belongs to has an event of the metric with the
	// unique id. It is safe for concurrent use.
	Seen(ctx context.Context, tenant string, strongest fact.Identifier, metric fact.MetricID, uid string) (bool, error)
}

// How long a request waits for the archive: for one event, and for all of its events. When either is over nothing more is
// asked, and the rest is taken as new: an event too many in a count of days long ago does less harm than a door that is shut.
const (
	archivePatience = time.Second
	archiveTotal    = 10 * time.Second
)

// old is an event of a request that happened so long ago that the stages may not recognise it.
type old struct {
	record    int // of the reader's
	tenant    string
	strongest fact.Identifier
	metric    fact.MetricID
	uid       string
	// instead is the record to write if the event came before: what it says of its profile, as that is taken from repeated events too. nil: nothing.
	instead []byte
}

// noteOld notes the record that was added last if the archive is to be asked about it.
func (r *reader) noteOld(in *fact.Intake) {
	d := &r.door.d
	if d.Archive == nil || in.Event == nil || len(in.Who) == 0 || r.now.Sub(in.Event.Time) < d.ArchiveAfter {
		return
	}
	o := old{record: len(r.ends) - 1, tenant: in.Tenant, strongest: in.Who[0], metric: in.Event.Metric, uid: in.Event.UID}
	if in.Change != nil || len(in.Who) > 1 {
		rest := *in
		rest.Kind, rest.Event = fact.KindChange, nil
		if rest.Change == nil {
			rest.Change = &fact.Change{}
		}
		o.instead = rest.Append(nil)
	}
	r.old = append(r.old, o)
}

// askArchive leaves in r.old the events that came before.
func (k *Door) askArchive(ctx context.Context, r *reader) {
	if len(r.old) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, archiveTotal)
	defer cancel()
	var failure error
	late := false
	r.old = slices.DeleteFunc(r.old, func(o old) bool {
		answer := "none"
		if !late {
			one, done := context.WithTimeout(ctx, archivePatience)
			seen, err := k.d.Archive.Seen(one, o.tenant, o.strongest, o.metric, o.uid)
			late = one.Err() != nil
			done()
			switch {
			case err != nil:
				failure = err
			case seen:
				answer = "repeated"
			default:
				answer = "new"
			}
		}
		k.numbers.archive.WithLabelValues(answer).Inc()
		return answer != "repeated"
	})
	if failure != nil {
		k.d.Logger.Debug("the archive did not answer whether events of long ago came before; they were taken", "error", failure)
	}
}
