package stream

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/seglog"
	"github.com/godwit-mta/godwit/internal/units"
)

// Options are what a configuration file can set of the embedded log. The limits hold for each topic.
type Options struct {
	KeepFor      units.Duration `toml:"keep_for" doc:"Age after which records are dropped, unless a consumer's oldest snapshot still needs them; 0 keeps them for ever."`
	KeepBytes    units.Size     `toml:"keep_size" doc:"Size of one topic above which its oldest records are dropped, unless a consumer's oldest snapshot still needs them; 0 is no limit."`
	SegmentBytes units.Size     `toml:"segment_size" doc:"Size of one segment file; a segment is the unit in which records are dropped."`
	Spares       int            `toml:"spares" doc:"Number of segments kept written in advance for each topic, so that appending never waits for the filesystem to find blocks; 0 for none."`
	MaxAppend    units.Size     `toml:"max_append" doc:"Largest number of bytes that one append can carry."`
	Recent       units.Size     `toml:"recent_size" doc:"Memory for the newest records of each topic: consumers that are not further behind read nothing from the disk."`
}

// DefaultOptions returns 7 days, no limit of size, 64 MiB segments, no spares, appends up to 64 MiB, 16 MiB of recent records.
func DefaultOptions() Options {
	s := seglog.DefaultOptions()
	const day = 24 * 3600 * 1e9
	return Options{KeepFor: 7 * day, SegmentBytes: s.SegmentBytes, MaxAppend: 64 << 20, Recent: 16 << 20}
}

// withDefaults fills what cannot be zero.
func (o Options) withDefaults() Options {
	d := DefaultOptions()
	if o.SegmentBytes == 0 {
		o.SegmentBytes = d.SegmentBytes
	}
	if o.MaxAppend == 0 {
		o.MaxAppend = d.MaxAppend
	}
	if o.Recent == 0 {
		o.Recent = d.Recent
	}
	return o
}

// Validate returns an error that begins with the key at fault.
func (o Options) Validate() error {
	switch {
	case o.KeepFor < 0:
		return errors.New("keep_for: must not be negative")
	case o.KeepBytes < 0:
		return errors.New("keep_size: must not be negative")
	case o.MaxAppend < 1<<10 || o.MaxAppend > 1<<30:
		return errors.New("max_append: must be between 1KiB and 1GiB")
	case o.Recent < 0 || o.Recent > 1<<40:
		return errors.New("recent_size: must be between 0 and 1TiB")
	}
	return o.segments().Validate()
}

// segments are the options of a topic's segments.
func (o Options) segments() seglog.Options {
	return seglog.Options{SegmentBytes: o.SegmentBytes, Spares: o.Spares, MaxRecord: o.MaxAppend + groupBytes + batchHeader}
}

// Deps are what a Log works with.
type Deps struct {
	FS         faultfs.FS            // of an embedded log; nil: the machine's
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
}

func (d Deps) withDefaults() Deps {
	if d.FS == nil {
		d.FS = faultfs.OS{}
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	return d
}

// maxPartitions bounds what a topic can be made with.
const maxPartitions = 1 << 16

// checkTopic returns an error unless a topic can have this name and so many partitions.
func checkTopic(name string, partitions int32) error {
	ok := name != "" && len(name) <= 100 && name[0] != '.'
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	switch {
	case !ok:
		return fmt.Errorf("stream: topic name %q: must be letters, digits, dots, dashes and underscores, at most 100, and not begin with a dot", name)
	case partitions < 1 || partitions > maxPartitions:
		return fmt.Errorf("stream: topic %s: %d partitions; must be between 1 and %d", name, partitions, maxPartitions)
	}
	return nil
}

// checkPartition returns an error unless the topic has the partition.
func checkPartition(t Topic, partition int32) error {
	if partition < 0 || partition >= t.Partitions() {
		return fmt.Errorf("stream: topic %s has no partition %d, only 0 to %d", t.Name(), partition, t.Partitions()-1)
	}
	return nil
}
