package seglog

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

// maxOpenFiles bounds the sealed segments kept open for reading; the least recently read one is closed first.
const maxOpenFiles = 256

// segment is one file. seq and path never change; used and modified are guarded by Log.mu.
type segment struct {
	seq      uint64
	path     string
	used     int64 // end of its records, once sealed
	modified time.Time

	readAt atomic.Int64 // order of last use, for closing idle files

	mu         sync.RWMutex // held for reading during I/O
	file       faultfs.File // nil while closed
	generation uint64       // known once the file was opened
	gone       error        // freed or closed: no more I/O
	corrupt    string       // why the header cannot be used
}

// acquire opens the segment where needed and returns its file for reading, with the segment
// locked against being recycled until release. It does not open the file of a segment with a bad header.
func (l *Log) acquire(s *segment) (faultfs.File, error) {
	for {
		s.mu.RLock()
		switch {
		case s.gone != nil:
			defer s.mu.RUnlock()
			return nil, s.gone
		case s.corrupt != "":
			defer s.mu.RUnlock()
			return nil, &CorruptError{Segment: s.seq, Path: s.path, Reason: s.corrupt}
		case s.file != nil:
			s.readAt.Store(time.Now().UnixNano())
			return s.file, nil
		}
		s.mu.RUnlock()
		if err := l.openForReading(s); err != nil {
			return nil, err
		}
	}
}

func (s *segment) release() { s.mu.RUnlock() }

// openForReading opens a sealed segment and checks its header.
func (l *Log) openForReading(s *segment) error {
	l.closeIdle()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil || s.gone != nil {
		return nil
	}
	f, err := l.fs.OpenFile(s.path, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("seglog: segment %d: %w", s.seq, err)
	}
	if err := s.adopt(f); err != nil {
		f.Close()
		return err
	}
	l.openFiles.Add(1)
	return nil
}

// adopt reads the header of f and makes f the segment's file. A header that
// cannot be used is remembered in corrupt; the error is for failed reads only.
func (s *segment) adopt(f faultfs.File) error {
	var b [segmentHeader]byte
	if n, err := f.ReadAt(b[:], 0); err != nil && err != io.EOF {
		return fmt.Errorf("seglog: segment %d: header: %w", s.seq, err)
	} else if h, err := parseSegHeader(b[:n]); err != nil {
		s.corrupt = err.Error()
	} else if h.seq != s.seq {
		s.corrupt = fmt.Sprintf("header says segment %d", h.seq)
	} else {
		s.generation = h.generation
	}
	s.file = f
	return nil
}

// closeIdle closes the sealed segment read longest ago when too many are open.
func (l *Log) closeIdle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.openFiles.Load() < maxOpenFiles {
		return
	}
	var idle *segment
	for _, s := range l.segs[:len(l.segs)-1] {
		if !s.mu.TryRLock() {
			continue
		}
		if s.file != nil && (idle == nil || s.readAt.Load() < idle.readAt.Load()) {
			idle = s
		}
		s.mu.RUnlock()
	}
	if idle == nil || !idle.mu.TryLock() {
		return
	}
	defer idle.mu.Unlock()
	if idle.file != nil {
		if err := idle.file.Close(); err != nil {
			l.log.Warn("closing a segment failed", "segment", idle.seq, "error", err)
		}
		idle.file = nil
		l.openFiles.Add(-1)
	}
}

// close ends all I/O on the segment, waiting for what is going on; later calls get why.
func (s *segment) close(why error) (wasOpen bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone == nil {
		s.gone = why
	}
	f := s.file
	s.file = nil
	if f == nil {
		return false, nil
	}
	return true, f.Close()
}

// find returns the live segment with the given number. When there is none, next is
// the live one that follows, and freed tells that its absence is in order. tail is of the same moment.
func (l *Log) find(seq uint64) (s, next *segment, freed bool, tail Pos) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	i := l.search(seq)
	if i < len(l.segs) {
		next = l.segs[i]
		if next.seq == seq {
			return next, nil, false, l.tail
		}
	}
	return nil, next, seq < l.oldest || l.freed[seq], l.tail
}

// search returns the index of the first live segment numbered seq or higher. Log.mu is held.
func (l *Log) search(seq uint64) int {
	lo, hi := 0, len(l.segs)
	for lo < hi {
		if mid := (lo + hi) / 2; l.segs[mid].seq < seq {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

func (l *Log) path(name string) string { return filepath.Join(l.dir, name) }

const filePerm fs.FileMode = 0o640
