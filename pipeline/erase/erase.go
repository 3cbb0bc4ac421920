// Package erase takes deleted profiles out of the logs, and out of the files of what is made from them.
//
// A deletion reaches the consumers as markers in the second log, and they drop what they have of the profile. Its records stay in
// the segments of both logs. An Eraser follows the markers, collects the profiles (follow.go), and now and then makes a pass for all that
// wait. A pass takes these steps:
//
//  1. Find the profiles that were merged into those that wait (markers.go).
//  2. Wait until every consumer has applied the deletions and what they led to, and until no snapshot is older than
//     that (barrier.go): from then on nobody reads these records again, unless state is made from the very beginning of a log, and nobody writes them again.
//  3. Note which records of the first log it is about (plan.go): the facts name the record that they were made of. The plan is durable.
//  4. Rewrite the segments of the first log, then of the second one (pass.go, blank.go); and again those few records that somebody wrote anew
//     meanwhile.
//  5. Compact the states that have personal data, and replace their snapshots (compact.go): rows are deleted with the marker, their bytes
//     stay in files until then.
//  6. Forget the profiles and the plan.
//
// A crash before the plan is there begins the pass anew; after it the pass goes on with 4, or with 5 if the plan says that 4 is done. Neither does harm when done twice.
//
// What stays: markers, redirects and merges, which name profile ids only and are the tombstones that a replay needs; of an event what was
// counted (metric, time, value, dimensions, the profile's id), so that a replay counts the same; of its unique id a hash.
package erase

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Options are what a configuration file can set.
type Options struct {
	Within units.Duration `toml:"within" doc:"Time after the deletion of a profile within which the segments of both logs that have records of it are rewritten without its personal data, and state, snapshots and warehouse without its rows. Deletions are collected for half of it and then erased in one pass; the other half is for consumers that are behind or stopped. Logs in Kafka are not rewritten: there the topics' retention must not be longer."`
}

// DefaultOptions returns 7 days.
func DefaultOptions() Options { return Options{Within: units.Duration(7 * 24 * time.Hour)} }

// Validate names the first key that cannot be used.
func (o Options) Validate() error {
	if o.Within.D() < time.Hour {
		return errors.New("within: must be at least 1h")
	}
	return nil
}

// Log is what is asked of the logs; a *stream.Embedded is one.
type Log interface {
	Each(ctx context.Context, topic string, f func(partition int32, offset int64, data []byte) error) error
	Rewrite(ctx context.Context, topic string, keep stream.Keep) error
	Held(topic string) (map[string]map[int32]int64, error)
}

// Consumer is a reader of one of the logs that keeps state.
type Consumer struct {
	Name  string // of its group
	Input string // topic
	// Committed returns, by partition, the offset before which all is in its state.
	Committed func(ctx context.Context) ([]int64, error)
	// Renew makes snapshots of its state now; nil if it needs none to hold less of the log.
	Renew func(ctx context.Context) error
	// Compact rewrites the files of its state so that they do not have what is deleted; nil if they never have personal data.
	Compact func(ctx context.Context) (Compaction, error)
}

// Deps are what an Eraser works with.
type Deps struct {
	Log           Log
	Intake, Facts stream.Topic
	// Consumers are all that there are to be: nothing is erased before each of them has applied a deletion.
	Consumers []Consumer
	// Seal makes an identifier unreadable so that the identity stage can still replay the record that it stands in, which made
	// or belongs to the profile. Nil: such records are emptied.
	Seal       func(tenant string, id fact.Identifier, profile fact.ProfileID) fact.Identifier
	FS         faultfs.FS            // nil: the machine's
	Now        func() time.Time      // nil: time.Now
	Logger     *slog.Logger          // nil drops
	Registerer prometheus.Registerer // nil registers nothing
}

// Eraser collects deletions and erases them in time. It is safe for concurrent use.
type Eraser struct {
	dir string
	o   Options
	d   Deps
	log *slog.Logger
	m   *metrics

	passing sync.Mutex // one pass at a time; taken before mu

	mu    sync.Mutex
	st    state
	dirty bool   // st is not what is on the disk
	why   string // what the last pass failed of
	busy  bool
	does  string // what a pass is at
}

// Report tells of a pass.
type Report struct {
	At       time.Time     `json:"at"`
	Took     time.Duration `json:"took"`
	Profiles int           `json:"profiles"` // deleted ones; those merged into them are not counted
	Intake   int           `json:"intake"`   // records of the first log that were erased
	Facts    int           `json:"facts"`    // and of the second one
	// Compacted are the consumers whose states were compacted.
	Compacted []string `json:"compacted,omitempty"`
}

// Status tells how the eraser is doing.
type Status struct {
	Waiting int       // deletions whose records are not erased yet
	Oldest  time.Time // when the oldest of them was accepted; zero if none waits
	Within  time.Duration
	Running bool   // a pass is under way
	Doing   string // what that is at
	Why     string // what the last pass could not be finished for; empty if it was
	Last    Report // of the last pass that was finished; zero if there was none
}

// New opens the eraser's folder, making it if it is not there.
func New(dir string, o Options, d Deps) (*Eraser, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("erase: %w", err)
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.FS == nil {
		d.FS = faultfs.OS{}
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if err := d.FS.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("erase: %w", err)
	}
	e := &Eraser{dir: dir, o: o, d: d, log: d.Logger}
	if err := e.load(); err != nil {
		return nil, fmt.Errorf("erase: %w", err)
	}
	var err error
	if e.m, err = newMetrics(d.Registerer, e); err != nil {
		return nil, fmt.Errorf("erase: %w", err)
	}
	return e, nil
}

// Status may be called at any time.
func (e *Eraser) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Status{Waiting: len(e.st.waiting), Within: e.o.Within.D(), Running: e.busy, Doing: e.does, Why: e.why, Last: e.st.last}
	for _, w := range e.st.waiting {
		if s.Oldest.IsZero() || w.at.Before(s.Oldest) {
			s.Oldest = w.at
		}
	}
	return s
}

// lookEvery is how often it is looked whether a pass is due, and at the latest what was collected is written down.
const lookEvery = time.Minute

// Run collects and erases until ctx ends.
func (e *Eraser) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for p := range e.d.Facts.Partitions() {
		all.Go(func() { e.follow(ctx, p) })
	}
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		e.tick(ctx)
		select {
		case <-ctx.Done():
			return e.save()
		case <-t.C:
		}
	}
}

// tick does what is due.
func (e *Eraser) tick(ctx context.Context) {
	if e.due() {
		if _, err := e.Pass(ctx); err != nil && ctx.Err() == nil {
			e.failed(err)
		}
	}
	if err := e.save(); err != nil && ctx.Err() == nil {
		e.log.Error("erase: what waits could not be written down; it is found again in the log", "error", err)
	}
}

// failed tells of a pass that could not be finished, once for each reason while there is time.
func (e *Eraser) failed(err error) {
	e.m.passes.WithLabelValues("failed").Inc()
	e.mu.Lock()
	again := e.why == err.Error()
	e.why = err.Error()
	e.mu.Unlock()
	s := e.Status()
	late := !s.Oldest.IsZero() && e.d.Now().Sub(s.Oldest) > s.Within
	switch {
	case late:
		e.log.Error("erase: deleted profiles are not erased after the configured time; it is tried again", "error", err, "profiles", s.Waiting, "oldest", s.Oldest, "within", s.Within)
	case !again:
		e.log.Warn("erase: deleted profiles could not be erased yet; it is tried again", "error", err, "profiles", s.Waiting, "oldest", s.Oldest)
	}
}

// due reports whether a pass is to be made: one was begun, or the oldest deletion has waited for half of the time there is.
func (e *Eraser) due() bool {
	if _, err := e.d.FS.Stat(e.planPath()); err == nil {
		return true
	}
	s := e.Status()
	return !s.Oldest.IsZero() && e.d.Now().Sub(s.Oldest) >= s.Within/2
}
