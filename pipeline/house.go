package pipeline

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/identity"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
	"github.com/godwit-mta/godwit/pipeline/warehouse/duckdb"
)

// openWarehouse opens the warehouse, if there is to be one and this program can have it.
func (p *Pipeline) openWarehouse(ctx context.Context) (err error) {
	o := p.o.Warehouse
	if o.Engine == "" {
		return nil
	}
	p.house, err = duckdb.Open(ctx, filepath.Join(p.o.Path, "warehouse"), o, duckdb.Deps{Logger: p.d.Logger, Registerer: p.d.Registerer, Counts: counted{p.counts, mostCounts}, Behind: p.memory.Behind})
	if errors.Is(err, duckdb.ErrNoCgo) {
		p.log.Warn("no warehouse: SQL, counts by several dimensions and lists of all events are not to be had", "why", err)
		p.house = nil
		return nil
	}
	if err != nil {
		return err
	}
	p.filler, err = warehouse.NewConsumer(p.house, p.facts, p.logs, o, warehouse.Deps{Sources: p.intake.Partitions(), All: len(p.o.Kafka.Brokers) > 0, Logger: p.d.Logger, Registerer: p.d.Registerer, Behind: p.memory.Behind})
	return err
}

// SQL asks the warehouse. What it does not take wraps ErrRefused.
func (p *Pipeline) SQL(ctx context.Context, query string, limit int) (*warehouse.Answer, error) {
	if p.house == nil && p.peers != nil {
		return distant{p.peers.finder}.SQL(ctx, query, limit)
	}
	if p.house == nil {
		return nil, fmt.Errorf("%w: there is no warehouse here: see pipeline.warehouse.engine", ErrRefused)
	}
	a, err := warehouse.Ask(ctx, p.house, warehouse.Statement{SQL: query, Limit: min(limit, p.o.Warehouse.QueryRows)})
	var bad *warehouse.SQLError
	if errors.As(err, &bad) || errors.Is(err, warehouse.ErrBusy) {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return a, err
}

// fillerStatus is the warehouse's consumer in the words of the others.
func (p *Pipeline) fillerStatus(ctx context.Context) (Consumer, error) {
	out := Consumer{Name: consumerWarehouse, Running: true}
	all, err := p.filler.Status(ctx)
	for _, s := range all {
		part := keyed.PartitionStatus{Partition: s.Partition, Applied: s.Stored, Committed: s.Stored, End: s.End, Behind: s.Lag, Waiting: s.Lag}
		if s.Err != nil {
			part.Error = s.Err.Error()
		}
		out.Running = out.Running && !s.Stopped
		out.Partitions = append(out.Partitions, part)
	}
	return out, err
}

// archiveMargin is how much earlier than necessary the warehouse is asked about an event: folding goes by times of
// acceptance, in whole days.
const archiveMargin = 24 * time.Hour

// past is a warehouse in the door's words. A repeated event is told apart by the customer stage until Window after its time has
// passed; then its row is folded and the warehouse is asked. It may lag by as much as Dedupe, for so long a row is kept in any case.
type past struct {
	who func(context.Context) *identity.Reader
	w   archive
}

// archive is what the door asks of a warehouse.
type archive interface {
	Seen(ctx context.Context, q warehouse.SeenQuery) (bool, error)
}

// archive is the warehouse here, or else at another node; nil if there can be none.
func (p *Pipeline) archive() archive {
	switch {
	case p.house != nil:
		return p.house
	case p.peers != nil:
		return distant{p.peers.finder}
	}
	return nil
}

// Seen implements ingest.Archive.
func (p past) Seen(ctx context.Context, tenant string, strongest fact.Identifier, metric fact.MetricID, uid string) (bool, error) {
	profile, known, err := p.who(ctx).Lookup(tenant, strongest)
	if err != nil || !known {
		return false, err
	}
	return p.w.Seen(ctx, warehouse.SeenQuery{Tenant: tenant, Profile: profile, Metric: metric, UID: uid, Partition: -1})
}

// answers is a warehouse in the API's words.
type answers struct{ w warehouse.Warehouse }

// Events implements api.Warehouse.
func (a answers) Events(ctx context.Context, tenant string, q customer.EventQuery) (*customer.EventPage, error) {
	cursor, err := eventCursor(q.Cursor)
	if err != nil {
		return nil, err
	}
	page, err := a.w.Events(ctx, warehouse.EventQuery{Tenant: tenant, Profile: q.Profile, Metric: q.Metric, From: q.Time.From, To: q.Time.To,
		Descending: q.Descending, Cursor: cursor, Size: q.Size})
	if err != nil {
		return nil, err
	}
	out := &customer.EventPage{Events: make([]customer.Event, len(page.Events))}
	for i := range page.Events {
		e := &page.Events[i]
		out.Events[i] = customer.Event{ID: customer.EventIDOf(e.Profile, e.Metric, e.UID), Profile: e.Profile, Metric: e.Metric, Time: e.Time,
			Value: e.Value, HasValue: e.HasValue, Backfill: e.Backfill, Properties: e.Properties}
	}
	if page.More {
		b := binary.BigEndian.AppendUint64(nil, uint64(page.Next.Time.UnixMilli()))
		b = binary.BigEndian.AppendUint32(b, uint32(page.Next.Partition))
		out.Cursor = base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(b, uint64(page.Next.Offset)))
	}
	return out, nil
}

// eventCursor reads what Events made.
func eventCursor(s string) (c warehouse.EventCursor, err error) {
	if s == "" {
		return c, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 20 {
		return c, customer.ErrCursor
	}
	return warehouse.EventCursor{Time: time.UnixMilli(int64(binary.BigEndian.Uint64(b))).UTC(), Partition: int32(binary.BigEndian.Uint32(b[8:])),
		Offset: int64(binary.BigEndian.Uint64(b[12:]))}, nil
}

// Query implements api.Warehouse.
func (a answers) Query(ctx context.Context, q account.Query) (*account.Result, error) {
	intervals := map[account.Interval]warehouse.Interval{account.Hour: warehouse.Hour, account.Day: warehouse.Day, account.Week: warehouse.Week, account.Month: warehouse.Month}
	ask := warehouse.AggregateQuery{Tenant: q.Tenant, Metric: q.Metric, Interval: intervals[q.Interval], Zone: q.Zone, By: q.By, From: q.From, To: q.To}
	wants := map[string]bool{}
	for _, m := range q.Measurements {
		wants[m] = true
	}
	ask.Unique = wants[account.Unique]
	for name, values := range q.Values {
		ask.Filters = append(ask.Filters, warehouse.Filter{Name: name, Values: values})
	}
	got, err := a.w.Aggregate(ctx, ask)
	if err != nil {
		return nil, err
	}
	out := &account.Result{Dates: got.Starts}
	for _, g := range got.Groups {
		row := account.Row{Dimensions: g.By}
		if wants[account.Count] {
			row.Count = g.Counts
		}
		if wants[account.Unique] {
			row.Unique = g.Uniques
		}
		if wants[account.SumValue] {
			for _, micros := range g.Micros {
				row.Sum = append(row.Sum, account.SumOf(micros))
			}
		}
		out.Rows = append(out.Rows, row)
	}
	return out, nil
}
