package keyed

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// StoreOptions say how one Store is kept.
type StoreOptions struct {
	Memory   *Memory       // shared by the stores of a process; nil: Cache
	Cache    *pebble.Cache // of blocks, without Memory; nil is a small one
	MemTable uint64        // bytes collected before they are written out, which count as part of the cache; 0 is 16 MiB
	Merger   Merger        // nil if Tx.Merge is not used
	FS       vfs.FS        // nil is the system's
	Logger   *slog.Logger  // of Pebble's own messages, at debug; nil drops them
	ReadOnly bool
}

// format is the layout of Pebble's files. A later one needs a look at what it changes: old programs cannot read it.
const format = pebble.FormatValueSeparation

func (o StoreOptions) pebble(s *Store) *pebble.Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	po := &pebble.Options{
		Cache: o.Cache, FS: o.FS, ReadOnly: o.ReadOnly,
		FormatMajorVersion: format,
		DisableWAL:         true,
		// fresh rotates it when it has MemTable; what is above that is room for the last commit.
		MemTableSize: o.memTable() / 4 * 5,
		// One full and one being written out, and room for a third: a burst waits for the disk only then.
		MemTableStopWritesThreshold: 3,
		// What is compacted seldom is rewritten seldom. Reads that filters do not answer pay for it with a look into each layer of
		// files, and stages ask for little that is not there. Writes are never to stall for a compaction that is late.
		L0CompactionThreshold: 24,
		L0StopWritesThreshold: 96,
		LBaseMaxBytes:         512 << 20,
		// A new list of files is begun as soon as it is shorter than what was added to the last: see relist.
		MaxManifestFileSize: 1,
		// One compaction at a time, a second one only when L0 piles up; see compactions for all stores together.
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
		Merger:                     o.merger(),
		Logger:                     pebbleLog{o.Logger},
		EventListener:              s.events(o.Logger),
	}
	po.Experimental.FileCacheShards = 2
	po.Experimental.L0CompactionConcurrency = farBehind // so many layers allow a second one
	for i := range po.Levels {
		// A look that the filters let through reads a block, and there are up to ten of them for each key: 10 bits would let one in ten through.
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(16)
		po.Levels[i].BlockSize = 8 << 10
		po.Levels[i].Compression = func() *block.CompressionProfile { return block.FastestCompression }
	}
	// Most of the state lies in the last level, and is rewritten least: zstd there costs no time that shows, and takes a sixth less room.
	po.Levels[len(po.Levels)-1].Compression = func() *block.CompressionProfile { return block.BalancedCompression }
	return po
}

// farBehind is from how many layers of files on a store compacts whatever else is going on.
const farBehind = 56

func (o *StoreOptions) memTable() uint64 { return cmp.Or(o.MemTable, 16<<20) }

// OpenStore opens the state in a folder, making it if it is not there.
func OpenStore(dir string, o StoreOptions) (*Store, error) {
	s := &Store{dir: dir, drained: make(chan struct{}, 1), damaged: make(chan struct{}), sums: map[string]snapFile{}, seed: maphash.MakeSeed()}
	po := o.pebble(s)
	var t *turn
	if m := o.Memory; m != nil {
		po.FS = pacedFS{po.FS, m.Behind, s.ending.Load}
		t = m.compactions.turn()
		po.Cache, po.FileCache, po.Experimental.CompactionScheduler = m.blocks, m.files, t
	}
	db, err := pebble.Open(dir, po)
	if err != nil {
		if t != nil {
			t.Unregister() // it may have been registered before the error
		}
		return nil, fmt.Errorf("keyed: open %s: %w", dir, err)
	}
	s.db, s.fs = db, po.FS
	s.fresh = newFresh(s, o.memTable())
	return s, nil
}

// Close waits for reads that are under way and closes the state without writing it out: what is not, is made again from the log.
func (s *Store) Close() error {
	if s.closing.Swap(true) {
		return nil
	}
	for s.users.Load() != 0 {
		<-s.drained
	}
	s.ending.Store(true)
	if err := errors.Join(s.closeProbes(), s.db.Close()); err != nil {
		return fmt.Errorf("keyed: close %s: %w", s.dir, err)
	}
	return nil
}

// Flush writes out what is committed, and waits for it. It is synced then.
func (s *Store) Flush() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if err := s.db.Flush(); err != nil {
		return s.failed(err)
	}
	return nil
}

// Usage is what a Store takes.
type Usage struct {
	Disk     uint64 // bytes of its files
	Memory   uint64 // bytes of what is not written out
	Debt     uint64 // bytes that compactions have to rewrite
	ReadAmp  int    // files that a read may have to look into
	Flushes  int64  // since it was opened
	Compacts int64  // likewise
}

// Usage returns zero after Close.
func (s *Store) Usage() Usage {
	if s.enter() != nil {
		return Usage{}
	}
	defer s.leave()
	m := s.db.Metrics()
	return Usage{Disk: m.DiskSpaceUsage(), Memory: m.MemTable.Size + m.MemTable.ZombieSize, Debt: m.Compact.EstimatedDebt,
		ReadAmp: m.ReadAmp(), Flushes: m.Flush.Count, Compacts: m.Compact.Count}
}

// events listens to what must not only be logged.
func (s *Store) events(l *slog.Logger) *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			if s.ending.Load() {
				return // it was given up
			}
			_ = s.failed(err) // notes damage
			l.Warn("state: background work failed", "dir", s.dir, "err", err)
		},
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			s.note(fmt.Errorf("keyed: %s is damaged: %w", i.Path, i.Details))
			l.Error("state: damage found", "path", i.Path, "err", i.Details)
		},
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) {
			l.Debug("state: writes wait", "dir", s.dir, "reason", i.Reason)
		},
		FlushEnd: func(i pebble.FlushInfo) { l.Debug(i.String()) },
		CompactionEnd: func(i pebble.CompactionInfo) {
			if l.Enabled(context.Background(), slog.LevelDebug) {
				l.Debug(i.String())
			}
		},
	}
}

// pebbleLog is a pebble.Logger.
type pebbleLog struct{ l *slog.Logger }

func (p pebbleLog) Infof(format string, args ...any) {
	if p.l.Enabled(context.Background(), slog.LevelDebug) {
		p.l.Debug(fmt.Sprintf(format, args...))
	}
}

func (p pebbleLog) Errorf(format string, args ...any) { p.l.Warn(fmt.Sprintf(format, args...)) }

// Fatalf ends the process, as Pebble demands: it cannot write its list of files, and must not go on with another idea of it
// than the disk has. The state is whole after the restart.
func (p pebbleLog) Fatalf(format string, args ...any) {
	p.l.Error(fmt.Sprintf(format, args...))
	panic("keyed: " + fmt.Sprintf(format, args...))
}

func (o StoreOptions) merger() *pebble.Merger {
	if o.Merger == nil {
		return &pebble.Merger{Name: "godwit.none"}
	}
	return &pebble.Merger{Name: "godwit.keyed", Merge: func(key, value []byte) (pebble.ValueMerger, error) {
		return &merging{m: o.Merger, key: bytes.Clone(key), parts: []partial{{value: bytes.Clone(value)}}}, nil
	}}
}

// merging drives a Merger for Pebble. Operands are combined in pairs of about the same number, as in a merge sort: one
// after the other, the longest would be copied once for each.
type merging struct {
	m     Merger
	key   []byte
	parts []partial // the newest first
}

// partial is 1 << rank operands.
type partial struct {
	value []byte
	rank  int
}

func (m *merging) MergeOlder(value []byte) error {
	m.parts = append(m.parts, partial{value: bytes.Clone(value)})
	for n := len(m.parts); n > 1 && m.parts[n-1].rank == m.parts[n-2].rank; n-- {
		if err := m.combineLast(); err != nil {
			return err
		}
	}
	return nil
}

// combineLast makes one of the two oldest.
func (m *merging) combineLast() error {
	n := len(m.parts)
	v, err := m.m.Combine(m.key, m.parts[n-1].value, m.parts[n-2].value)
	m.parts[n-2] = partial{v, m.parts[n-2].rank + 1}
	m.parts = m.parts[:n-1]
	return err
}

// combined makes one of all.
func (m *merging) combined() ([]byte, error) {
	for len(m.parts) > 1 {
		if err := m.combineLast(); err != nil {
			return nil, err
		}
	}
	return m.parts[0].value, nil
}

func (m *merging) MergeNewer(value []byte) error {
	older, err := m.combined()
	if err == nil {
		m.parts[0].value, err = m.m.Combine(m.key, older, bytes.Clone(value))
	}
	return err
}

func (m *merging) Finish(bool) ([]byte, io.Closer, error) {
	v, err := m.combined()
	return v, nil, err
}
