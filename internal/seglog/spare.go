package seglog

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

// chores is what waits for the background goroutine.
type chores struct {
	mu     sync.Mutex
	sealed []*segment // to be cut to their used size
	freed  []*segment // to be recycled or deleted
	note   bool       // the manifest must be written
	ready  chan struct{}
}

// add queues a sealed or a freed segment (either may be nil) and wakes the goroutine.
func (c *chores) add(sealed, freed *segment) {
	c.mu.Lock()
	if sealed != nil {
		c.sealed = append(c.sealed, sealed)
	}
	if freed != nil {
		c.freed = append(c.freed, freed)
	}
	c.mu.Unlock()
	c.signal()
}

func (c *chores) signal() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

func (c *chores) take() (sealed, freed []*segment, note bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sealed, freed, note = c.sealed, c.freed, c.note
	c.sealed, c.freed, c.note = nil, nil, false
	return sealed, freed, note
}

// Free tells that nothing in the segment is needed any more. Reads of it fail
// from now on; its file is recycled or deleted soon after. A crash before that
// brings the segment back, so after Open its user frees again what it does not
// need. Freeing a segment whose file was lost stops Scan from reporting it.
func (l *Log) Free(seg uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seg >= l.tail.Seg {
		return fmt.Errorf("seglog: segment %d is not sealed", seg)
	}
	if seg < l.oldest || l.freed[seg] {
		return fmt.Errorf("seglog: segment %d: %w", seg, ErrFreed)
	}
	var dead *segment
	if i := l.search(seg); l.segs[i].seq == seg {
		dead = l.segs[i]
		// A fresh slice: readers may hold the old one.
		l.segs = append(append(make([]*segment, 0, len(l.segs)), l.segs[:i]...), l.segs[i+1:]...)
	}
	l.freed[seg] = true
	for l.freed[l.oldest] {
		delete(l.freed, l.oldest)
		l.oldest++
	}
	l.chores.mu.Lock()
	l.chores.note = true
	l.chores.mu.Unlock()
	l.chores.add(nil, dead)
	return nil
}

// housekeeper is the background goroutine: it cuts sealed segments to size,
// gives back freed ones, and keeps spares ready.
func (l *Log) housekeeper() {
	defer l.wg.Done()
	var recycled []string
	for {
		select {
		case <-l.stop:
			l.tidy(nil)
			return
		case <-l.chores.ready:
		}
		recycled = l.replenish(l.tidy(recycled))
	}
}

// tidy does what was queued. It returns the recycled files, the new ones added.
func (l *Log) tidy(recycled []string) []string {
	sealed, freed, note := l.chores.take()
	for _, s := range sealed {
		l.trim(s)
	}
	if note {
		if err := l.writeManifest(); err != nil {
			// Space may be what is missing, so the files go all the same. A crash
			// before the next attempt makes Scan report them as lost.
			l.log.Warn("writing the manifest failed; it is tried again with the next freed segment", "error", err)
		}
	}
	for _, s := range freed {
		if name := l.retire(s, len(recycled)); name != "" {
			recycled = append(recycled, name)
		}
	}
	return recycled
}

// trim cuts the file of a sealed segment behind its seal.
func (l *Log) trim(s *segment) {
	f, err := l.acquire(s)
	if err != nil {
		return // freed or closed meanwhile
	}
	defer s.release()
	l.mu.RLock()
	used := s.used
	l.mu.RUnlock()
	if err := f.Truncate(used); err != nil {
		l.log.Debug("cutting a sealed segment to size failed", "segment", s.seq, "error", err)
	}
}

// retire closes a freed segment and deletes its file, or keeps it under the returned name to be used again.
func (l *Log) retire(s *segment, recycled int) string {
	wasOpen, err := s.close(ErrFreed)
	if err != nil {
		l.log.Warn("closing a freed segment failed", "segment", s.seq, "error", err)
	}
	if wasOpen {
		l.openFiles.Add(-1)
	}
	info, err := l.fs.Stat(s.path)
	if err == nil && recycled < l.o.Spares && info.Size() <= int64(l.o.SegmentBytes) && l.plenty() {
		name := s.path + ".recycled" + tempSuffix
		if err = l.fs.Rename(s.path, name); err == nil {
			return name
		}
	}
	if err = l.fs.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		l.log.Warn("deleting a freed segment failed", "segment", s.seq, "error", err)
	}
	return ""
}

// plenty reports whether the volume has room for segments that are not needed yet.
func (l *Log) plenty() bool {
	free, _, err := l.fs.Free(l.dir)
	return err == nil && free > 8*int64(l.o.SegmentBytes)
}

// replenish prepares spares while they are wanted: from recycled files at
// once, by writing new ones only when the active segment is being filled.
// It returns the recycled files that are left.
func (l *Log) replenish(recycled []string) []string {
	for {
		l.prep.Lock()
		have := len(l.spares)
		l.prep.Unlock()
		if have >= l.o.Spares || (len(recycled) == 0 && (!l.filling() || !l.plenty())) || l.failure() != nil {
			return recycled
		}
		path := l.path("next" + tempSuffix)
		flag := os.O_RDWR | os.O_CREATE | os.O_TRUNC
		if n := len(recycled); n > 0 {
			path, recycled, flag = recycled[n-1], recycled[:n-1], os.O_RDWR
		}
		if err := l.prepare(path, flag); err != nil {
			if !errors.Is(err, errStopping) {
				l.log.Warn("preparing a spare segment failed", "error", err)
			}
			return recycled
		}
	}
}

// filling reports whether the active segment is being used up, so that a successor is worth writing.
func (l *Log) filling() bool { return l.Tail().Off >= l.fillMark() }

func (l *Log) fillMark() int64 { return max(FirstOffset+1, int64(l.o.SegmentBytes)/8) }

var errStopping = errors.New("stopping")

// prepare makes a spare out of the file at path: all its blocks written, so that later
// writes change no metadata and fdatasync has one thing to do.
func (l *Log) prepare(path string, flag int) error {
	f, err := l.fs.OpenFile(path, flag, filePerm)
	if err != nil {
		return err
	}
	err = l.fill(f)
	if err == nil {
		l.prep.Lock()
		var s *segment
		if s, err = l.enlist(f, path); err == nil {
			l.spares = append(l.spares, s)
		}
		l.prep.Unlock()
	}
	if err != nil {
		return errors.Join(err, f.Close(), l.fs.Remove(path))
	}
	return nil
}

// fill writes zeros from the end of f up to the size of a segment, syncing now
// and then so that no commit has to wait for all of it.
func (l *Log) fill(f faultfs.File) error {
	off, err := f.Size()
	if err != nil {
		return err
	}
	const chunk, syncEvery = 1 << 20, 8
	zeros := make([]byte, min(chunk, int64(l.o.SegmentBytes)))
	for n := 1; off < int64(l.o.SegmentBytes); n++ {
		select {
		case <-l.stop:
			return errStopping
		default:
		}
		part := zeros[:min(int64(len(zeros)), int64(l.o.SegmentBytes)-off)]
		if _, err := f.WriteAt(part, off); err != nil {
			return err
		}
		off += int64(len(part))
		if n%syncEvery == 0 {
			if err := f.Datasync(); err != nil {
				return err
			}
		}
	}
	return nil
}

// enlist gives a file its number, generation and durable name. Log.prep is held.
func (l *Log) enlist(f faultfs.File, path string) (*segment, error) {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails since Go 1.24
	now := time.Now()
	s := &segment{
		seq: l.nextSeq, path: l.path(segmentName(l.nextSeq)), file: f, modified: now,
		generation: binary.LittleEndian.Uint64(random[:]) | 1,
	}
	h := segHeader{seq: s.seq, generation: s.generation, created: now.UnixNano()}
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	s.used = size
	if err := l.fs.Rename(path, s.path); err != nil {
		return nil, err
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return nil, errors.Join(err, l.fs.Rename(s.path, path))
	}
	l.nextSeq++
	return s, nil
}

// takeSpare returns the next segment, making one when no spare is ready.
func (l *Log) takeSpare() (*segment, error) {
	l.prep.Lock()
	defer l.prep.Unlock()
	if len(l.spares) > 0 {
		s := l.spares[0]
		l.spares = l.spares[1:]
		return s, nil
	}
	l.count.inline.Add(1)
	path := l.path("inline" + tempSuffix)
	f, err := l.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return nil, fullOr("new segment", err)
	}
	err = f.Allocate(int64(l.o.SegmentBytes))
	if err == nil {
		var s *segment
		if s, err = l.enlist(f, path); err == nil {
			return s, nil
		}
	}
	return nil, fullOr("new segment", errors.Join(err, f.Close(), l.fs.Remove(path)))
}

// returnSpare puts back what takeSpare gave.
func (l *Log) returnSpare(s *segment) {
	l.prep.Lock()
	l.spares = append([]*segment{s}, l.spares...)
	l.prep.Unlock()
}
