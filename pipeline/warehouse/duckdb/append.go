//go:build cgo

package duckdb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/pace"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// Append implements warehouse.Sink. What is to be written is found out first, by reading; then one
// transaction writes it.
func (d *DB) Append(ctx context.Context, b *warehouse.Batch) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ready(ctx); err != nil {
		return err
	}
	for _, o := range b.Offsets {
		if at := d.offsets[o.Partition]; at != o.From {
			return fmt.Errorf("%w: partition %d is stored up to %d, the batch begins at %d", warehouse.ErrOffset, o.Partition, at, o.From)
		}
	}
	if d.keys.Fresh() >= min(d.o.Tail, mostFreshKeys) {
		if err := d.flushKeys(ctx); err != nil {
			return err
		}
	}
	if max(len(b.Events), len(b.Changes)) >= d.o.Batch/10*9 {
		d.fullUntil = time.Now().Add(fullFor)
	}
	p := &plan{d: d, b: b, pace: pace.New(func() bool { return time.Now().Before(d.fullUntil) })}
	p.fresh.Reserve(len(b.Events) + len(b.Changes)/2)
	if err := p.make(ctx); err != nil {
		d.stale.Store(true)
		return err
	}
	if err := d.tx(ctx, func() error { return d.write(ctx, p) }); err != nil {
		return err
	}
	d.wrote(p)
	return nil
}

// mostFreshKeys are so many that their table takes 32 MiB.
const mostFreshKeys = 500_000

// ownRun is from what part of the rows that may wait to be sorted a batch gets a table of its own: the rows of an empty table are taken as
// they are when the transaction ends, those of another are copied once more.
const ownRun = 50

// write is what the transaction of a batch does.
func (d *DB) write(ctx context.Context, p *plan) error {
	if err := p.deleteOld(ctx); err != nil {
		return err
	}
	for _, part := range []struct {
		shelf *shelf
		rows  int
	}{{d.events, len(p.rows)}, {d.profiles, len(p.people)}} {
		if int64(part.rows) >= d.most(part.shelf.name)/ownRun && part.shelf.tail().rows > 0 {
			if err := d.rotate(ctx, part.shelf); err != nil {
				return err
			}
		}
	}
	for _, part := range []struct {
		schema, table string
		rows          int
		fill          func(*sheet) error
	}{
		{"store", strings.TrimPrefix(d.events.table(d.events.tail()), "store."), len(p.rows), p.fillEvents},
		{"store", strings.TrimPrefix(d.profiles.table(d.profiles.tail()), "store."), len(p.people), p.fillProfiles},
		{"main", "metrics", len(p.newMetrics), p.fillMetrics},
		{"main", "tenants", len(p.newTenants), p.fillTenants},
		{"store", "markers", len(p.b.Markers), p.fillMarkers},
		{"store", "cleared", len(p.cleared), p.fillCleared},
		{"store", "redirects", len(p.redirects), p.fillRedirects},
	} {
		if part.rows == 0 {
			continue
		}
		if err := d.fill("", part.schema, part.table, part.fill); err != nil {
			return err
		}
	}
	if progress := sqlProgress(p.b); progress != "" {
		return d.exec(ctx, progress)
	}
	return nil
}

// fill appends rows to a table.
func (d *DB) fill(catalog, schema, table string, rows func(*sheet) error) error {
	s, err := newSheet(d.w, catalog, schema, table)
	if err == nil {
		err = errors.Join(rows(s), d.writing.do(s.close))
	}
	if err != nil {
		return fmt.Errorf("warehouse: %s: %w", table, err)
	}
	return nil
}

// wrote brings what is in memory to what was written.
func (d *DB) wrote(p *plan) {
	for _, o := range p.b.Offsets {
		d.offsets[o.Partition] = o.Next
	}
	for _, t := range p.newTenants {
		d.named[d.tenant(t)] = true
	}
	for i := range p.newMetrics {
		d.metrics[p.newMetrics[i].id] = true
	}
	for _, id := range p.cleared {
		d.cleared[id] = true
	}
	d.leave(p.gone)
	d.keys.Add(&p.fresh)
	d.events.tail().rows += int64(len(p.rows))
	d.profiles.tail().rows += int64(len(p.people))
	d.events.note(p.gone)
	d.profiles.note(p.old)
	d.m.count(p)
	d.unsaved.note(p.size())
	d.upkeep.poke()
}

// note remembers profiles whose rows were deleted, while runs that had them are being merged into a new one.
func (s *shelf) note(gone []fact.ProfileID) {
	if s.merging {
		s.moved = append(s.moved, gone...)
	}
}

func (p *plan) fillMetrics(s *sheet) error {
	for i := range p.newMetrics {
		m := &p.newMetrics[i]
		s.uint64(0, uint64(m.tenant))
		s.uint64(1, uint64(m.id))
		s.string(2, m.service)
		s.string(3, m.name)
		if err := s.next(); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) fillTenants(s *sheet) error {
	for _, name := range p.newTenants {
		s.uint64(0, uint64(p.d.tenant(name)))
		s.string(1, name)
		if err := s.next(); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) fillMarkers(s *sheet) error {
	for i := range p.b.Markers {
		m := &p.b.Markers[i]
		s.string(0, m.Tenant)
		s.uuid(1, m.Merge.ID)
		s.uuid(2, m.Merge.Source)
		s.uuid(3, m.Merge.Destination)
		s.int32(4, m.Partition)
		if err := s.next(); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) fillRedirects(s *sheet) error {
	for source, destination := range p.redirects {
		s.uuid(0, source)
		s.uuid(1, destination)
		if err := s.next(); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) fillCleared(s *sheet) error {
	for _, id := range p.cleared {
		s.uuid(0, id)
		if err := s.next(); err != nil {
			return err
		}
	}
	return nil
}
