//go:build cgo

package duckdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// The database writes no log of its own: what a transaction did is in memory until the next checkpoint puts all of it into
// the file at once. A crash takes back whole batches, down to some moment, and the consumer reads them again. So a checkpoint
// is not for the data's sake: it bounds how much is read again, and how much of the log of facts has to be kept.

// unsaved is what came since the last checkpoint. d.mu guards it.
type unsaved struct {
	since  time.Time
	bytes  int64
	sorted bool // what waited was just sorted, or all but little of it: what was in the tails need never be written
}

func (u *unsaved) note(bytes int64) {
	if u.since.IsZero() {
		u.since = time.Now()
	}
	u.bytes += bytes
}

// size is about how much memory the batch's rows take.
func (p *plan) size() int64 {
	const eventWidth, profileWidth = 150, 200
	n := int64(len(p.rows)*eventWidth + len(p.people)*profileWidth + 1)
	for i := range p.rows {
		if e := p.rows[i].e; e != nil {
			n += int64(len(e.Properties))
		}
	}
	return n
}

// save makes a checkpoint if it is time.
func (d *DB) save(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	u := &d.unsaved
	if d.closed || d.stale.Load() || u.since.IsZero() {
		return nil
	}
	if !u.sorted && u.bytes < int64(d.o.Checkpoint) && time.Since(u.since) < d.o.CheckpointEvery.D() {
		return nil
	}
	return d.checkpoint(ctx)
}

// checkpoint writes what is in memory only into the database's file.
func (d *DB) checkpoint(ctx context.Context) error {
	retired := d.keys.Retired()
	if err := d.writeFile(ctx); err != nil {
		return fmt.Errorf("warehouse: %w", err)
	}
	d.unsaved = unsaved{}
	d.saved()
	return d.keys.Sweep(retired)
}

// writeFile waits a moment for transactions that write: the one of a sort that has just ended may be let go of a little later
// by the database's own threads, and it makes no checkpoint beside one.
func (d *DB) writeFile(ctx context.Context) error {
	const tries, pause = 200, 5 * time.Millisecond
	for try := 1; ; try++ {
		err := d.writing.do(func() error {
			_, err := d.w.ExecContext(ctx, sqlCheckpoint)
			return err
		})
		if err == nil || try == tries || !busy(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// busy reports whether the database made no checkpoint because of a transaction.
func busy(err error) bool {
	var e *duckdb.Error
	return errors.As(err, &e) && e.Type == duckdb.ErrorTypeTransaction
}

// saved notes that a crash takes back nothing of what is there.
func (d *DB) saved() {
	safe := make([]warehouse.Offset, 0, len(d.offsets))
	for p, next := range d.offsets {
		safe = append(safe, warehouse.Offset{Partition: p, Next: next})
	}
	d.safe.Store(&safe)
}

// Safe implements warehouse.Sink.
func (d *DB) Safe() []warehouse.Offset {
	if safe := d.safe.Load(); safe != nil {
		return *safe
	}
	return nil
}
