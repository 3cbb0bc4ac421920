//go:build cgo

package duckdb

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Deleted rows stay in a table until it is written anew, and the blocks that it leaves stay in the database's file as they
// were until something else is written into them.

const (
	// noiseName is the table that free blocks are written over with. A crash leaves it to the next start, which drops what is no run.
	noiseName = "store.noise_0"
	// noiseBlocks is how many blocks are written over in one transaction, beside which there can be no checkpoint.
	noiseBlocks = 512
	// moreBlocks is what is written beyond the blocks that were free, since others take some of them meanwhile and fill them too.
	moreBlocks = 8
)

// Erase takes what was deleted before out of the database's file: tables that have deleted rows are written anew, and free blocks are written over.
// Questions and batches go on meanwhile. What describes a table may keep the first eight bytes of the least and the greatest text of a part of a column.
func (d *DB) Erase(ctx context.Context) error {
	if err := d.Sort(ctx); err != nil {
		return err
	}
	for _, name := range []string{shelfEvents, shelfProfiles} {
		if err := d.rewrite(ctx, name); err != nil {
			return err
		}
	}
	if err := d.checkpointNow(ctx); err != nil {
		return err
	}
	if err := d.overwriteFree(ctx); err != nil {
		return err
	}
	return d.checkpointNow(ctx)
}

func (d *DB) checkpointNow(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ready(ctx); err != nil {
		return err
	}
	return d.checkpoint(ctx)
}

// rewrite writes the sorted tables of a shelf anew that have deleted rows, one after the other.
func (d *DB) rewrite(ctx context.Context, name string) error {
	d.mu.Lock()
	err := d.ready(ctx)
	if err == nil {
		err = d.markHoled(ctx, name)
	}
	d.mu.Unlock()
	if err != nil {
		return err
	}
	d.upkeep.poke()
	for {
		d.mu.Lock()
		s := d.shelf(name)
		failed := d.upkeep.failed.Load()
		done := s.nextRewrite() == nil
		if failed != nil {
			s.rewriting = nil
		}
		d.mu.Unlock()
		switch {
		case failed != nil:
			return *failed
		case done:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// markHoled notes which tables of a shelf are to be written anew. d.mu is held.
func (d *DB) markHoled(ctx context.Context, name string) error {
	s := d.shelf(name)
	var holed []*run
	for _, r := range s.runs[:len(s.runs)-1] {
		err := d.each(ctx, sqlHoles(s.table(r)), func(scan func(...any) error) error {
			var rows int64
			err := scan(&rows)
			if rows > 0 {
				holed = append(holed, r)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	s.rewriting = holed
	return nil
}

// nextRewrite is the run that is to be written anew next, or nil. What was merged meanwhile was written anew by that.
func (s *shelf) nextRewrite() *run {
	for len(s.rewriting) > 0 && !slices.Contains(s.runs, s.rewriting[0]) {
		s.rewriting = s.rewriting[1:]
	}
	if len(s.rewriting) == 0 {
		return nil
	}
	return s.rewriting[0]
}

// levelOver is that of the table that some runs become.
func (s *shelf) levelOver(of []*run) int {
	if of[0].level > 0 && s.nextRewrite() == of[0] {
		return of[0].level
	}
	return of[0].level + 1
}

// overwriteFree writes over the free blocks of the file: the database takes these first.
func (d *DB) overwriteFree(ctx context.Context) error {
	free, numbers, err := d.freeBlocks(ctx)
	if err != nil || free == 0 {
		return err
	}
	statements := []string{sqlNoiseTable}
	for left := free + moreBlocks; left > 0; left -= noiseBlocks {
		statements = append(statements, sqlNoise(min(left, noiseBlocks)*numbers))
	}
	err = d.quietly(ctx, statements)
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.exec(context.WithoutCancel(ctx), sqlDrop(noiseName)); err == nil {
		err = e
	}
	return err
}

// quietly runs statements at low priority, on a connection of their own.
func (d *DB) quietly(ctx context.Context, statements []string) error {
	c, err := d.sql.Conn(ctx)
	if err != nil {
		return fmt.Errorf("warehouse: %w", err)
	}
	defer func() { _ = c.Close() }()
	for _, s := range statements {
		err := d.sorting.do(func() error {
			_, err := c.ExecContext(ctx, s)
			return err
		})
		if err != nil {
			return fmt.Errorf("warehouse: free blocks: %w", err)
		}
	}
	return nil
}

// freeBlocks tells how many blocks of the file are free, and how many numbers fill one.
func (d *DB) freeBlocks(ctx context.Context) (free, numbers int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err = d.each(ctx, sqlFreeBlocks, func(scan func(...any) error) error { return scan(&free, &numbers) })
	return free, numbers, err
}

// sqlHoles counts the deleted rows that a table still has.
func sqlHoles(table string) string {
	return fmt.Sprintf("SELECT (SELECT coalesce(sum(count), 0) FROM pragma_storage_info(%s) WHERE column_id = 0 AND segment_type <> 'VALIDITY')::BIGINT - (SELECT count(*) FROM %s)", text(table), table)
}

const (
	sqlFreeBlocks = "SELECT free_blocks::BIGINT, block_size::BIGINT // 8 FROM pragma_database_size() WHERE database_name = 'warehouse'"
	sqlNoiseTable = "CREATE OR REPLACE TABLE " + noiseName + " (n BIGINT USING COMPRESSION uncompressed)"
)

func sqlNoise(rows int64) string {
	return fmt.Sprintf("INSERT INTO %s SELECT range FROM range(%d)", noiseName, rows)
}
