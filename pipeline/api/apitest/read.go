package apitest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/identity"
	"github.com/godwit-mta/godwit/pipeline/ingest"
)

// Wait implements api.Waiter: everything is applied at once.
func (w *World) Wait(ctx context.Context, _ ingest.Position) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return cmp.Or(w.WaitErr, ctx.Err())
}

// read locks the tenant for reading.
func (w *World) read(name string) (*tenant, func(), error) {
	w.mu.Lock()
	if w.ReadErr != nil {
		defer w.mu.Unlock()
		return nil, nil, w.ReadErr
	}
	return w.tenant(name), w.mu.Unlock, nil
}

// Lookup implements api.Identities.
func (w *World) Lookup(name string, id fact.Identifier) (fact.ProfileID, bool, error) {
	t, done, err := w.read(name)
	if err != nil {
		return fact.ProfileID{}, false, err
	}
	defer done()
	p, ok := t.bound[id]
	if id.Kind == fact.ByProfile {
		if p, err = fact.ParseProfileID(id.Value); err != nil {
			return fact.ProfileID{}, false, nil
		}
		p = t.follow(p)
		_, gone := t.moved[p]
		return p, !gone, nil
	}
	p = t.follow(p)
	return p, ok && t.profiles[p] != nil, nil
}

// Resolve implements api.Identities.
func (w *World) Resolve(name string, id fact.ProfileID) (fact.ProfileID, identity.Standing, error) {
	t, done, err := w.read(name)
	if err != nil {
		return id, identity.Living, err
	}
	defer done()
	switch to := t.follow(id); {
	case t.moved[to].IsZero() && t.profiles[to] == nil && hasKey(t.moved, to):
		return to, identity.Deleted, nil
	case to != id:
		return to, identity.Merged, nil
	}
	return id, identity.Living, nil
}

func hasKey[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

// Profile implements api.Profiles.
func (w *World) Profile(name string, id fact.ProfileID) (*customer.Profile, error) {
	t, done, err := w.read(name)
	if err != nil {
		return nil, err
	}
	defer done()
	p := t.profiles[t.follow(id)]
	if p == nil {
		return nil, customer.ErrNotFound
	}
	out := *p
	return &out, nil
}

// Profiles implements api.Profiles.
func (w *World) Profiles(name string, q customer.ProfileQuery) (*customer.ProfilePage, error) {
	t, done, err := w.read(name)
	if err != nil {
		return nil, err
	}
	defer done()
	var all []*customer.Profile
	for id, p := range t.profiles {
		if (q.IDs == nil || slices.Contains(q.IDs, id)) && within(q.Created, p.Created) && within(q.Updated, p.Updated) {
			out := *p
			all = append(all, &out)
		}
	}
	place := func(p *customer.Profile) string {
		switch q.Sort {
		case customer.ByEmail:
			return p.Email + p.ID.String()
		case customer.ByCreated:
			return p.Created.Format(time.RFC3339Nano) + p.ID.String()
		case customer.ByUpdated:
			return p.Updated.Format(time.RFC3339Nano) + p.ID.String()
		}
		return p.ID.String()
	}
	slices.SortFunc(all, func(a, b *customer.Profile) int { return cmp.Compare(place(a), place(b)) })
	if q.Descending {
		slices.Reverse(all)
	}
	page, next, err := cut(all, q.Cursor, q.Size)
	return &customer.ProfilePage{Profiles: page, Cursor: next}, err
}

func within(r customer.Range, t time.Time) bool {
	return (r.From.IsZero() || !t.Before(r.From)) && (r.To.IsZero() || t.Before(r.To))
}

// cut takes a page; the cursor is a number of items.
func cut[T any](all []T, cursor string, size int) ([]T, string, error) {
	from := 0
	if cursor != "" {
		var err error
		if from, err = strconv.Atoi(cursor); err != nil || from < 0 || from > len(all) {
			return nil, "", customer.ErrCursor
		}
	}
	all = all[from:]
	if len(all) > size {
		return all[:size], strconv.Itoa(from + size), nil
	}
	return all, "", nil
}

// Summary implements api.Profiles.
func (w *World) Summary(name string, id fact.ProfileID, metric fact.MetricID, windows []time.Duration, now time.Time) ([]customer.Window, error) {
	t, done, err := w.read(name)
	if err != nil {
		return nil, err
	}
	defer done()
	out := make([]customer.Window, len(windows))
	for _, e := range t.events {
		for i, d := range windows {
			if e.Profile != id || e.Metric != metric || !e.Time.After(now.Add(-d)) || e.Time.After(now) {
				continue
			}
			win := &out[i]
			if win.Count++; win.Count == 1 || e.Time.Before(win.First) {
				win.First = e.Time
			}
			if e.Time.After(win.Last) {
				win.Last = e.Time
			}
			win.Sum += e.Value
		}
	}
	return out, nil
}

// Events implements api.Profiles.
func (w *World) Events(name string, q customer.EventQuery) (*customer.EventPage, error) {
	t, done, err := w.read(name)
	if err != nil {
		return nil, err
	}
	defer done()
	if q.Profile = t.follow(q.Profile); t.profiles[q.Profile] == nil {
		return nil, customer.ErrNotFound
	}
	return t.list(q)
}

func (t *tenant) list(q customer.EventQuery) (*customer.EventPage, error) {
	var all []customer.Event
	for _, e := range t.events {
		if (q.Profile.IsZero() || q.Profile == e.Profile) && (q.Metric == 0 || q.Metric == e.Metric) && within(q.Time, e.Time) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b customer.Event) int { return cmp.Or(a.Time.Compare(b.Time), bytes.Compare(a.ID[:], b.ID[:])) })
	if q.Descending {
		slices.Reverse(all)
	}
	page, next, err := cut(all, q.Cursor, q.Size)
	return &customer.EventPage{Events: page, Cursor: next}, err
}

// Event implements api.Profiles.
func (w *World) Event(name string, id customer.EventID) (*customer.Event, error) {
	t, done, err := w.read(name)
	if err != nil {
		return nil, err
	}
	defer done()
	for _, e := range t.events {
		if e.ID == id {
			return &e, nil
		}
	}
	return nil, customer.ErrNotFound
}

// Object implements api.Profiles.
func (w *World) Object(name, kind, id string) (*customer.Object, error) {
	t, done, err := w.read(name)
	if err != nil {
		return nil, err
	}
	defer done()
	data, ok := t.objects[kind][id]
	if !ok {
		return nil, customer.ErrNotFound
	}
	return &customer.Object{ID: id, Data: data}, nil
}

// Objects implements api.Profiles.
func (w *World) Objects(name, kind, cursor string, size int) (*customer.ObjectPage, error) {
	t, done, err := w.read(name)
	if err != nil {
		return nil, err
	}
	defer done()
	page, next, err := cut(slices.Sorted(maps.Keys(t.objects[kind])), cursor, size)
	out := &customer.ObjectPage{Cursor: next}
	for _, id := range page {
		out.Objects = append(out.Objects, customer.Object{ID: id, Data: t.objects[kind][id]})
	}
	return out, err
}

// Members implements api.Profiles.
func (w *World) Members(name string, q customer.MemberQuery) (*customer.MemberPage, error) {
	t, done, err := w.read(name)
	if err != nil {
		return nil, err
	}
	defer done()
	var all []customer.Member
	for id, p := range t.profiles {
		for _, m := range p.Lists {
			if m.List == q.List && within(q.Joined, m.Joined) {
				all = append(all, customer.Member{Profile: id, Joined: m.Joined})
			}
		}
	}
	slices.SortFunc(all, func(a, b customer.Member) int {
		return cmp.Or(a.Joined.Compare(b.Joined), bytes.Compare(a.Profile[:], b.Profile[:]))
	})
	if q.Descending {
		slices.Reverse(all)
	}
	page, next, err := cut(all, q.Cursor, q.Size)
	return &customer.MemberPage{Members: page, Cursor: next}, err
}

// Counts answers questions for counts of a world.
type Counts struct{ *World }

// Metrics implements api.Counts.
func (c Counts) Metrics(_ context.Context, name string) ([]account.Metric, error) {
	t, done, err := c.read(name)
	if err != nil {
		return nil, err
	}
	defer done()
	return slices.Collect(maps.Values(t.metrics)), nil
}

// Zone implements api.Counts.
func (c Counts) Zone(string) *time.Location { return time.UTC }

// Query implements api.Counts for days. A dimension is the property of that name; two of them need the warehouse.
func (c Counts) Query(ctx context.Context, q account.Query) (*account.Result, error) {
	if len(q.By) > 1 {
		return nil, account.ErrNeedsWarehouse
	}
	return Warehouse(c).Query(ctx, q)
}

// Warehouse lists and counts events of all profiles of a world.
type Warehouse struct{ *World }

// Query implements api.Warehouse for days.
func (c Warehouse) Query(_ context.Context, q account.Query) (*account.Result, error) {
	t, done, err := c.read(q.Tenant)
	if err != nil {
		return nil, err
	}
	defer done()
	out := &account.Result{}
	at := q.From.In(q.Zone)
	for at = time.Date(at.Year(), at.Month(), at.Day(), 0, 0, 0, 0, q.Zone); at.Before(q.To); at = at.AddDate(0, 0, 1) {
		out.Dates = append(out.Dates, at)
	}
	rows, seen := map[string]*account.Row{}, map[string]bool{}
	for _, e := range t.events {
		if e.Metric != q.Metric || e.Time.Before(q.From) || !e.Time.Before(q.To) {
			continue
		}
		var values []string
		for _, d := range q.By {
			values = append(values, property(e.Properties, d))
		}
		key := fmt.Sprint(values)
		row := rows[key]
		if row == nil {
			n := len(out.Dates)
			row = &account.Row{Dimensions: values, Count: make([]int64, n), Sum: make([]account.Sum, n), Unique: make([]int64, n)}
			rows[key] = row
		}
		day := slices.IndexFunc(out.Dates, func(d time.Time) bool { return d.AddDate(0, 0, 1).After(e.Time) })
		row.Count[day]++
		row.Sum[day] = row.Sum[day].Add(account.Sum{Hi: e.Value >> 63, Lo: uint64(e.Value)})
		if who := fmt.Sprint(key, day, e.Profile); !seen[who] {
			seen[who] = true
			row.Unique[day]++
		}
	}
	keys := slices.Sorted(maps.Keys(rows))
	page, next, err := cut(keys, q.Cursor, cmp.Or(q.Size, 500))
	if err != nil {
		return nil, &account.Invalid{Field: "cursor", Detail: "is not one"}
	}
	for _, key := range page {
		out.Rows = append(out.Rows, *rows[key])
	}
	out.Next = next
	return out, nil
}

func property(object []byte, name string) string {
	var all map[string]any
	if json.Unmarshal(object, &all) != nil || all[name] == nil {
		return ""
	}
	return fmt.Sprint(all[name])
}

// Events implements api.Warehouse.
func (c Warehouse) Events(_ context.Context, name string, q customer.EventQuery) (*customer.EventPage, error) {
	t, done, err := c.read(name)
	if err != nil {
		return nil, err
	}
	defer done()
	return t.list(q)
}
