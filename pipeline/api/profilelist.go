package api

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/identity"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// rounds bounds how many pages are read to fill one whose filter passes few: it is shorter then, and has a cursor.
const rounds = 16

// selection is a filter over profiles made ready: who is named by identifiers, and what the times must be.
type selection struct {
	filter *jsonapi.Filter
	named  map[*jsonapi.Filter][]fact.ProfileID
	times  map[*jsonapi.Filter]customer.Range
	bounds map[string]customer.Range // what all matches have, by field
}

// selection looks up the identifiers in a filter and reads its times.
func (s *Server) selection(c *call, f *jsonapi.Filter) (*selection, error) {
	out := &selection{filter: f, named: map[*jsonapi.Filter][]fact.ProfileID{}, times: map[*jsonapi.Filter]customer.Range{}, bounds: map[string]customer.Range{}}
	for leaf := range f.Leaves {
		if leaf.Field == "created" || leaf.Field == "updated" || leaf.Field == "joined_group_at" {
			r, err := timeRange(leaf)
			if err != nil {
				return nil, err
			}
			out.times[leaf] = r
			continue
		}
		ids, err := s.lookup(c, leaf)
		if err != nil {
			return nil, err
		}
		out.named[leaf] = ids
	}
	for _, leaf := range conjuncts(f) {
		if r, timed := out.times[leaf]; timed {
			out.bounds[leaf.Field] = narrow(out.bounds[leaf.Field], r)
		}
	}
	return out, nil
}

// conjuncts are the terms that must all hold.
func conjuncts(f *jsonapi.Filter) []*jsonapi.Filter {
	switch {
	case f == nil:
		return nil
	case len(f.Args) == 0:
		return []*jsonapi.Filter{f}
	case f.Op != jsonapi.And:
		return nil
	}
	var out []*jsonapi.Filter
	for _, a := range f.Args {
		out = append(out, conjuncts(a)...)
	}
	return out
}

// timeRange is the range of a comparison, in milliseconds as all times here.
func timeRange(leaf *jsonapi.Filter) (customer.Range, error) {
	t, err := leaf.Values[0].Time()
	if err != nil {
		return customer.Range{}, jsonapi.BadParameter("filter", "%s: %v", leaf.Field, err)
	}
	return rangeOf(leaf.Op, t), nil
}

func rangeOf(op jsonapi.Op, t time.Time) customer.Range {
	next := t.Truncate(time.Millisecond).Add(time.Millisecond)
	switch op {
	case jsonapi.GreaterThan:
		return customer.Range{From: next}
	case jsonapi.GreaterOrEqual:
		return customer.Range{From: t}
	case jsonapi.LessThan:
		return customer.Range{To: t}
	}
	return customer.Range{To: next}
}

// unixRange is rangeOf for Unix seconds.
func unixRange(op jsonapi.Op, seconds int64) customer.Range {
	switch op {
	case jsonapi.GreaterThan:
		return customer.Range{From: time.Unix(seconds+1, 0)}
	case jsonapi.GreaterOrEqual:
		return customer.Range{From: time.Unix(seconds, 0)}
	case jsonapi.LessThan:
		return customer.Range{To: time.Unix(seconds, 0)}
	}
	return customer.Range{To: time.Unix(seconds+1, 0)}
}

func narrow(a, b customer.Range) customer.Range {
	if b.From.After(a.From) {
		a.From = b.From
	}
	if a.To.IsZero() || !b.To.IsZero() && b.To.Before(a.To) {
		a.To = b.To
	}
	return a
}

func within(r customer.Range, t time.Time) bool {
	return (r.From.IsZero() || !t.Before(r.From)) && (r.To.IsZero() || t.Before(r.To))
}

// lookup finds the profiles that a term names. An identifier that is not well formed is nobody's.
func (s *Server) lookup(c *call, leaf *jsonapi.Filter) ([]fact.ProfileID, error) {
	kinds := map[string]struct {
		kind fact.IdentifierKind
		read func(string) (string, error)
	}{"id": {fact.ByProfile, profileID}, "email": {fact.ByEmail, identity.Email},
		"phone_number": {fact.ByPhone, identity.Phone}, "external_id": {fact.ByExternal, identity.External}}
	k, ok := kinds[leaf.Field]
	if !ok {
		return nil, fmt.Errorf("api: filter field %q is allowed and not served", leaf.Field)
	}
	var out []fact.ProfileID
	for _, v := range leaf.Values {
		value, err := k.read(v.Text)
		if err != nil {
			continue
		}
		id, found, err := s.deps.Identities.Lookup(c.tenant, fact.Identifier{Kind: k.kind, Value: value})
		if err != nil {
			return nil, err
		}
		if found {
			out = append(out, id)
		}
	}
	return out, nil
}

// candidates are profiles beside which no other matches; false: any may.
func (s *selection) candidates(f *jsonapi.Filter) ([]fact.ProfileID, bool) {
	switch {
	case f == nil || f.Op == jsonapi.Not:
		return nil, false
	case len(f.Args) == 0:
		ids, named := s.named[f]
		return ids, named
	}
	var out []fact.ProfileID
	found := false
	for _, a := range f.Args {
		ids, ok := s.candidates(a)
		switch {
		case f.Op == jsonapi.Or && !ok:
			return nil, false
		case f.Op == jsonapi.Or:
			out, found = append(out, ids...), true
		case ok && (!found || len(ids) < len(out)):
			out, found = ids, true
		}
	}
	return out, found
}

// match decides for a profile with the times of its fields.
func (s *selection) match(id fact.ProfileID, times map[string]time.Time) bool {
	return s.filter.Match(func(leaf *jsonapi.Filter) bool {
		if r, timed := s.times[leaf]; timed {
			return within(r, times[leaf.Field])
		}
		return slices.Contains(s.named[leaf], id)
	})
}

func (s *Server) getProfiles(c *call) (answer, error) {
	sel, err := s.selection(c, c.query.Filter)
	if err != nil {
		return answer{}, err
	}
	q := customer.ProfileQuery{Created: sel.bounds["created"], Updated: sel.bounds["updated"], Sort: customer.Sort(c.query.Sort), Descending: c.query.Descending, Cursor: c.query.Cursor}
	if ids, ok := sel.candidates(c.query.Filter); ok {
		q.IDs = append([]fact.ProfileID{}, ids...) // not nil: nobody, if there are none
	}
	out := many{Data: []resource{}}
	for range rounds {
		q.Size = c.query.Size - len(out.Data)
		page, err := s.deps.Profiles.Profiles(c.tenant, q)
		if err != nil {
			return answer{}, err
		}
		for _, p := range page.Profiles {
			if sel.match(p.ID, map[string]time.Time{"created": p.Created, "updated": p.Updated}) {
				out.Data = append(out.Data, c.profileResource(p, nil))
			}
		}
		if q.Cursor = page.Cursor; q.Cursor == "" || len(out.Data) >= c.query.Size {
			break
		}
	}
	out.Links = c.pages(q.Cursor)
	return answer{status: http.StatusOK, body: out}, nil
}
