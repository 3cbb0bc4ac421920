package customer

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Sort is the order of profiles. Where it leaves it open they are in the order of their ids.
type Sort string

// The orders of profiles.
const (
	ByID      Sort = "id"
	ByEmail   Sort = "email" // those without an address first
	ByCreated Sort = "created"
	ByUpdated Sort = "updated"
)

// prefix is that of the rows that are in the order.
func (s Sort) prefix() (byte, error) {
	switch s {
	case ByID, "":
		return prefixDocument, nil
	case ByEmail:
		return prefixEmail, nil
	case ByCreated:
		return prefixCreated, nil
	case ByUpdated:
		return prefixUpdated, nil
	}
	return 0, fmt.Errorf("customer: sort %q: is not one of id, email, created, updated", string(s))
}

// Range is the times in [From, To), to the millisecond; a zero bound is open.
type Range struct {
	From, To time.Time
}

func (r Range) has(t time.Time) bool {
	return (r.From.IsZero() || !t.Before(r.From)) && (r.To.IsZero() || t.Before(r.To))
}

// keys are the range as bounds of keys that begin with a time.
func (r Range) keys() (from, to []byte) {
	if !r.From.IsZero() {
		from = appendMillis(nil, ceilMillis(r.From))
	}
	if !r.To.IsZero() {
		to = appendMillis(nil, ceilMillis(r.To))
	}
	return from, to
}

// ceilMillis is the first millisecond that is not before t.
func ceilMillis(t time.Time) int64 {
	ms := t.UnixMilli()
	if time.UnixMilli(ms).Before(t) {
		ms++
	}
	return ms
}

// ProfileQuery asks for profiles.
type ProfileQuery struct {
	// IDs, unless nil, are the only ones that are looked at. A merged one stands for the one it went to.
	IDs              []fact.ProfileID
	Created, Updated Range
	Sort             Sort // ByID unless given
	Descending       bool
	Cursor           string
	Size             int // 20 unless given, at most 1,000
}

// ProfilePage is a part of an answer. Cursor asks for the next one; it is empty behind the last. A page may be shorter than asked
// for, even empty, and have a cursor.
type ProfilePage struct {
	Profiles []*Profile
	Cursor   string
}

// Profiles returns those that a query asks for.
func (r *Reader) Profiles(tenant string, q ProfileQuery) (*ProfilePage, error) {
	prefix, err := q.Sort.prefix()
	if err != nil {
		return nil, err
	}
	t := fact.TenantIDOf(tenant)
	ask := question{tenant: t, kind: prefix, back: q.Descending}
	after, err := ask.place(q.Cursor)
	if err != nil {
		return nil, err
	}
	size := pageSize(q.Size)
	var rows []found
	var next []byte
	if q.IDs != nil {
		rows, next, err = r.some(t, &q, after, size)
	} else {
		s := span{prefix: appendTenant(nil, prefix, t), after: after, back: q.Descending}
		switch prefix {
		case prefixCreated:
			s.from, s.to = q.Created.keys()
		case prefixUpdated:
			s.from, s.to = q.Updated.keys()
		}
		rows, next, err = r.page(s, size, q.keep(t))
	}
	if err != nil {
		return nil, err
	}
	out := &ProfilePage{Profiles: make([]*Profile, len(rows)), Cursor: ask.cursor(next)}
	for i := range rows {
		out.Profiles[i] = rows[i].item.(*Profile)
	}
	return out, nil
}

// keep reads the profile of a row that ends with its id. One that is not there any more, or changed since so that the row is not
// its any more, is left out.
func (q *ProfileQuery) keep(t fact.TenantID) keeper {
	return func(s State, at, value []byte) (any, bool, error) {
		var id fact.ProfileID
		copy(id[:], at[len(at)-len(id):])
		w := whoOf(t, id)
		var err error
		if len(at) == len(id) {
			value = bytes.Clone(value)
		} else if value, err = s.Get(append([]byte{prefixDocument}, w[:]...)); err != nil {
			if errors.Is(err, keyed.ErrNotFound) {
				err = nil
			}
			return nil, false, err
		}
		var d document
		if err := d.parse(value); err != nil {
			return nil, false, err
		}
		if !q.Created.has(millis(d.created)) || !q.Updated.has(millis(d.updated)) {
			return nil, false, nil
		}
		h, err := loadHead(s.Get, w)
		if err != nil || h.standing != living {
			return nil, false, err
		}
		h.last, err = lastEvent(s, w, h)
		return d.show(id, h), true, err
	}
}

// some answers a query that names the profiles.
func (r *Reader) some(t fact.TenantID, q *ProfileQuery, after []byte, size int) (rows []found, next []byte, err error) {
	seen := map[fact.ProfileID]bool{}
	all, err := r.several(t, q.IDs)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range all {
		if p == nil {
			continue
		}
		if !seen[p.ID] && q.Created.has(p.Created) && q.Updated.has(p.Updated) {
			rows = append(rows, found{q.Sort.position(p), p})
		}
		seen[p.ID] = true
	}
	compare := bytes.Compare
	if q.Descending {
		compare = func(a, b []byte) int { return bytes.Compare(b, a) }
	}
	slices.SortFunc(rows, func(a, b found) int { return compare(a.at, b.at) })
	if after != nil {
		rows = slices.DeleteFunc(rows, func(f found) bool { return compare(f.at, after) <= 0 })
	}
	if len(rows) > size {
		return rows[:size], rows[size-1].at, nil
	}
	return rows, nil, nil
}

// several reads profiles; nil is one that is not there.
func (r *Reader) several(t fact.TenantID, ids []fact.ProfileID) ([]*Profile, error) {
	out := make([]*Profile, len(ids))
	one := func(i int) error {
		p, err := r.profile(t, ids[i])
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		out[i] = p
		return err
	}
	var all errgroup.Group
	all.SetLimit(r.atOnce)
	for i := range ids {
		if r.atOnce > 1 {
			all.Go(func() error { return one(i) })
		} else if err := one(i); err != nil {
			return nil, err
		}
	}
	return out, all.Wait()
}

// position is the key of a profile behind the prefix of the order's rows.
func (s Sort) position(p *Profile) []byte {
	var at []byte
	switch s {
	case ByEmail:
		at = emailPosition(p.Email)
	case ByCreated:
		at = appendMillis(nil, p.Created.UnixMilli())
	case ByUpdated:
		at = appendMillis(nil, p.Updated.UnixMilli())
	}
	return append(at, p.ID[:]...)
}
