//go:build cgo

package duckdb

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
	"github.com/godwit-mta/godwit/pipeline/warehouse/keyset"
)

// load reads what is kept in memory. It is called at the start, and after a transaction failed.
func (d *DB) load(ctx context.Context) error {
	d.sight.Lock()
	defer d.sight.Unlock()
	d.offsets, d.tenants = map[int32]int64{}, map[string]fact.TenantID{}
	d.named, d.metrics = map[fact.TenantID]bool{}, map[fact.MetricID]bool{}
	d.events = newShelf(shelfEvents, "d_", "tenant, profile, time", eventColumns, d.o.Columns, &d.sight)
	d.profiles = newShelf(shelfProfiles, "p_", "tenant, profile", profileColumns, d.o.Columns, &d.sight)
	d.cleared = map[fact.ProfileID]bool{}
	d.known.clear()
	d.unsaved.note(1) // of a load that failed half way more may be in memory than in the file
	for _, step := range []func(context.Context) error{d.loadSettings, d.loadSmall, d.loadGone, d.loadColumns, d.loadRuns, d.loadKeys} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	d.stale.Store(false)
	return nil
}

func (d *DB) loadSettings(ctx context.Context) error {
	values := map[string]int64{}
	err := d.each(ctx, sqlSettings, func(scan func(...any) error) error {
		var name string
		var value int64
		if err := scan(&name, &value); err != nil {
			return err
		}
		values[name] = value
		return nil
	})
	if err != nil {
		return err
	}
	if len(values) == 0 {
		d.epoch = 1
		return d.exec(ctx, sqlFirstSettings())
	}
	d.epoch = uint32(values["epoch"])
	switch v := values["version"]; v {
	case formatVersion:
		return nil
	case fullTables:
		return d.exec(ctx, sqlSetFormat())
	default:
		return fmt.Errorf("warehouse: the database has format %d, this program writes %d", v, formatVersion)
	}
}

func (d *DB) loadSmall(ctx context.Context) error {
	return errors.Join(
		d.each(ctx, sqlOffsets, func(scan func(...any) error) error {
			var p int32
			var next int64
			err := scan(&p, &next)
			d.offsets[p] = next
			return err
		}),
		d.each(ctx, sqlTenants, func(scan func(...any) error) error {
			var id uint64
			var name string
			err := scan(&id, &name)
			d.tenants[name], d.named[fact.TenantID(id)] = fact.TenantID(id), true
			return err
		}),
		d.each(ctx, sqlCleared, func(scan func(...any) error) error {
			var p uuid
			err := scan(&p)
			d.cleared[fact.ProfileID(p)] = true
			return err
		}),
		d.each(ctx, sqlMetrics, func(scan func(...any) error) error {
			var id uint64
			err := scan(&id)
			d.metrics[fact.MetricID(id)] = true
			return err
		}))
}

func (d *DB) shelf(name string) *shelf {
	if name == shelfEvents {
		return d.events
	}
	return d.profiles
}

func (d *DB) loadColumns(ctx context.Context) error {
	return d.each(ctx, sqlColumns, func(scan func(...any) error) error {
		var of, name, typ string
		if err := scan(&of, &name, &typ); err != nil {
			return err
		}
		k, err := kindOf(typ)
		if err != nil {
			return fmt.Errorf("warehouse: %s.%s: %w", of, name, err)
		}
		d.shelf(of).load(name, k)
		return nil
	})
}

// loadRuns finds the tables of the shelves. Those that a merge did not finish are dropped.
func (d *DB) loadRuns(ctx context.Context) error {
	err := d.each(ctx, sqlRuns, func(scan func(...any) error) error {
		var of string
		r := &run{}
		if err := scan(&of, &r.id, &r.level); err != nil {
			return err
		}
		s := d.shelf(of)
		s.runs = append(s.runs, r)
		d.lastRun = max(d.lastRun, r.id)
		return nil
	})
	if err != nil {
		return err
	}
	var left []string
	err = d.each(ctx, sqlRunTables, func(scan func(...any) error) error {
		var name string
		var rows int64
		if err := scan(&name, &rows); err != nil {
			return err
		}
		for _, s := range []*shelf{d.events, d.profiles} {
			if i := slices.IndexFunc(s.runs, func(r *run) bool { return s.table(r) == "store."+name }); i >= 0 {
				s.runs[i].rows = rows
				return nil
			}
		}
		left = append(left, name)
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := d.exec(ctx, sqlDrop("store."+identifier(name))); err != nil {
			return err
		}
	}
	for _, s := range []*shelf{d.events, d.profiles} {
		if err := d.loadTables(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// loadTables reads the columns of a shelf's tables, makes the first tail, and the view.
func (d *DB) loadTables(ctx context.Context, s *shelf) error {
	// A level says how much was merged; the tail has to be the last.
	slices.SortStableFunc(s.runs, func(a, b *run) int { return b.level - a.level })
	for _, r := range s.runs {
		err := d.each(ctx, sqlTableColumns(s.table(r)), func(scan func(...any) error) error {
			var name, typ string
			if err := scan(&name, &typ); err != nil {
				return err
			}
			k, err := kindOf(typ)
			r.columns = append(r.columns, column{name, k})
			return err
		})
		if err != nil {
			return err
		}
	}
	if len(s.runs) == 0 || s.tail().level > 0 || !s.fits() {
		return d.tx(ctx, func() error { return d.rotate(ctx, s) })
	}
	return d.exec(ctx, s.view())
}

// fits reports whether the tail has all columns as they are to be.
func (s *shelf) fits() bool { return slices.Equal(s.tail().columns, s.columns()) }

// rotate begins a new tail.
func (d *DB) rotate(ctx context.Context, s *shelf) error {
	d.lastRun++
	r := &run{id: d.lastRun, columns: s.columns(), filled: []bool{}}
	s.runs = append(s.runs, r)
	return d.exec(ctx, sqlNewTail(s, r))
}

// loadKeys opens the set of keys and adds those that are in no file. A set that is damaged is made anew.
func (d *DB) loadKeys(ctx context.Context) error {
	var names []string
	err := d.each(ctx, sqlKeyFiles, func(scan func(...any) error) error {
		var name string
		err := scan(&name)
		names = append(names, name)
		return err
	})
	if err != nil {
		return err
	}
	var retired []string // the file of the database may still name them
	if d.keys != nil {
		retired = d.keys.Retired()
		if err := d.keys.Close(); err != nil {
			return fmt.Errorf("warehouse: %w", err)
		}
		d.keys = nil
	}
	since := d.epoch
	d.keys, err = keyset.Open(d.path("keys"), names, retired)
	if errors.Is(err, keyset.ErrDamaged) {
		d.log.Warn("the keys of the warehouse are damaged and are made anew", "error", err)
		since = 0
		if err := d.exec(ctx, sqlNoKeys); err != nil {
			return err
		}
		d.keys, err = keyset.Open(d.path("keys"), nil, retired)
	}
	if err != nil {
		return fmt.Errorf("warehouse: %w", err)
	}
	return d.addKeys(ctx, since)
}

// addKeys adds the keys of what was stored in an epoch or later. All at once could be more than memory, so
// making all keys anew goes by parts of the profiles, and writes files in between.
func (d *DB) addKeys(ctx context.Context, since uint32) error {
	parts := 1
	if since == 0 {
		parts = 256
	}
	for part := range parts {
		where := whereEpoch(since)
		if parts > 1 {
			where = whereFirstByte(byte(part))
		}
		var add keyset.Table
		if err := errors.Join(d.addEventKeys(ctx, &add, where), d.addProfileKeys(ctx, &add, where)); err != nil {
			return err
		}
		d.keys.Add(&add)
		if d.keys.Fresh() >= 4*d.o.Tail {
			if err := d.flushKeys(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// lastUUID is the greatest id that begins with a byte.
func lastUUID(first byte) (id [16]byte) {
	for i := range id {
		id[i] = 0xff
	}
	id[0] = first
	return id
}

func (d *DB) addEventKeys(ctx context.Context, add *keyset.Table, where string) error {
	var h hasher
	for _, r := range d.events.runs {
		err := d.each(ctx, sqlEventKeys(d.events.table(r), where), func(scan func(...any) error) error {
			var p uuid
			var metric uint64
			var uid string
			if err := scan(&p, &metric, &uid); err != nil {
				return err
			}
			add.Add(h.event(fact.ProfileID(p), fact.MetricID(metric), uid))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *DB) addProfileKeys(ctx context.Context, add *keyset.Table, where string) error {
	for _, r := range d.profiles.runs {
		err := d.each(ctx, sqlProfileKeys(d.profiles.table(r), where), func(scan func(...any) error) error {
			var p uuid
			if err := scan(&p); err != nil {
				return err
			}
			add.Add(keyset.KeyOf(p))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// flushKeys puts the keys in memory into a file, and begins an epoch: rows from now on are not in it.
func (d *DB) flushKeys(ctx context.Context) error {
	f, err := d.keys.Write()
	if err != nil {
		return fmt.Errorf("warehouse: %w", err)
	}
	err = d.tx(ctx, func() error {
		return d.exec(ctx, sqlAddKeyFile(f.Name(), d.epoch+1))
	})
	if err != nil {
		return err // the file may be in the table: what is not is removed when the set is opened
	}
	d.epoch++
	return d.keys.Install(f)
}

// State implements warehouse.Sink.
func (d *DB) State(ctx context.Context) (*warehouse.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ready(ctx); err != nil {
		return nil, err
	}
	s := new(warehouse.State)
	for p, next := range d.offsets {
		s.Offsets = append(s.Offsets, warehouse.Offset{Partition: p, From: next, Next: next})
	}
	err := d.each(ctx, sqlOrigins, func(scan func(...any) error) error {
		var o warehouse.Origin
		err := scan(&o.Partition, &o.Stage, &o.Source, &o.Offset, &o.N)
		s.Origins = append(s.Origins, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, d.each(ctx, sqlMarkers, func(scan func(...any) error) error {
		var m warehouse.Marker
		var id, source, destination uuid
		err := scan(&m.Tenant, &id, &source, &destination, &m.Partition)
		m.Merge = fact.Merge{ID: id, Source: fact.ProfileID(source), Destination: fact.ProfileID(destination)}
		s.Markers = append(s.Markers, m)
		return err
	})
}

// ready reads the state again after a failure.
func (d *DB) ready(ctx context.Context) error {
	if d.closed {
		return warehouse.ErrClosed
	}
	if d.stale.Load() {
		return d.load(ctx)
	}
	return nil
}

// uuid scans a UUID.
type uuid [16]byte

// Scan implements sql.Scanner.
func (u *uuid) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok || len(b) != len(u) {
		return fmt.Errorf("warehouse: %T is no UUID", v)
	}
	copy(u[:], b)
	return nil
}
