package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
)

// Recovery tells what Open found.
type Recovery struct {
	Queues   []QueueRecord
	Actions  map[string][]byte
	Replayed int      // rows read from records after the checkpoint and still alive
	Changes  int      // changes applied from the event log
	Damage   []string // places in the logs that a repair could not read and left out
	Took     time.Duration
}

// Open takes the volume in dir into use and recovers it: afterwards every live
// message is a row of the index. Damage is an error that says what to do;
// nothing is changed then.
func Open(ctx context.Context, dir string, o Options, d Deps) (*Spool, *Recovery, error) {
	return open(ctx, dir, o, d, false)
}

func open(ctx context.Context, dir string, o Options, d Deps, rebuild bool) (*Spool, *Recovery, error) {
	start := time.Now()
	s, err := assemble(dir, o, d, rebuild)
	if err != nil {
		return nil, nil, err
	}
	r, err := s.recover(ctx, rebuild)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	r.Took = time.Since(start)
	return s, r, nil
}

// assemble opens the files.
func assemble(dir string, o Options, d Deps, rebuild bool) (s *Spool, err error) {
	if d.FS == nil {
		d.FS = faultfs.OS{}
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	s = &Spool{dir: dir, o: o, fs: d.FS, slog: d.Logger, codec: newRowCodec(), injectedEvent: d.InjectedEvent,
		bodies: newByteCache(int64(o.CacheMemory)), memory: semaphore.NewWeighted(int64(o.BodyMemory)),
		segments: map[uint64]*segmentRows{}, shared: map[mail.ID]*sharedBody{}, receipts: map[string]*mail.Receipt{}}
	s.headers.m = map[seglog.Pos]cachedHeader{}
	if s.volume, s.lock, err = claim(s.fs, dir); err != nil {
		return nil, err
	}
	opened := s // the result is nil when there is an error
	defer func() {
		if err != nil {
			_ = opened.closeOpened()
		}
	}()
	if rebuild {
		if err = setAside(s.path(indexFile)); err != nil {
			return nil, fmt.Errorf("queue repair: %w", err)
		}
	}
	if s.index, err = openIndex(s.path(indexFile), false); err != nil {
		return nil, err
	}
	if err = s.fs.SyncDir(dir); err != nil { // the index may be new
		return nil, fmt.Errorf("spool: %w", err)
	}
	s.log, err = seglog.Open(s.path(segmentDir),
		seglog.Options{SegmentBytes: o.SegmentSize, Spares: o.Spares},
		seglog.Deps{FS: d.FS, Logger: d.Logger, Registerer: d.Registerer, Name: "spool"})
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	s.events, err = event.OpenLog(s.path(eventDir), d.Events, event.LogDeps{FS: d.FS, Logger: d.Logger, Registerer: d.Registerer})
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	_, err = s.CheckFree()
	return s, err
}

func (s *Spool) closeOpened() error {
	var errs []error
	if s.events != nil {
		errs = append(errs, s.events.Close())
	}
	if s.log != nil {
		errs = append(errs, s.log.Close())
	}
	if s.index != nil {
		errs = append(errs, s.index.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// Close closes the files. It writes nothing: Flush before it makes the next start quick.
func (s *Spool) Close() error {
	if err := s.closeOpened(); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}
