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

// What people can be said to have done.
const (
	subscribed   = "SUBSCRIBED"
	unsubscribed = "UNSUBSCRIBED"
)

// methodAPI is how consent came that comes here.
const methodAPI = "API"

// subscriber records that people subscribed, or that they unsubscribed. All of them must be good: consent is not taken by halves.
func (s *Server) subscriber(yes bool) func(*call) (answer, error) {
	kind := kindUnsubscribe
	if yes {
		kind = kindSubscribe
	}
	return func(c *call) (answer, error) {
		in, err := decode(s.decoders.subscription, c.body)
		if err != nil {
			return answer{}, err
		}
		people := in.Data.Attributes.Profiles.Data
		switch {
		case in.Data.Type != kind:
			return answer{}, jsonapi.Invalid("/data/type", "must be %q", kind)
		case len(people) == 0 || len(people) > maxPeople:
			return answer{}, jsonapi.Invalid("/data/attributes/profiles/data", "must have 1 to %d profiles", maxPeople)
		}
		said := fact.Consent{Subscribed: yes, Method: methodAPI}
		if said.List, err = s.relatedList(c, in.Data.Relationships); err != nil {
			return answer{}, err
		}
		a := in.Data.Attributes
		if a.CustomSource != nil {
			said.Source = *a.CustomSource
		}
		said.Historical = a.HistoricalImport != nil && *a.HistoricalImport
		records := make([]*fact.Intake, len(people))
		var errs jsonapi.Errors
		for i, p := range people {
			one := subscription{at: fmt.Sprintf("/data/attributes/profiles/data/%d", i), said: said, now: c.at}
			records[i] = one.record(c, p)
			errs = append(errs, one.errs...)
		}
		if len(errs) > 0 {
			return answer{}, errs
		}
		_, err = s.deps.Door.Put(c.ctx, records)
		return answer{status: http.StatusAccepted}, err
	}
}

func (s *Server) relatedList(c *call, r *SubscriptionRelationships) (string, error) {
	if r == nil || r.List.Data == nil {
		return "", nil
	}
	return r.List.Data.ID, s.wantList(c, *r.List.Data, "/data/relationships/list/data")
}

// subscription reads one person of a job.
type subscription struct {
	at   string // pointer
	said fact.Consent
	now  time.Time
	errs jsonapi.Errors
	out  []fact.Consent
}

func (s *subscription) invalid(rel, format string, args ...any) {
	s.errs = append(s.errs, jsonapi.Invalid(s.at+rel, format, args...))
}

func (s *subscription) record(c *call, p SubscriptionProfile) *fact.Intake {
	if p.Type != "profile" {
		s.invalid("/type", "must be %q", "profile")
	}
	a := p.Attributes
	who, errs := identifiers(p.ID, PersonAttributes{a.Email, a.PhoneNumber, a.ExternalID, a.AnonymousID}, s.at)
	s.errs = append(s.errs, errs...)
	if len(who) == 0 && len(errs) == 0 {
		s.invalid("/attributes", needs)
	}
	const rel = "/attributes/subscriptions"
	switch set := a.Subscriptions; {
	case set == nil:
		s.all(who)
	case set.Email == nil && set.SMS == nil:
		s.invalid(rel, "needs one of email and sms")
	default:
		if set.Email != nil {
			s.channel(rel+"/email", set.Email, customer.Email, "")
		}
		if set.SMS != nil {
			s.channel(rel+"/sms", set.SMS, "sms", channelTransactional)
		}
	}
	return &fact.Intake{Kind: fact.KindChange, Tenant: c.tenant, At: c.at, Who: who, Change: &fact.Change{Attributes: attributesOf(who), Consent: s.out}}
}

// all is marketing on each channel that there is an identifier for.
func (s *subscription) all(who []fact.Identifier) {
	for _, id := range who {
		switch id.Kind {
		case fact.ByEmail:
			s.say(customer.Email, time.Time{})
		case fact.ByPhone:
			s.say("sms", time.Time{})
		}
	}
	if len(s.out) == 0 && len(s.errs) == 0 {
		s.invalid("/attributes/subscriptions", "is required where neither email nor phone_number is given")
	}
}

func (s *subscription) say(channel string, at time.Time) {
	said := s.said
	said.Channel, said.At = channel, at
	s.out = append(s.out, said)
}

// channel reads consent by purpose; transactional is the name of that channel, "" if there is none.
func (s *subscription) channel(rel string, set *ChannelSet, marketing, transactional string) {
	if set.Marketing == nil && set.Transactional == nil {
		s.invalid(rel, "needs marketing")
	}
	if set.Marketing != nil {
		s.consent(rel+"/marketing", set.Marketing, marketing)
	}
	switch {
	case set.Transactional == nil:
	case transactional == "":
		s.invalid(rel+"/transactional", "is not a purpose of this channel")
	default:
		s.consent(rel+"/transactional", set.Transactional, transactional)
	}
}

func (s *subscription) consent(rel string, set *ConsentSet, channel string) {
	want := unsubscribed
	if s.said.Subscribed {
		want = subscribed
	}
	if set.Consent != want {
		s.invalid(rel+"/consent", "must be %s", want)
		return
	}
	var at time.Time
	switch {
	case set.ConsentedAt == nil && s.said.Historical:
		s.invalid(rel+"/consented_at", "is required with historical_import")
	case set.ConsentedAt != nil && !s.said.Historical:
		s.invalid(rel+"/consented_at", "needs historical_import")
	case set.ConsentedAt != nil && set.ConsentedAt.After(s.now):
		s.invalid(rel+"/consented_at", "must not be in the future")
	case set.ConsentedAt != nil:
		at = *set.ConsentedAt
	}
	s.say(channel, at)
}

// attributesOf is the JSON object of identifiers that are to be known of a profile.
func attributesOf(who []fact.Identifier) []byte {
	out := map[string]string{}
	for _, id := range who {
		if id.Kind != fact.ByProfile {
			out[id.Kind.String()] = id.Value
		}
	}
	return answer{body: out}.encode()
}

// suppressor sets USER_SUPPRESSED for people or all members of a list, or lifts it.
func (s *Server) suppressor(set bool) func(*call) (answer, error) {
	kind := kindUnsuppress
	if set {
		kind = kindSuppress
	}
	return func(c *call) (answer, error) {
		in, err := decode(s.decoders.suppression, c.body)
		if err != nil {
			return answer{}, err
		}
		if in.Data.Type != kind {
			return answer{}, jsonapi.Invalid("/data/type", "must be %q", kind)
		}
		list, err := s.relatedList(c, in.Data.Relationships)
		if err != nil {
			return answer{}, err
		}
		var who []fact.Identifier
		profiles := in.Data.Attributes.Profiles
		switch {
		case (list == "") == (profiles == nil):
			return answer{}, jsonapi.Invalid("/data", "needs either attributes/profiles or relationships/list")
		case list != "":
			who, err = s.everyone(c, list)
		default:
			who, err = addresses(profiles.Data)
		}
		if err != nil {
			return answer{}, err
		}
		records := make([]*fact.Intake, len(who))
		for i, id := range who {
			change := &fact.Change{Suppressions: []fact.Suppression{{Reason: customer.UserSuppressed, Lift: !set}}}
			change.Attributes = attributesOf(who[i : i+1])
			records[i] = &fact.Intake{Kind: fact.KindChange, Tenant: c.tenant, At: c.at, Who: []fact.Identifier{id}, Change: change}
		}
		job := c.newJob(len(who), len(who), 0)
		job.SkippedCount, job.FailedCount = new(int), nil
		return s.putJob(c, kind, c.newID(kind), job, records)
	}
}

func addresses(people []SuppressionProfile) ([]fact.Identifier, error) {
	const at = "/data/attributes/profiles/data"
	if len(people) == 0 || len(people) > maxPeople {
		return nil, jsonapi.Invalid(at, "must have 1 to %d profiles", maxPeople)
	}
	var errs jsonapi.Errors
	var out []fact.Identifier
	for i, p := range people {
		if p.Type != "profile" {
			errs = append(errs, jsonapi.Invalid(fmt.Sprintf("%s/%d/type", at, i), "must be %q", "profile"))
		}
		email, err := identity.Email(p.Attributes.Email)
		if err != nil {
			errs = append(errs, jsonapi.Invalid(fmt.Sprintf("%s/%d/attributes/email", at, i), "%v", err))
		}
		if id := (fact.Identifier{Kind: fact.ByEmail, Value: email}); !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return out, nil
}

// maxSuppressed is how many members of a list one job takes: all of them are one append.
const maxSuppressed = 200_000

// everyone are the members of a list.
func (s *Server) everyone(c *call, list string) ([]fact.Identifier, error) {
	var out []fact.Identifier
	q := customer.MemberQuery{List: list, Size: 1000}
	for {
		page, err := s.deps.Profiles.Members(c.tenant, q)
		if err != nil {
			return nil, err
		}
		for _, m := range page.Members {
			out = append(out, fact.Identifier{Kind: fact.ByProfile, Value: m.Profile.String()})
		}
		if len(out) > maxSuppressed {
			return nil, jsonapi.Invalid("/data/relationships/list/data/id", "has more than %d members", maxSuppressed)
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return out, nil
		}
		if err := c.ctx.Err(); err != nil {
			return nil, err
		}
	}
}
