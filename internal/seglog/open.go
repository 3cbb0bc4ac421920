package seglog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/mail"
)

// Open opens the log in dir, making both where there is none, and is ready to
// append on return. Of a log that was not closed it reads the last segment that
// was written to, to find where its records end. One process at a time may have a log open.
//
// A damaged segment does not keep a log from opening: Scan reports it.
func Open(dir string, o Options, d Deps) (*Log, error) {
	o = o.withDefaults()
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("seglog: %w", err)
	}
	if d.FS == nil {
		d.FS = faultfs.OS{}
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{
		dir: dir, o: o, fs: d.FS, log: d.Logger.With("log", d.Name),
		freed: map[uint64]bool{}, wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	l.chores.ready = make(chan struct{}, 1)
	l.requests.New = func() any { return &request{done: make(chan struct{}, 1)} }
	l.buffers.New = func() any { b := make([]byte, scanBuffer); return &b }
	err := l.open()
	if err == nil {
		l.metrics, err = newMetrics(l, d.Registerer, d.Name)
	}
	if err != nil {
		return nil, errors.Join(explain(dir, err), l.closeFiles())
	}
	l.wg.Add(2)
	go l.committer()
	go l.housekeeper()
	if l.mustRoll {
		// A torn group follows the tail. With no room for a new segment the log
		// opens all the same: it can be read, and appending tries again.
		if err := l.Roll(); err != nil && !errors.Is(err, mail.ErrDiskFull) {
			return nil, errors.Join(explain(dir, err), l.Close())
		}
	}
	return l, nil
}

// explain adds what to do to the errors an operator can do something about.
func explain(dir string, err error) error {
	switch {
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("seglog: %s is on a read-only volume; look in the kernel log for why, repair it and mount it read-write: %w", dir, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("seglog: %s: no permission; the folder must belong to the user that runs godwit: %w", dir, err)
	}
	return fmt.Errorf("seglog: open %s: %w", dir, err)
}

// open finds the segments, the active one, its tail and the spares.
func (l *Log) open() error {
	if err := l.makeDir(); err != nil {
		return err
	}
	m, haveManifest, err := l.readManifest()
	if err != nil {
		return err
	}
	l.oldest, l.freed = m.oldest, m.freed
	found, err := l.list()
	if err != nil {
		return err
	}
	l.nextSeq = max(l.oldest, 1)
	for seq := range l.freed {
		l.nextSeq = max(l.nextSeq, seq+1)
	}
	if len(found) == 0 {
		return l.create(haveManifest)
	}
	l.segs = found // so that an error closes them
	if !haveManifest {
		l.oldest = found[0].seq
		if err := l.writeManifest(); err != nil {
			return fullOr("manifest", err)
		}
	}
	active, err := l.findActive(found)
	if err != nil {
		return err
	}
	if active < 0 {
		return l.replaceLost()
	}
	if err := l.keepSpares(found[active+1:]); err != nil {
		return err
	}
	l.segs = found[: active+1 : active+1]
	for _, s := range l.segs {
		if s.file != nil {
			l.openFiles.Add(1)
		}
	}
	return nil
}

func (l *Log) makeDir() error {
	if _, err := l.fs.Stat(l.dir); err == nil {
		return nil
	}
	if err := l.fs.MkdirAll(l.dir, 0o750); err != nil {
		return err
	}
	return l.fs.SyncDir(filepath.Dir(l.dir))
}

// list returns the segments in the folder by number, and finishes what a crash
// left undone: half-made files and freed segments are deleted.
func (l *Log) list() ([]*segment, error) {
	entries, err := l.fs.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	var found []*segment
	for _, e := range entries {
		seq, ok := parseSegmentName(e.Name())
		leftover := strings.HasSuffix(e.Name(), tempSuffix) || (ok && (seq < l.oldest || l.freed[seq]))
		if leftover {
			if err := l.fs.Remove(l.path(e.Name())); err != nil {
				return nil, err
			}
			continue
		}
		if !ok {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		found = append(found, &segment{seq: seq, path: l.path(e.Name()), used: info.Size(), modified: info.ModTime()})
	}
	slices.SortFunc(found, func(a, b *segment) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	return found, nil
}

// create makes the first segment of an empty log.
func (l *Log) create(haveManifest bool) error {
	l.oldest, l.freed = l.nextSeq, map[uint64]bool{}
	if !haveManifest {
		if err := l.writeManifest(); err != nil {
			return fullOr("manifest", err)
		}
	}
	s, err := l.takeSpare()
	if err != nil {
		return err
	}
	l.segs = append(l.segs, s)
	l.start(s, FirstOffset)
	return nil
}

// replaceLost begins a new segment when nothing more can go into the last one found. If that is sealed
// its successor, which was durable before the seal was written, has been lost: the successor's number stays
// unused and Scan reports it. If it only has a damaged header it may have been the active one, and nothing
// is missing behind it.
func (l *Log) replaceLost() error {
	last := l.segs[len(l.segs)-1]
	sealed, err := last.hasSeal()
	if err != nil {
		return err
	}
	l.nextSeq = last.seq + 1
	if sealed {
		l.log.Error("the segment after the last sealed one is missing", "segment", l.nextSeq)
		l.nextSeq++
	}
	s, err := l.takeSpare()
	if err != nil {
		return err
	}
	l.segs = append(l.segs, s)
	l.start(s, FirstOffset)
	return nil
}

// hasSeal reports whether the records of s end with a seal. When its header is damaged they are read with the generation that
// the first of them names; a first record that is damaged too counts as a seal, since there may have been one.
func (s *segment) hasSeal() (bool, error) {
	if s.corrupt == "" {
		return true, nil // recoverTail found it
	}
	r := &segReader{file: s.file, end: s.used, buf: make([]byte, scanBuffer)}
	first, err := r.bytes(FirstOffset, HeaderSize)
	if err != nil {
		return false, fmt.Errorf("segment %d: %w", s.seq, err)
	}
	if len(first) < HeaderSize {
		return true, nil
	}
	if len(bytes.Trim(first, "\x00")) == 0 {
		return false, nil // no record was ever written
	}
	r.generation = recordGeneration(first)
	if _, ok := parseRecHeader(first, FirstOffset, r.generation); !ok {
		return true, nil
	}
	t, err := findTail(r)
	if err != nil {
		return false, fmt.Errorf("segment %d: %w", s.seq, err)
	}
	return t.sealed, nil
}

// start makes s the active segment with its next record at off.
func (l *Log) start(s *segment, off int64) {
	l.cur, l.off, l.capacity = s, off, s.used
	l.tail = Pos{Seg: s.seq, Off: off}
}

// findActive returns the index of the active segment and reads its tail: the ones
// before it are sealed, the ones behind it unused. It returns -1 when all are sealed.
func (l *Log) findActive(found []*segment) (int, error) {
	i := len(found) - 1
	for ; i > 0; i-- {
		used, err := l.inUse(found[i])
		if err != nil {
			return 0, err
		}
		if used {
			break
		}
	}
	for ; i < len(found); i++ {
		sealed, err := l.recoverTail(found[i])
		if err != nil {
			return 0, err
		}
		if !sealed {
			return i, nil
		}
	}
	return -1, nil
}

// inUse reports whether s begins with a valid record.
func (l *Log) inUse(s *segment) (bool, error) {
	if err := l.openForWriting(s); err != nil {
		return false, err
	}
	if s.corrupt != "" {
		return false, nil
	}
	r := segReader{file: s.file, generation: s.generation, end: s.used}
	b, err := r.bytes(FirstOffset, HeaderSize)
	if err != nil {
		return false, err
	}
	_, ok := parseRecHeader(b, FirstOffset, s.generation)
	return ok, nil
}

func (l *Log) openForWriting(s *segment) error {
	if s.file != nil {
		return nil
	}
	f, err := l.fs.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := s.adopt(f); err != nil {
		return errors.Join(err, f.Close())
	}
	return nil
}

// recoverTail reads s to the end of its records and makes it the active segment unless it is sealed.
func (l *Log) recoverTail(s *segment) (sealed bool, err error) {
	if err := l.openForWriting(s); err != nil {
		return false, err
	}
	if s.corrupt != "" {
		l.log.Error("segment header is damaged", "segment", s.seq, "reason", s.corrupt)
		return true, nil // nothing more can go in; Scan reports it
	}
	t, err := findTail(&segReader{file: s.file, generation: s.generation, end: s.used, buf: make([]byte, scanBuffer)})
	if err != nil {
		return false, fmt.Errorf("segment %d: %w", s.seq, err)
	}
	if t.sealed {
		s.used = t.end
		return true, nil
	}
	if t.torn {
		l.log.Warn("cut off the torn tail of an unfinished commit; nothing acknowledged was in it", "segment", s.seq, "offset", t.end)
	}
	if err := s.harden(t); err != nil {
		return false, fmt.Errorf("segment %d: %w", s.seq, err)
	}
	l.start(s, t.end)
	l.records, l.mustRoll = t.records, t.torn
	return false, nil
}

// tailInfo is where the records of a segment end.
type tailInfo struct {
	end     int64
	group   int64 // begin of the last group
	records uint64
	sealed  bool
	torn    bool // bytes of an unfinished group follow
}

// findTail walks through a segment. Damage in acknowledged records is stepped
// over: they are behind the tail all the same, and Scan reports it.
func findTail(r *segReader) (tailInfo, error) {
	t := tailInfo{end: FirstOffset, group: FirstOffset}
	for off := int64(FirstOffset); ; {
		h, data, v, err := r.next(off)
		if err != nil {
			return t, err
		}
		switch v {
		case isRecord, isSeal:
			off += HeaderSize + int64(len(data))
			t.end, t.group = off, h.group
			if v == isSeal {
				t.sealed = true
				return t, nil
			}
			t.records++
			continue
		}
		// A record of a later group proves that what should be here was acknowledged.
		later, ok, dirty, err := r.resync(off+1, off)
		if err != nil {
			return t, err
		}
		if !ok {
			t.torn = dirty || v == badData
			return t, nil
		}
		off = later
	}
}

// harden makes the last group durable. It may have been written but not synced when
// the process ended, or a sync may have failed and left clean pages that the disk does
// not have; what is before it was durable when it was written.
func (s *segment) harden(t tailInfo) error {
	if t.end > t.group && t.group >= FirstOffset {
		buf := make([]byte, scanBuffer)
		for off := t.group; off < t.end; {
			n, err := s.file.ReadAt(buf[:min(int64(len(buf)), t.end-off)], off)
			if n == 0 {
				return err
			}
			if _, err := s.file.WriteAt(buf[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
	}
	return s.file.Datasync()
}

// keepSpares takes the unused segments behind the active one as spares. From the first
// that does not follow on, or has another size than new ones, they are deleted.
func (l *Log) keepSpares(rest []*segment) error {
	l.nextSeq = l.tail.Seg + 1
	for i, s := range rest {
		if err := l.openForWriting(s); err != nil {
			return err
		}
		if s.seq != l.nextSeq || s.corrupt != "" || s.used != int64(l.o.SegmentBytes) || len(l.spares) >= l.o.Spares {
			return l.discard(rest[i:])
		}
		l.spares = append(l.spares, s)
		l.nextSeq++
	}
	return nil
}

// discard deletes unused segments, the last one first so that no gap is left by a crash.
func (l *Log) discard(unused []*segment) error {
	for i := len(unused) - 1; i >= 0; i-- {
		s := unused[i]
		if _, err := s.close(ErrFreed); err != nil {
			return err
		}
		if err := l.fs.Remove(s.path); err != nil {
			return err
		}
	}
	return l.fs.SyncDir(l.dir)
}
