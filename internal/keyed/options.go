package keyed

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/units"
)

// Options are common to the workers of a process.
type Options struct {
	Dir           string         `toml:"dir" doc:"Folder of the state of the pipeline's stages. It may be deleted while the program is down: state comes back from snapshots and the log."`
	Snapshots     string         `toml:"snapshots" doc:"Folder of snapshots of the state, outside of dir but on the same volume, so that they share their files. Empty makes none: the log then keeps everything."`
	Window        units.Duration `toml:"window" doc:"How long the account level collects changes before it writes them into its state. It is up to three times as long when many come. They show at once; after a crash they are made again from the log. Longer saves work and makes each write longer, for which records wait."`
	SnapshotEvery units.Duration `toml:"snapshot_every" doc:"Time between two snapshots of a partition. The log keeps what came after the last snapshot but one."`
	Cache         units.Size     `toml:"cache" doc:"Memory for state that was read and for changes that are not written out, of all stages together. Leave room beyond twice memtable for each stage and partition."`
	MemTable      units.Size     `toml:"memtable" doc:"Changes that a partition of a stage collects in memory before it writes them out; two or three of them are in use."`
	Records       int            `toml:"records" doc:"Most records that a stage handles at a time."`
	// Retry is the first pause after an error; it doubles up to 64 times. Default 250 ms.
	Retry units.Duration `toml:"-"`
	// FS is where state and snapshots are; nil is the system's.
	FS vfs.FS `toml:"-"`
}

// DefaultOptions lack only the folders.
func DefaultOptions() Options {
	return Options{
		Window:        units.Duration(750 * time.Millisecond),
		SnapshotEvery: units.Duration(5 * time.Minute),
		Cache:         768 << 20,
		MemTable:      16 << 20,
		Records:       4096,
	}
}

func (o *Options) setDefaults() {
	d := DefaultOptions()
	if o.SnapshotEvery == 0 {
		o.SnapshotEvery = d.SnapshotEvery
	}
	if o.Cache == 0 {
		o.Cache = d.Cache
	}
	if o.MemTable == 0 {
		o.MemTable = d.MemTable
	}
	if o.Records == 0 {
		o.Records = d.Records
	}
	if o.Retry == 0 {
		o.Retry = units.Duration(250 * time.Millisecond)
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
}

// Validate reports what cannot be used.
func (o *Options) Validate() error {
	var errs []error
	if o.Dir == "" {
		errs = append(errs, errors.New("dir is empty"))
	}
	if in, err := filepath.Rel(o.Dir, o.Snapshots); o.Dir != "" && o.Snapshots != "" && err == nil && in != ".." && !strings.HasPrefix(in, ".."+string(filepath.Separator)) {
		errs = append(errs, errors.New("snapshots lies within dir: it must outlive it"))
	}
	for _, d := range []struct {
		name string
		v    units.Duration
	}{{"window", o.Window}, {"snapshot_every", o.SnapshotEvery}, {"retry", o.Retry}} {
		if d.v < 0 {
			errs = append(errs, fmt.Errorf("%s is negative", d.name))
		}
	}
	if o.Cache < 0 || o.MemTable < 0 || o.MemTable > 0 && o.MemTable < 1<<20 || o.MemTable > 1<<30 {
		errs = append(errs, errors.New("cache and memtable: memtable is from 1MiB to 1GiB, cache not negative"))
	}
	if o.Records < 0 {
		errs = append(errs, errors.New("records is negative"))
	}
	return errors.Join(errs...)
}

// Spec is what one consumer does.
type Spec struct {
	Name   string // of the group, and of its folder: letters, digits, - and _
	Input  stream.Topic
	Window time.Duration // a commit at least this often; 0: after each Apply
	// Version is of the rows that the stage writes. State and snapshots of another one are not used: all is made anew from the log.
	Version uint32
	Merger  Merger
	// Heavy is how many times Options.MemTable a partition collects, for a stage that writes much; 0 is 1.
	Heavy int
	// Early says that the processor shows what is applied before it is committed: see Worker.Serving.
	Early bool
	// New makes the processor of an assigned partition, on its state.
	New func(s *Store, a stream.Assignment) (Processor, error)
}

func (s *Spec) validate() error {
	if s.Name == "" || strings.ContainsFunc(s.Name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) {
		return fmt.Errorf("keyed: name %q: letters, digits, - and _ are allowed", s.Name)
	}
	if s.Input == nil || s.New == nil {
		return fmt.Errorf("keyed: %s: input and new are needed", s.Name)
	}
	if s.Window < 0 {
		return fmt.Errorf("keyed: %s: window is negative", s.Name)
	}
	return nil
}

// Deps are what a worker works with.
type Deps struct {
	Logger     *slog.Logger          // nil drops
	Registerer prometheus.Registerer // nil registers nothing
	Memory     *Memory               // shared by the workers of a process; nil makes one for this worker
}

// Memory is what the stores of a process share: a cache, turns at compacting, and turns at applying records.
type Memory struct {
	blocks      *pebble.Cache
	files       *pebble.FileCache
	compactions *compactions
	turns       chan struct{} // has an element for each stage that is applying or committing
	extra       chan struct{} // the same while a stage is behind
	hurry       atomic.Int64  // until when one is, as Unix nanoseconds
}

const (
	// maxFiles bounds the files that all stores of a process keep open. The system's limit is far above it.
	maxFiles = 4000
	// maxCompactions is how many compactions run at once, for two cores. A store that is far behind may run one more.
	maxCompactions = 1
)

// NewMemory makes a cache of so many bytes. It has a goroutine that Close ends.
func NewMemory(size units.Size) *Memory {
	m := &Memory{blocks: pebble.NewCache(int64(size)), files: pebble.NewFileCache(2, maxFiles),
		turns: make(chan struct{}, maxTurns()), extra: make(chan struct{}, 1)}
	m.compactions = newCompactions(maxCompactions, m.Behind)
	return m
}

// maxTurns leaves one CPU to requests. Threads beyond the number of CPUs make none.
func maxTurns() int { return max(1, min(runtime.GOMAXPROCS(0), runtime.NumCPU())-1) }

// Behind reports whether a stage is behind, or was a moment ago: work that can wait should leave it the CPU.
func (m *Memory) Behind() bool { return time.Now().UnixNano() < m.hurry.Load() }

// Close frees it once all stores that use it are closed.
func (m *Memory) Close() {
	m.compactions.close()
	m.files.Unref()
	m.blocks.Unref()
}
