package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/openapi"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// kindList is the type of lists among the tenant's documents.
const kindList = "list"

// maxLists is how many lists of a tenant are listed.
const maxLists = 10_000

func (s *Server) listEndpoints() []endpoint {
	either := []jsonapi.Op{jsonapi.Equals, jsonapi.Any}
	span := []jsonapi.Op{jsonapi.GreaterThan, jsonapi.LessThan, jsonapi.GreaterOrEqual, jsonapi.LessOrEqual}
	fields := jsonapi.Spec{Fields: map[string][]string{"list": listFields()}}
	single := jsonapi.Spec{Fields: fields.Fields, Additional: map[string][]string{"list": {"profile_count"}}}
	page := jsonapi.Spec{Fields: fields.Fields, Size: 10, MaxSize: 1000, Sorts: []string{"created", "id", "name", "updated"},
		Filters: jsonapi.Allow{"id": either, "name": either, "created": span, "updated": span}}
	joined := jsonapi.Allow{"joined_group_at": span, "email": either, "phone_number": either}
	members := profileSpec()
	members.Filters, members.Sorts, members.Size, members.MaxSize = joined, []string{"joined_group_at"}, 20, 1000
	refs := jsonapi.Spec{Filters: joined, Sorts: []string{"joined_group_at"}, Size: 20, MaxSize: 1000}
	done := openapi.Response{Status: http.StatusNoContent, Doc: "Done, durably."}
	return []endpoint{
		look("/api/lists", "getLists", "List lists.", page, ListsResponse{}, s.getLists),
		look("/api/lists/{id}", "getList", "Get a list.", single, ListResponse{}, s.getList),
		act(http.MethodPost, "/api/lists", "createList", "Make a list.", fields, ListRequest{}, success(201, "The list.", ListResponse{}), s.postList),
		act(http.MethodPatch, "/api/lists/{id}", "updateList", "Change a list.", fields, ListRequest{}, success(200, "The list.", ListResponse{}), s.patchList, 404),
		act(http.MethodDelete, "/api/lists/{id}", "deleteList", "Delete a list.", jsonapi.Spec{}, nil, done, s.deleteList, 404),
		look("/api/lists/{id}/profiles", "getProfilesForList", "List the profiles of a list.", members, ProfilesResponse{}, s.getMembers),
		look("/api/lists/{id}/relationships/profiles", "getProfileIdsForList", "List the ids of a list's profiles.", refs, RefsResponse{}, s.getMemberRefs),
		act(http.MethodPost, "/api/lists/{id}/relationships/profiles", "addProfilesToList", "Add profiles to a list; it gives no consent.", jsonapi.Spec{},
			RefsRequest{}, done, s.joiner(true), 404),
		act(http.MethodDelete, "/api/lists/{id}/relationships/profiles", "removeProfilesFromList", "Take profiles from a list; it takes no consent.", jsonapi.Spec{},
			RefsRequest{}, done, s.joiner(false), 404),
		look("/api/profiles/{id}/lists", "getListsForProfile", "List the lists that a profile is in.", fields, ListsResponse{}, s.getListsOfProfile),
		look("/api/profiles/{id}/relationships/lists", "getListIdsForProfile", "List the ids of the lists that a profile is in.", jsonapi.Spec{}, RefsResponse{}, s.getListRefsOfProfile),
	}
}

// list is a list as it is stored, with its id.
type list struct {
	id string
	ListView
}

func (s *Server) list(c *call, id string) (*list, error) {
	o, err := s.deps.Profiles.Object(c.tenant, kindList, id)
	if errors.Is(err, customer.ErrNotFound) {
		return nil, jsonapi.NotFound("there is no list with the id %q", id)
	}
	if err != nil {
		return nil, err
	}
	return readList(o.ID, o.Data)
}

func readList(id string, data []byte) (*list, error) {
	l := &list{id: id}
	if err := json.Unmarshal(data, &l.ListView); err != nil {
		return nil, fmt.Errorf("api: list %s: %w", id, err)
	}
	return l, nil
}

func (c *call) listResource(l *list) resource {
	return resource{Type: kindList, ID: l.id, Attributes: c.sparse(kindList, l.ListView), Links: c.self("lists", l.id)}
}

func (s *Server) getList(c *call) (answer, error) {
	l, err := s.list(c, c.r.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	if c.also(kindList, "profile_count") {
		n, err := s.countMembers(c, l.id)
		if err != nil {
			return answer{}, err
		}
		l.ProfileCount = &n
	}
	return answer{status: http.StatusOK, body: one{Data: c.listResource(l)}}, nil
}

// countMembers reads them all: the number is sent only to those who ask for it.
func (s *Server) countMembers(c *call, id string) (int, error) {
	q, n := customer.MemberQuery{List: id, Size: 1000}, 0
	for {
		page, err := s.deps.Profiles.Members(c.tenant, q)
		if err != nil {
			return 0, err
		}
		if n += len(page.Members); page.Cursor == "" {
			return n, nil
		}
		if q.Cursor = page.Cursor; c.ctx.Err() != nil {
			return 0, c.ctx.Err()
		}
	}
}

func (s *Server) postList(c *call) (answer, error) {
	l := &list{id: c.newID(kindList), ListView: ListView{OptInProcess: "single_opt_in", Created: c.at}}
	return s.writeList(c, l, "", http.StatusCreated)
}

func (s *Server) patchList(c *call) (answer, error) {
	l, err := s.list(c, c.r.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	return s.writeList(c, l, l.id, http.StatusOK)
}

// writeList applies the request to l and stores it. id is what the request must name, "" if nothing.
func (s *Server) writeList(c *call, l *list, id string, status int) (answer, error) {
	in, err := decode(s.decoders.list, c.body)
	if err != nil {
		return answer{}, err
	}
	given := ""
	if in.Data.ID != nil {
		given = *in.Data.ID
	}
	a := in.Data.Attributes
	switch {
	case in.Data.Type != kindList:
		return answer{}, jsonapi.Invalid("/data/type", "must be %q", kindList)
	case given != id && id == "":
		return answer{}, jsonapi.Invalid("/data/id", "must not be given: a new list gets its id here")
	case given != id:
		return answer{}, jsonapi.Invalid("/data/id", "must be the id in the path")
	case a.Name == nil && id == "":
		return answer{}, jsonapi.Invalid("/data/attributes/name", "is required")
	case a.Name != nil && (strings.TrimSpace(*a.Name) == "" || len(*a.Name) > 255):
		return answer{}, jsonapi.Invalid("/data/attributes/name", "must have 1 to 255 bytes")
	case a.OptInProcess != nil && *a.OptInProcess != "single_opt_in" && *a.OptInProcess != "double_opt_in":
		return answer{}, jsonapi.Invalid("/data/attributes/opt_in_process", "must be single_opt_in or double_opt_in")
	}
	if a.Name != nil {
		l.Name = *a.Name
	}
	if a.OptInProcess != nil {
		l.OptInProcess = *a.OptInProcess
	}
	l.Updated = c.at
	if err := s.putObject(c, kindList, l.id, l.ListView); err != nil {
		return answer{}, err
	}
	return answer{status: status, body: one{Data: c.listResource(l)}}, nil
}

// putObject stores a document, or with nil deletes it, and waits until it can be read.
func (s *Server) putObject(c *call, kind, id string, v any) error {
	o, err := c.object(kind, id, v)
	if err != nil {
		return err
	}
	at, err := s.deps.Door.Put(c.ctx, []*fact.Intake{o})
	if err == nil {
		s.visible(c, at)
	}
	return err
}

func (c *call) object(kind, id string, v any) (*fact.Intake, error) {
	o := &fact.Object{Type: kind, ID: id}
	if v != nil {
		var err error
		if o.Data, err = json.Marshal(v); err != nil {
			return nil, fmt.Errorf("api: %s %s: %w", kind, id, err)
		}
	}
	return &fact.Intake{Kind: fact.KindObject, Tenant: c.tenant, At: c.at, Object: o}, nil
}

func (s *Server) deleteList(c *call) (answer, error) {
	l, err := s.list(c, c.r.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, s.putObject(c, kindList, l.id, nil)
}

// getLists reads all lists of the tenant: they are few, and then any order and filter is easy.
func (s *Server) getLists(c *call) (answer, error) {
	all, err := s.lists(c)
	if err != nil {
		return answer{}, err
	}
	times, err := listTimes(c.query.Filter)
	if err != nil {
		return answer{}, err
	}
	all = slices.DeleteFunc(all, func(l *list) bool {
		return !c.query.Filter.Match(func(leaf *jsonapi.Filter) bool { return l.match(leaf, times) })
	})
	slices.SortFunc(all, func(a, b *list) int { return strings.Compare(a.position(c.query.Sort), b.position(c.query.Sort)) })
	if c.query.Descending {
		slices.Reverse(all)
	}
	if after := c.query.Cursor; after != "" {
		all = slices.DeleteFunc(all, func(l *list) bool {
			n := strings.Compare(l.position(c.query.Sort), after)
			return n == 0 || c.query.Descending == (n > 0)
		})
	}
	next := ""
	if len(all) > c.query.Size {
		all = all[:c.query.Size]
		next = all[len(all)-1].position(c.query.Sort)
	}
	out := many{Data: make([]resource, len(all)), Links: c.pages(next)}
	for i, l := range all {
		out.Data[i] = c.listResource(l)
	}
	return answer{status: http.StatusOK, body: out}, nil
}

func (s *Server) lists(c *call) ([]*list, error) {
	var out []*list
	cursor := ""
	for len(out) < maxLists {
		page, err := s.deps.Profiles.Objects(c.tenant, kindList, cursor, 1000)
		if err != nil {
			return nil, err
		}
		for _, o := range page.Objects {
			l, err := readList(o.ID, o.Data)
			if err != nil {
				return nil, err
			}
			out = append(out, l)
		}
		if cursor = page.Cursor; cursor == "" {
			break
		}
	}
	return out, nil
}

// position is the place of a list in an order, as text.
func (l *list) position(sort string) string {
	const width = "2006-01-02T15:04:05.000"
	key := ""
	switch sort {
	case "name":
		key = l.Name
	case "created":
		key = l.Created.UTC().Format(width)
	case "updated":
		key = l.Updated.UTC().Format(width)
	}
	return key + "\x00" + l.id
}

func listTimes(f *jsonapi.Filter) (map[*jsonapi.Filter]customer.Range, error) {
	out := map[*jsonapi.Filter]customer.Range{}
	for leaf := range f.Leaves {
		if leaf.Field != "created" && leaf.Field != "updated" {
			continue
		}
		r, err := timeRange(leaf)
		if err != nil {
			return nil, err
		}
		out[leaf] = r
	}
	return out, nil
}

func (l *list) match(leaf *jsonapi.Filter, times map[*jsonapi.Filter]customer.Range) bool {
	var is string
	switch leaf.Field {
	case "created":
		return within(times[leaf], l.Created)
	case "updated":
		return within(times[leaf], l.Updated)
	case "name":
		is = l.Name
	default:
		is = l.id
	}
	return slices.ContainsFunc(leaf.Values, func(v jsonapi.Value) bool { return v.Text == is })
}

// joiner adds profiles to a list or takes them from it.
func (s *Server) joiner(join bool) func(*call) (answer, error) {
	return func(c *call) (answer, error) {
		l, err := s.list(c, c.r.PathValue("id"))
		if err != nil {
			return answer{}, err
		}
		in, err := decode(s.decoders.refs, c.body)
		if err != nil {
			return answer{}, err
		}
		records, err := s.joins(c, in.Data, l.id, join)
		if err != nil {
			return answer{}, err
		}
		at, err := s.deps.Door.Put(c.ctx, records)
		if err != nil {
			return answer{}, err
		}
		s.visible(c, at)
		return answer{status: http.StatusNoContent}, nil
	}
}

func (s *Server) joins(c *call, refs []jsonapi.Ref, list string, join bool) ([]*fact.Intake, error) {
	if len(refs) == 0 || len(refs) > 1000 {
		return nil, jsonapi.Invalid("/data", "must name 1 to 1000 profiles")
	}
	var errs jsonapi.Errors
	records := make([]*fact.Intake, len(refs))
	for i, ref := range refs {
		at := fmt.Sprintf("/data/%d", i)
		if ref.Type != "profile" {
			errs = append(errs, jsonapi.Invalid(at+"/type", "must be %q", "profile"))
			continue
		}
		id, err := s.known(c, ref.ID, at+"/id")
		if one := jsonapi.Of(err); one != nil {
			errs = append(errs, one...)
			continue
		}
		if err != nil {
			return nil, err
		}
		records[i] = &fact.Intake{Kind: fact.KindChange, Tenant: c.tenant, At: c.at, Who: []fact.Identifier{{Kind: fact.ByProfile, Value: id.String()}},
			Change: &fact.Change{Lists: []fact.Membership{{List: list, Join: join}}}}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return records, nil
}

// members reads a page of a list's members that the query asks for.
func (s *Server) members(c *call) ([]customer.Member, string, error) {
	l, err := s.list(c, c.r.PathValue("id"))
	if err != nil {
		return nil, "", err
	}
	sel, err := s.selection(c, c.query.Filter)
	if err != nil {
		return nil, "", err
	}
	if ids, ok := sel.candidates(c.query.Filter); ok {
		out, err := s.namedMembers(c, sel, ids, l.id)
		return out, "", err
	}
	q := customer.MemberQuery{List: l.id, Joined: sel.bounds["joined_group_at"], Descending: c.query.Descending, Cursor: c.query.Cursor}
	var out []customer.Member
	for range rounds {
		q.Size = c.query.Size - len(out)
		page, err := s.deps.Profiles.Members(c.tenant, q)
		if err != nil {
			return nil, "", err
		}
		for _, m := range page.Members {
			if sel.match(m.Profile, map[string]time.Time{"joined_group_at": m.Joined}) {
				out = append(out, m)
			}
		}
		if q.Cursor = page.Cursor; q.Cursor == "" || len(out) >= c.query.Size {
			break
		}
	}
	return out, q.Cursor, nil
}

// namedMembers are those of some profiles that are in a list and match; all of them are on one page.
func (s *Server) namedMembers(c *call, sel *selection, ids []fact.ProfileID, list string) ([]customer.Member, error) {
	var out []customer.Member
	for _, id := range ids {
		p, err := s.deps.Profiles.Profile(c.tenant, id)
		if errors.Is(err, customer.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(p.Lists, func(m customer.Membership) bool { return m.List == list })
		if i < 0 || !sel.match(id, map[string]time.Time{"joined_group_at": p.Lists[i].Joined}) {
			continue
		}
		if m := (customer.Member{Profile: p.ID, Joined: p.Lists[i].Joined}); !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b customer.Member) int {
		return cmp.Or(a.Joined.Compare(b.Joined), strings.Compare(a.Profile.String(), b.Profile.String()))
	})
	if c.query.Descending {
		slices.Reverse(out)
	}
	return out, nil
}

func (s *Server) getMemberRefs(c *call) (answer, error) {
	all, next, err := s.members(c)
	if err != nil {
		return answer{}, err
	}
	out := refs{Data: make([]jsonapi.Ref, len(all)), Links: c.pages(next)}
	for i, m := range all {
		out.Data[i] = jsonapi.Ref{Type: "profile", ID: m.Profile.String()}
	}
	return answer{status: http.StatusOK, body: out}, nil
}

func (s *Server) getMembers(c *call) (answer, error) {
	all, next, err := s.members(c)
	if err != nil {
		return answer{}, err
	}
	out := many{Data: []resource{}, Links: c.pages(next)}
	for _, m := range all {
		p, err := s.deps.Profiles.Profile(c.tenant, m.Profile)
		if errors.Is(err, customer.ErrNotFound) { // it was deleted since
			continue
		}
		if err != nil {
			return answer{}, err
		}
		joined := m.Joined
		out.Data = append(out.Data, c.profileResource(p, &joined))
	}
	return answer{status: http.StatusOK, body: out}, nil
}

// listsOf are the lists that a profile is in, without those that were deleted.
func (s *Server) listsOf(c *call, p *customer.Profile) ([]resource, error) {
	out := []resource{}
	in := slices.Clone(p.Lists)
	slices.SortFunc(in, func(a, b customer.Membership) int {
		return cmp.Or(a.Joined.Compare(b.Joined), strings.Compare(a.List, b.List))
	})
	for _, m := range in {
		l, err := s.list(c, m.List)
		if jsonapi.Of(err) != nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, c.listResource(l))
	}
	return out, nil
}

func (s *Server) getListsOfProfile(c *call) (answer, error) {
	p, err := s.addressed(c)
	if err != nil {
		return answer{}, err
	}
	all, err := s.listsOf(c, p)
	return answer{status: http.StatusOK, body: many{Data: all, Links: c.pages("")}}, err
}

func (s *Server) getListRefsOfProfile(c *call) (answer, error) {
	p, err := s.addressed(c)
	if err != nil {
		return answer{}, err
	}
	all, err := s.listsOf(c, p)
	out := refs{Data: make([]jsonapi.Ref, len(all)), Links: c.pages("")}
	for i, l := range all {
		out.Data[i] = jsonapi.Ref{Type: l.Type, ID: l.ID}
	}
	return answer{status: http.StatusOK, body: out}, err
}
