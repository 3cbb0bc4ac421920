package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/identity"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// profileFields are the sparse fields of profiles, profileMore those that are there only when asked for.
func profileFields() []string {
	out := []string{"created", "email", "external_id", "first_name", "id", "image", "joined_group_at", "last_event_date", "last_name", "locale", "location",
		"organization", "phone_number", "properties", "title", "updated"}
	for _, part := range []string{"address1", "address2", "city", "country", "ip", "latitude", "longitude", "region", "timezone", "zip"} {
		out = append(out, "location."+part)
	}
	return out
}

func profileMore() []string {
	return []string{"subscriptions", "subscriptions.email", "subscriptions.email.marketing", "subscriptions.sms", "subscriptions.sms.marketing",
		"subscriptions.sms.transactional", "predictive_analytics"}
}

func listFields() []string { return []string{"created", "id", "name", "opt_in_process", "updated"} }

func profileSpec() jsonapi.Spec {
	return jsonapi.Spec{Fields: map[string][]string{"profile": profileFields()}, Additional: map[string][]string{"profile": profileMore()}}
}

func (s *Server) profileEndpoints() []endpoint {
	page := profileSpec()
	page.Size, page.MaxSize, page.Sorts = 20, 1000, []string{"created", "email", "id", "updated"}
	either := []jsonapi.Op{jsonapi.Equals, jsonapi.Any}
	span := []jsonapi.Op{jsonapi.GreaterThan, jsonapi.LessThan, jsonapi.GreaterOrEqual, jsonapi.LessOrEqual}
	page.Filters = jsonapi.Allow{"id": either, "email": either, "phone_number": either, "external_id": either, "created": span, "updated": span}
	single := profileSpec()
	single.Include, single.Fields["list"] = []string{"lists"}, listFields()
	refs := jsonapi.Spec{Fields: map[string][]string{"profile": {"id"}}}
	return []endpoint{
		look("/api/profiles", "getProfiles", "List profiles.", page, ProfilesResponse{}, s.getProfiles),
		look("/api/profiles/{id}", "getProfile", "Get a profile. One that was merged is answered by what it is part of.", single, ProfileResponse{}, s.getProfile),
		act(http.MethodPost, "/api/profiles", "createProfile", "Make a profile.", profileSpec(), ProfileRequest{},
			success(201, "The profile.", ProfileResponse{}), s.postProfile, 409),
		act(http.MethodPatch, "/api/profiles/{id}", "updateProfile", "Change a profile.", profileSpec(), ProfileRequest{},
			success(200, "The profile.", ProfileResponse{}), s.patchProfile, 404, 409),
		act(http.MethodPost, "/api/profile-import", "createOrUpdateProfile", "Make a profile or change it.", profileSpec(), ProfileRequest{},
			success(201, "It is new.", ProfileResponse{}), s.importProfile, 404).also(success(200, "It was there.", ProfileResponse{})),
		act(http.MethodPost, "/api/profile-merge", "mergeProfiles", "Make one profile part of another.", refs, MergeRequest{},
			success(202, "It will be done.", ProfileRefResponse{}), s.mergeProfiles, 404),
		act(http.MethodPost, "/api/data-privacy-deletion-jobs", "requestProfileDeletion", "Forget a person.", jsonapi.Spec{}, DeletionRequest{},
			success(202, "It will be done. What was accepted just before and is not yet applied may make a new profile.", nil), s.deleteProfile),
		look("/api/profiles/{id}/metric-summary", "getMetricSummary", "Tell what a metric's events of a profile came to in windows before now.",
			jsonapi.Spec{Extra: []string{"metric_id", "windows"}}, SummaryResponse{}, s.getSummary),
	}
}

// input is a profile as a request has it.
type input struct {
	id     string // "" if it was not given
	who    []fact.Identifier
	change *fact.Change
}

// profileInput reads the document of one profile.
func (s *Server) profileInput(c *call) (input, error) {
	doc, err := decode(s.decoders.resource, c.body)
	if err != nil {
		return input{}, err
	}
	if doc.Data == nil {
		return input{}, jsonapi.Invalid("/data", "is required")
	}
	return s.readProfile(c, doc.Data, "/data")
}

// readProfile reads a profile resource at pointer.
func (s *Server) readProfile(c *call, resource wire.Object, pointer string) (in input, err error) {
	var attributes, meta []byte
	var errs jsonapi.Errors
	kind := ""
	for key, value := range resource.Members() {
		switch name := wire.KeyName(key); name {
		case "type":
			kind = text(value)
		case "id":
			if string(value) != "null" {
				if in.id = text(value); in.id == "" {
					errs = append(errs, jsonapi.Invalid(pointer+"/id", "must be the id of a profile"))
				}
			}
		case "attributes":
			attributes = value
		case "meta":
			meta = value
		case "relationships", "links":
		default:
			errs = append(errs, jsonapi.Invalid(pointer+"/"+jsonapi.Escape(name), "is not a member of a profile"))
		}
	}
	if kind != "profile" {
		errs = append(errs, jsonapi.Invalid(pointer+"/type", "must be %q", "profile"))
	}
	var bad jsonapi.Errors
	if in.who, in.change, bad = s.deps.Door.ProfileChange(c.tenant, attributes, meta, pointer); len(bad)+len(errs) > 0 {
		return in, append(errs, bad...)
	}
	return in, nil
}

// text is the value of a JSON string, "" for another value.
func text(value []byte) string {
	var s string
	if json.Unmarshal(value, &s) != nil {
		return ""
	}
	return s
}

const needs = "needs one of id, email, phone_number, external_id and anonymous_id"

func (s *Server) postProfile(c *call) (answer, error) {
	in, err := s.profileInput(c)
	switch {
	case err != nil:
		return answer{}, err
	case in.id != "":
		return answer{}, jsonapi.Invalid("/data/id", "must not be given: a new profile gets its id here")
	case len(in.who) == 0:
		return answer{}, jsonapi.Invalid("/data/attributes", "needs one of email, phone_number, external_id and anonymous_id")
	}
	// Who asks for the same at the same time waits, and then finds the profile.
	keys := make([]string, len(in.who))
	for i, id := range in.who {
		keys[i] = c.tenant + "\x00" + id.Kind.String() + "\x00" + id.Value
	}
	slices.Sort(keys)
	for _, key := range keys {
		leave, err := s.creating.Enter(c.ctx, key)
		if err != nil {
			return answer{}, err
		}
		defer leave()
	}
	if err := s.nobodyHas(c, in.who, fact.ProfileID{}); err != nil {
		return answer{}, err
	}
	p, err := s.write(c, in, true)
	if err != nil {
		return answer{}, err
	}
	if !p.Created.Equal(c.at) { // another node was faster
		return answer{}, duplicate(p.ID)
	}
	return c.profile(http.StatusCreated, p, nil), nil
}

// nobodyHas checks that no identifier belongs to another profile than but. The work of an earlier request with the same
// idempotency key is its own.
func (s *Server) nobodyHas(c *call, who []fact.Identifier, but fact.ProfileID) error {
	for _, id := range who {
		other, found, err := s.deps.Identities.Lookup(c.tenant, id)
		if err != nil {
			return err
		}
		if !found || other == but {
			continue
		}
		if c.again && but.IsZero() {
			p, err := s.deps.Profiles.Profile(c.tenant, other)
			if err == nil && p.Created.Equal(c.at) {
				continue
			}
		}
		return duplicate(other)
	}
	return nil
}

func duplicate(id fact.ProfileID) error {
	return &jsonapi.Error{Status: http.StatusConflict, Code: "duplicate_profile", Title: "Conflict.", Pointer: "/data/attributes",
		Detail: "a profile already exists with one of these identifiers", Meta: map[string]string{"duplicate_profile_id": id.String()}}
}

// write puts a change of a profile, waits until it can be read and reads the profile. If that takes too long the profile
// has what is known from the request; if not even whose it is is known by then, the client has to come again.
func (s *Server) write(c *call, in input, fresh bool) (*customer.Profile, error) {
	at, err := s.deps.Door.Put(c.ctx, []*fact.Intake{{Kind: fact.KindChange, Tenant: c.tenant, At: c.at, Who: in.who, Fresh: fresh, Change: in.change}})
	if err != nil {
		return nil, err
	}
	seen := s.visible(c, at)
	id, found, err := s.deps.Identities.Lookup(c.tenant, in.who[0])
	if err != nil {
		return nil, err
	}
	if found && seen {
		p, err := s.deps.Profiles.Profile(c.tenant, id)
		if err == nil || !errors.Is(err, customer.ErrNotFound) {
			return p, err
		}
	}
	if !found {
		return nil, fmt.Errorf("%w: the change of a profile is durable, but not applied yet", ErrBusy)
	}
	return guess(id, in, c.at), nil
}

// guess is what is known of a profile from the request that changes it.
func guess(id fact.ProfileID, in input, at time.Time) *customer.Profile {
	p := &customer.Profile{ID: id, Created: at, Updated: at, Attributes: in.change.Attributes, Properties: in.change.Properties}
	for _, w := range in.who {
		switch w.Kind {
		case fact.ByExternal:
			p.External = w.Value
		case fact.ByEmail:
			p.Email = w.Value
		case fact.ByPhone:
			p.Phone = w.Value
		}
	}
	return p
}

func (s *Server) importProfile(c *call) (answer, error) {
	in, err := s.profileInput(c)
	if err != nil {
		return answer{}, err
	}
	if in.id != "" {
		id, err := s.known(c, in.id, "/data/id")
		if err != nil {
			return answer{}, err
		}
		in.who = append([]fact.Identifier{{Kind: fact.ByProfile, Value: id.String()}}, in.who...)
	}
	if len(in.who) == 0 {
		return answer{}, jsonapi.Invalid("/data/attributes", needs)
	}
	status := http.StatusCreated
	for _, id := range in.who {
		_, found, err := s.deps.Identities.Lookup(c.tenant, id)
		if err != nil {
			return answer{}, err
		}
		if found {
			status = http.StatusOK
		}
	}
	p, err := s.write(c, in, false)
	if err != nil {
		return answer{}, err
	}
	if c.again && p.Created.Equal(c.at) {
		status = http.StatusCreated
	}
	return c.profile(status, p, nil), nil
}

// known is the living profile that an id in the body at pointer names by now.
func (s *Server) known(c *call, text, pointer string) (fact.ProfileID, error) {
	id, err := fact.ParseProfileID(text)
	if err == nil {
		var p *customer.Profile
		if p, err = s.deps.Profiles.Profile(c.tenant, id); err == nil {
			return p.ID, nil
		}
		if !errors.Is(err, customer.ErrNotFound) {
			return id, err
		}
	}
	return id, jsonapi.NotFound("there is no profile with the id %q", text).At(pointer)
}

// addressed is the profile that the path names.
func (s *Server) addressed(c *call) (*customer.Profile, error) {
	text := c.r.PathValue("id")
	missing := jsonapi.NotFound("there is no profile with the id %q", text)
	id, err := fact.ParseProfileID(text)
	if err != nil {
		return nil, missing
	}
	p, err := s.deps.Profiles.Profile(c.tenant, id)
	if errors.Is(err, customer.ErrNotFound) {
		return nil, missing
	}
	return p, err
}

func (s *Server) patchProfile(c *call) (answer, error) {
	p, err := s.addressed(c)
	if err != nil {
		return answer{}, err
	}
	in, err := s.profileInput(c)
	if err != nil {
		return answer{}, err
	}
	if in.id != c.r.PathValue("id") {
		return answer{}, jsonapi.Invalid("/data/id", "must be the id in the path")
	}
	if err := s.nobodyHas(c, in.who, p.ID); err != nil {
		return answer{}, err
	}
	in.who = append([]fact.Identifier{{Kind: fact.ByProfile, Value: p.ID.String()}}, in.who...)
	after, err := s.write(c, in, false)
	if err != nil {
		return answer{}, err
	}
	return c.profile(http.StatusOK, after, nil), nil
}

func (s *Server) getProfile(c *call) (answer, error) {
	p, err := s.addressed(c)
	if err != nil {
		return answer{}, err
	}
	if !slices.Contains(c.query.Include, "lists") {
		return c.profile(http.StatusOK, p, nil), nil
	}
	lists, err := s.listsOf(c, p)
	if err != nil {
		return answer{}, err
	}
	return c.profile(http.StatusOK, p, lists), nil
}

// mergeProfiles: the profile that goes must be one, so that what is left is clear.
func (s *Server) mergeProfiles(c *call) (answer, error) {
	in, err := decode(s.decoders.merge, c.body)
	if err != nil {
		return answer{}, err
	}
	const at = "/data/relationships/profiles/data"
	sources := in.Data.Relationships.Profiles.Data
	switch {
	case in.Data.Type != "profile-merge":
		return answer{}, jsonapi.Invalid("/data/type", "must be %q", "profile-merge")
	case len(sources) != 1:
		return answer{}, jsonapi.Invalid(at, "must name one profile")
	case sources[0].Type != "profile":
		return answer{}, jsonapi.Invalid(at+"/0/type", "must be %q", "profile")
	}
	destination, err := s.known(c, in.Data.ID, "/data/id")
	if err != nil {
		return answer{}, err
	}
	source, err := s.known(c, sources[0].ID, at+"/0/id")
	if err != nil {
		return answer{}, err
	}
	if source == destination && !c.again {
		return answer{}, jsonapi.Invalid(at+"/0/id", "is the profile that stays, or part of it already")
	}
	if source != destination {
		merge := &fact.Intake{Kind: fact.KindMerge, Tenant: c.tenant, At: c.at, Merge: &fact.Merge{Source: source, Destination: destination}}
		if _, err := s.deps.Door.Put(c.ctx, []*fact.Intake{merge}); err != nil {
			return answer{}, err
		}
	}
	id := destination.String()
	return answer{status: http.StatusAccepted, body: one{Data: resource{Type: "profile", ID: id, Links: c.self("profiles", id)}}}, nil
}

// deleteProfile accepts what names nobody: whoever is to be forgotten is unknown then.
func (s *Server) deleteProfile(c *call) (answer, error) {
	in, err := decode(s.decoders.deletion, c.body)
	if err != nil {
		return answer{}, err
	}
	const at = "/data/attributes/profile/data"
	person := in.Data.Attributes.Profile.Data
	switch {
	case in.Data.Type != "data-privacy-deletion-job":
		return answer{}, jsonapi.Invalid("/data/type", "must be %q", "data-privacy-deletion-job")
	case person.Type != "profile":
		return answer{}, jsonapi.Invalid(at+"/type", "must be %q", "profile")
	}
	who, errs := identifiers(person.ID, person.Attributes, at)
	switch {
	case len(errs) > 0:
		return answer{}, errs
	case len(who) != 1:
		return answer{}, jsonapi.Invalid(at, "must have exactly one of id, email, phone_number, external_id and anonymous_id")
	}
	id, found, err := s.deps.Identities.Lookup(c.tenant, who[0])
	if err == nil && found {
		_, err = s.deps.Door.Put(c.ctx, []*fact.Intake{{Kind: fact.KindMerge, Tenant: c.tenant, At: c.at, Merge: &fact.Merge{Source: id}}})
	}
	return answer{status: http.StatusAccepted}, err
}

// identifiers reads id and identifiers of a person at pointer, in their normal form and strongest first.
func identifiers(id *string, a PersonAttributes, pointer string) (who []fact.Identifier, errs jsonapi.Errors) {
	for _, part := range []struct {
		value *string
		kind  fact.IdentifierKind
		at    string
		read  func(string) (string, error)
	}{
		{id, fact.ByProfile, "/id", profileID}, {a.ExternalID, fact.ByExternal, "/attributes/external_id", identity.External},
		{a.Email, fact.ByEmail, "/attributes/email", identity.Email}, {a.PhoneNumber, fact.ByPhone, "/attributes/phone_number", identity.Phone},
		{a.AnonymousID, fact.ByAnonymous, "/attributes/anonymous_id", identity.Anonymous},
	} {
		if part.value == nil {
			continue
		}
		value, err := part.read(*part.value)
		if err != nil {
			errs = append(errs, jsonapi.Invalid(pointer+part.at, "%v", err))
			continue
		}
		who = append(who, fact.Identifier{Kind: part.kind, Value: value})
	}
	return who, errs
}

// profileID is the usual form of a profile's id.
func profileID(text string) (string, error) {
	id, err := fact.ParseProfileID(text)
	if err != nil || id.IsZero() {
		return "", errors.New("not the id of a profile")
	}
	return id.String(), nil
}
