package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
)

// Skipped is a record that a consumer is not given, since it cannot be applied and an operator said so.
type Skipped struct {
	Consumer  string    `json:"consumer"`
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	At        time.Time `json:"at"`
	Why       string    `json:"why"` // the error that it was skipped for
}

// skips remembers what is skipped, in a file: a state that is made anew skips the same. It knows
// what each consumer is stuck at, as it stands between the worker and the stage's processor.
type skips struct {
	dir string
	log *slog.Logger
	met *prometheus.CounterVec

	mu    sync.Mutex
	all   []Skipped
	stuck map[spot]stuckAt
}

// spot is a partition of a consumer's input.
type spot struct {
	consumer  string
	partition int32
}

// stuckAt is the one record that the last try of a partition failed at.
type stuckAt struct {
	offset int64
	err    error
}

const (
	skippedName = "skipped.json"
	maxSkipped  = 16 << 20
)

// openSkips reads what is skipped in a pipeline's folder.
func openSkips(dir string, log *slog.Logger, reg prometheus.Registerer) (*skips, error) {
	s := &skips{dir: dir, log: log, stuck: map[spot]stuckAt{}, met: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "godwit_pipeline_skipped_records_total",
		Help: "Records that a consumer was not given because of godwit pipeline skip; again each time that its state is made anew."}, []string{"consumer"})}
	b, err := faultfs.ReadFile(faultfs.OS{}, filepath.Join(dir, skippedName), maxSkipped)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(b, &s.all); err != nil {
			return nil, fmt.Errorf("%s, which says what consumers have skipped: %w: restore it from a copy", filepath.Join(dir, skippedName), err)
		}
	}
	if reg != nil {
		if err := reg.Register(s.met); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// list is what is skipped, in the order in which it was asked for.
func (s *skips) list() []Skipped {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// of are the offsets that a partition of a consumer skips.
func (s *skips) of(at spot) (offsets []int64) {
	for _, one := range s.list() {
		if one.Consumer == at.consumer && one.Partition == at.partition {
			offsets = append(offsets, one.Offset)
		}
	}
	return offsets
}

// skipsFact reports whether the account level skips a fact.
func (s *skips) skipsFact(partition int32, offset int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.all, func(one Skipped) bool {
		return one.Consumer == consumerAccount && one.Partition == partition && one.Offset == offset
	})
}

// add skips the record that a partition is stuck at, and only that one.
func (s *skips) add(at spot, offset int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, stuck := s.stuck[at]
	switch {
	case !stuck:
		return fmt.Errorf("%w: %s is not stuck at a record of partition %d now; after a failure it takes a moment until the record at fault is found", ErrRefused, at.consumer, at.partition)
	case now.offset != offset:
		return fmt.Errorf("%w: %s is stuck at offset %d of partition %d, not at %d", ErrRefused, at.consumer, now.offset, at.partition, offset)
	}
	all := append(slices.Clone(s.all), Skipped{at.consumer, at.partition, offset, time.Now().UTC().Truncate(time.Second), now.err.Error()})
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	if err := faultfs.WriteFile(faultfs.OS{}, s.dir, skippedName, append(b, '\n'), 0o640); err != nil {
		return fmt.Errorf("nothing is skipped: %w", err)
	}
	s.all = all
	delete(s.stuck, at)
	s.log.Error("a record is skipped because an operator said so: its effect is missing from this consumer's state, now and after each rebuild",
		"consumer", at.consumer, "partition", at.partition, "offset", offset, "why", now.err)
	return nil
}

// failed and went note how a partition is doing.
func (s *skips) failed(at spot, offset int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stuck[at] = stuckAt{offset, err}
}

func (s *skips) went(at spot, upTo int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, stuck := s.stuck[at]; stuck && now.offset <= upTo {
		delete(s.stuck, at)
	}
}

// stuckOffset is the record that a partition is stuck at, if one is known.
func (s *skips) stuckOffset(at spot) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, stuck := s.stuck[at]
	return now.offset, stuck
}

// newProcessor makes the processor of a partition: keyed.Spec.New.
type newProcessor = func(*keyed.Store, stream.Assignment) (keyed.Processor, error)

// around puts a skipper before each processor of a consumer.
func (s *skips) around(consumer string, make newProcessor) newProcessor {
	return func(store *keyed.Store, a stream.Assignment) (keyed.Processor, error) {
		p, err := make(store, a)
		if err != nil {
			return nil, err
		}
		return &skipper{s: s, at: spot{consumer, a.Partition}, to: p}, nil
	}
}

// behind gives the processors that skippers stand before.
func behind(processors func(int32) (keyed.Processor, bool)) func(int32) (keyed.Processor, bool) {
	return func(partition int32) (keyed.Processor, bool) {
		p, ok := processors(partition)
		if k, is := p.(*skipper); is {
			p = k.to
		}
		return p, ok
	}
}

// skipper hands a processor the records that are not skipped, and notes which one it failed at.
// A worker makes a new one after each error, so what is skipped is read at the first record; it hands records one by one then.
type skipper struct {
	s  *skips
	at spot
	to keyed.Processor

	read    bool
	offsets []int64
	open    int   // records applied since the last Flush
	last    int64 // the last of them
}

// Apply implements keyed.Processor.
func (k *skipper) Apply(tx *keyed.Tx, recs []stream.Record) error {
	if !k.read {
		k.read, k.offsets = true, k.s.of(k.at)
	}
	if recs = k.rest(recs); len(recs) == 0 {
		return nil
	}
	if err := k.to.Apply(tx, recs); err != nil {
		if len(recs) == 1 && k.open == 0 {
			k.s.failed(k.at, recs[0].Offset, err)
		}
		return err
	}
	k.open, k.last = k.open+len(recs), recs[len(recs)-1].Offset
	return nil
}

// rest leaves out what is skipped.
func (k *skipper) rest(recs []stream.Record) []stream.Record {
	skipped := func(r stream.Record) bool { return slices.Contains(k.offsets, r.Offset) }
	if len(k.offsets) == 0 || !slices.ContainsFunc(recs, skipped) {
		return recs
	}
	var out []stream.Record
	for _, r := range recs {
		if !skipped(r) {
			out = append(out, r)
			continue
		}
		k.s.met.WithLabelValues(k.at.consumer).Inc()
		k.s.log.Warn("record skipped", "consumer", k.at.consumer, "partition", k.at.partition, "offset", r.Offset)
	}
	return out
}

// Flush implements keyed.Processor.
func (k *skipper) Flush(tx *keyed.Tx) error {
	if err := k.to.Flush(tx); err != nil {
		if k.open == 1 {
			k.s.failed(k.at, k.last, err)
		}
		return err
	}
	if k.open > 0 {
		k.open = 0
		k.s.went(k.at, k.last)
	}
	return nil
}

// SkipRecord makes a consumer go on behind the record that it is stuck at. It is refused unless that is exactly this one, and
// remembered: a state that is made anew skips it too.
func (p *Pipeline) SkipRecord(_ context.Context, name string, partition int, offset int64) error {
	if name == consumerWarehouse {
		return fmt.Errorf("%w: the warehouse leaves out by itself what is no fact; other errors are not of one record", ErrRefused)
	}
	if _, err := p.consumer(name); err != nil {
		return err
	}
	if partition < 0 || partition >= p.o.Partitions {
		return fmt.Errorf("%w: there is no partition %d; they are 0 to %d", ErrRefused, partition, p.o.Partitions-1)
	}
	return p.skips.add(spot{name, int32(partition)}, offset)
}

// Skipped is what consumers skip.
func (p *Pipeline) Skipped() []Skipped { return p.skips.list() }

// StuckAt is the record that a partition of a consumer is stuck at, if one is known.
func (p *Pipeline) StuckAt(name string, partition int32) (offset int64, stuck bool) {
	return p.skips.stuckOffset(spot{name, partition})
}
