//go:build cgo

package duckdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/duckdb/duckdb-go/v2"
)

// upkeep sorts and merges tables in the background.
type upkeep struct {
	wake   chan struct{}
	cancel context.CancelFunc
	done   sync.WaitGroup
	slice  int64                 // rows that are sorted at once
	failed atomic.Pointer[error] // of the last piece of work; nil when it was done
}

const (
	// mostUnsorted is how many tables wait to be sorted at most: questions look into each.
	mostUnsorted = 24
	// whilePressed is how many times as much may wait to be sorted while something else needs the CPU more.
	whilePressed = 4
	// fullFor is how long after a full batch it is believed that facts come faster than they are stored.
	fullFor = 10 * time.Second
	// fan is how many tables of a level become one of the next.
	fan = 8
	// What is merged goes into the new table by parts, so that no transaction is long: the database could make no checkpoint
	// during one. A part has so many rows, or as many as fit into the database's memory at so many
	// bytes each; if they turn out not to, half as many.
	mostSliceRows  = 1_500_000
	leastSliceRows = 2_000
	bytesOfSorting = 640
	// sliceSample is from how many rows the parts are guessed.
	sliceSample   = 2000
	upkeepRetry   = 30 * time.Second
	profileWeight = 4 // a row of profiles is as wide as several events
)

func (d *DB) startUpkeep() {
	ctx, cancel := context.WithCancel(context.Background())
	d.upkeep.slice = max(leastSliceRows, min(mostSliceRows, memoryLimit(d.o)/bytesOfSorting))
	d.upkeep.wake, d.upkeep.cancel = make(chan struct{}, 1), cancel
	d.upkeep.done.Go(func() { d.keepUp(ctx) })
}

func (u *upkeep) poke() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

func (u *upkeep) stop() {
	if u.cancel != nil {
		u.cancel()
		u.done.Wait()
	}
}

func (d *DB) keepUp(ctx context.Context) {
	for ctx.Err() == nil {
		worked, err := d.tidy(ctx)
		if err == nil {
			d.upkeep.failed.Store(nil)
		}
		if outOfMemory(err) && d.upkeep.slice > leastSliceRows {
			d.upkeep.slice /= 2
			d.log.Warn("sorting needs more memory than pipeline.warehouse.memory; it is tried with fewer rows at once", "rows", d.upkeep.slice)
			continue
		}
		if err != nil && ctx.Err() == nil {
			d.upkeep.failed.Store(&err)
			d.log.Error("the upkeep of the warehouse failed; it is tried again", "error", err, "after", upkeepRetry)
			select {
			case <-ctx.Done():
			case <-time.After(upkeepRetry):
			}
			continue
		}
		if worked {
			continue
		}
		select {
		case <-ctx.Done():
		case <-d.upkeep.wake:
		case <-time.After(d.o.CheckpointEvery.D()):
		}
	}
}

// outOfMemory reports whether the database had too little memory.
func outOfMemory(err error) bool {
	var e *duckdb.Error
	return errors.As(err, &e) && e.Type == duckdb.ErrorTypeOutOfMemory
}

// tidy does one piece of work, if there is any.
func (d *DB) tidy(ctx context.Context) (worked bool, err error) {
	if err := d.save(ctx); err != nil {
		return false, err
	}
	for _, s := range []string{shelfEvents, shelfProfiles} {
		if worked, err = d.mergeRuns(ctx, s); worked || err != nil {
			return worked, err
		}
	}
	return d.mergeKeys(ctx)
}

func (d *DB) mergeKeys(ctx context.Context) (bool, error) {
	d.mu.Lock()
	set := d.keys
	if d.closed || d.stale.Load() {
		d.mu.Unlock()
		return false, nil
	}
	d.mu.Unlock()
	f, err := set.Merge()
	if f == nil || err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.keys != set || d.stale.Load() { // the set was opened anew meanwhile, without this file
		if err := set.Discard(f); err != nil {
			d.log.Debug("a file of keys was removed already", "error", err)
		}
		return false, nil
	}
	err = d.tx(ctx, func() error {
		return d.exec(ctx, sqlReplaceKeyFiles(f.Replaces(), f.Name()))
	})
	if err != nil {
		return false, err
	}
	return true, d.keys.Install(f)
}

// job is one merge.
type job struct {
	shelf *shelf
	into  *run
	table string
	of    []*run
	union func(where string) string
	order string
	rows  int64
}

// mergeRuns sorts the tails that are long enough, or else merges tables of a level.
func (d *DB) mergeRuns(ctx context.Context, name string) (bool, error) {
	began := time.Now()
	j, err := d.begin(ctx, name)
	if j == nil || err != nil {
		return false, err
	}
	err = d.copyRuns(ctx, j)
	d.mu.Lock()
	defer d.mu.Unlock()
	j.shelf.merging = false
	if err == nil && d.shelf(name) == j.shelf && !d.stale.Load() {
		err = d.swap(ctx, j)
		d.m.merged(j.rows, time.Since(began))
		d.unsaved.sorted = d.unsaved.sorted || j.into.level == 1 && (name == shelfEvents || d.events.unsorted() < d.most(shelfEvents)/ownRun)
		return err == nil, err
	}
	// The table is not part of the shelf; if this fails too, it is dropped at the next start.
	if e := d.exec(context.WithoutCancel(ctx), sqlDrop(j.table)); e != nil {
		d.log.Warn("a table that was not finished is left over", "table", j.table, "error", e)
	}
	return false, err
}

// begin chooses what to merge and makes the new table.
func (d *DB) begin(ctx context.Context, name string) (*job, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.stale.Load() {
		return nil, nil
	}
	s := d.shelf(name)
	most, tables := d.most(name), mostUnsorted
	if time.Now().Before(d.fullUntil) || d.behind() {
		most, tables = most*whilePressed, tables*whilePressed
	}
	if s.unsorted() >= most && s.tail().rows > 0 {
		if err := d.tx(ctx, func() error { return d.rotate(ctx, s) }); err != nil {
			return nil, err
		}
	}
	of := s.due(most, tables)
	if of == nil {
		s.sorting = false
		return nil, nil
	}
	d.lastRun++
	into := &run{id: d.lastRun, level: s.levelOver(of)}
	places, columns := s.worth(of), s.columns()
	for _, at := range places {
		into.columns = append(into.columns, columns[at])
	}
	j := &job{shelf: s, into: into, of: of, table: s.table(into), order: s.order}
	for _, r := range of {
		j.rows += r.rows
	}
	// As the columns are now: they may change while this goes on.
	selections := make([]string, len(of))
	for i, r := range of {
		selections[i] = s.selectionOf(r, places)
	}
	j.union = func(where string) string {
		parts := make([]string, len(selections))
		for i := range selections {
			parts[i] = selections[i] + where
		}
		return unionAll(parts)
	}
	if err := d.exec(ctx, sqlTable(j.table, into.columns, false)); err != nil {
		return nil, err
	}
	s.merging, s.moved = true, nil
	return j, nil
}

// most is how many rows of a shelf wait to be sorted.
func (d *DB) most(name string) int64 {
	if name == shelfProfiles {
		return int64(d.o.Tail) / profileWeight
	}
	return int64(d.o.Tail)
}

// unsorted is how many rows wait to be sorted.
func (s *shelf) unsorted() (n int64) {
	for _, r := range s.runs {
		if r.level == 0 {
			n += r.rows
		}
	}
	return n
}

// due are the runs to merge: one that is to be written anew; all that are not sorted but the tail, if there are enough rows or tables or it was asked for; or enough of one level.
func (s *shelf) due(most int64, tables int) []*run {
	if r := s.nextRewrite(); r != nil && r != s.tail() {
		return []*run{r}
	}
	levels := map[int][]*run{}
	rows := int64(0)
	for _, r := range s.runs[:len(s.runs)-1] {
		levels[r.level] = append(levels[r.level], r)
		if r.level == 0 {
			rows += r.rows
		}
	}
	if len(levels[0]) > 0 && (s.sorting || rows >= most || len(levels[0]) >= tables) {
		return levels[0]
	}
	for level := 1; level < 64; level++ {
		if len(levels[level]) >= fan {
			return levels[level]
		}
	}
	return nil
}

// copyRuns fills the new table, in order.
func (d *DB) copyRuns(ctx context.Context, j *job) (err error) {
	c, err := d.sql.Conn(ctx)
	if err != nil {
		return fmt.Errorf("warehouse: %w", err)
	}
	defer func() {
		if err != nil {
			// A statement that was called off may leave its transaction open, and no checkpoint is made beside one that writes:
			// this connection is not to be used again, which ends it.
			_ = c.Raw(func(any) error { return driver.ErrBadConn })
		}
		_ = c.Close()
	}()
	cuts, err := j.cuts(ctx, c, d.upkeep.slice)
	if err != nil {
		return err
	}
	for i := 0; i <= len(cuts); i++ {
		var from, to *cut
		if i > 0 {
			from = &cuts[i-1]
		}
		if i < len(cuts) {
			to = &cuts[i]
		}
		statement := sqlCopy(j.table, j.union(between(from, to)), j.order)
		err := d.sorting.do(func() error {
			_, err := c.ExecContext(ctx, statement)
			return err
		})
		if err != nil {
			return fmt.Errorf("warehouse: sort: %w", err)
		}
	}
	return nil
}

// cut is a place between rows.
type cut struct {
	tenant  uint64
	profile uuid
}

// cuts are where the rows fall into parts of about so many.
func (j *job) cuts(ctx context.Context, c *sql.Conn, slice int64) ([]cut, error) {
	parts := int((j.rows + slice - 1) / slice)
	if parts < 2 {
		return nil, nil
	}
	rows, err := c.QueryContext(ctx, sqlSample(j.union(""), sliceSample))
	if err != nil {
		return nil, fmt.Errorf("warehouse: sort: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var sample []cut
	for rows.Next() {
		var k cut
		if err := rows.Scan(&k.tenant, &k.profile); err != nil {
			return nil, fmt.Errorf("warehouse: sort: %w", err)
		}
		sample = append(sample, k)
	}
	if err := rows.Err(); err != nil || len(sample) == 0 {
		return nil, err
	}
	slices.SortFunc(sample, func(a, b cut) int {
		if a.tenant != b.tenant {
			if a.tenant < b.tenant {
				return -1
			}
			return 1
		}
		return slices.Compare(a.profile[:], b.profile[:])
	})
	var out []cut
	for i := 1; i < parts; i++ {
		out = append(out, sample[i*len(sample)/parts])
	}
	return slices.Compact(out), nil
}

// swap puts the new table in the place of those it was made of. What left them meanwhile leaves it too.
func (d *DB) swap(ctx context.Context, j *job) error {
	s := j.shelf
	runs := slices.DeleteFunc(slices.Clone(s.runs), func(r *run) bool { return slices.Contains(j.of, r) })
	at := slices.IndexFunc(runs, func(r *run) bool { return r.level < j.into.level })
	if at < 0 {
		at = 0
	}
	j.into.rows = j.rows
	runs = slices.Insert(runs, at, j.into)
	before := s.runs
	err := d.tx(ctx, func() error {
		if len(s.moved) > 0 {
			where, err := d.whereAny(ctx, touched, nil, s.moved)
			if err != nil {
				return err
			}
			if err := d.exec(ctx, sqlDelete(j.table, where)); err != nil {
				return err
			}
		}
		s.runs = runs
		return d.exec(ctx, sqlSwap(s, j.into, j.of))
	})
	if err != nil {
		s.runs = before
	}
	s.moved = nil
	return err
}

// Sort sorts everything that is stored, for those that are to ask soon after a long load.
func (d *DB) Sort(ctx context.Context) error {
	for _, name := range []string{shelfEvents, shelfProfiles} {
		d.mu.Lock()
		err := d.ready(ctx)
		if s := d.shelf(name); err == nil {
			s.sorting = true
			if s.tail().rows > 0 {
				err = d.tx(ctx, func() error { return d.rotate(ctx, s) })
			}
		}
		d.mu.Unlock()
		if err != nil {
			return err
		}
	}
	d.upkeep.poke()
	for {
		d.mu.Lock()
		done := len(d.events.due(d.most(shelfEvents), mostUnsorted))+len(d.profiles.due(d.most(shelfProfiles), mostUnsorted)) == 0
		d.mu.Unlock()
		if done {
			return nil
		}
		if err := d.upkeep.failed.Load(); err != nil {
			return *err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}
