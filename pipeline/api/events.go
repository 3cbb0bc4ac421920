package api

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/godwit-mta/godwit/internal/openapi"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/ingest"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

func eventFields() []string {
	return []string{"datetime", "event_properties", "id", "timestamp", "uuid"}
}

func (s *Server) eventEndpoints() []endpoint {
	single := jsonapi.Spec{Include: []string{"metric", "profile"}, Fields: map[string][]string{
		"event": eventFields(), "metric": metricFields(), "profile": profileFields()}}
	page := single
	same := []jsonapi.Op{jsonapi.Equals}
	span := []jsonapi.Op{jsonapi.GreaterThan, jsonapi.LessThan, jsonapi.GreaterOrEqual, jsonapi.LessOrEqual}
	page.Filters = jsonapi.Allow{"metric_id": {jsonapi.Equals, jsonapi.Any}, "profile_id": same, "profile": {jsonapi.Has}, "metric": {jsonapi.Has}, "datetime": span, "timestamp": span}
	page.Sorts, page.Size, page.MaxSize = []string{"datetime", "timestamp"}, 200, 1000
	list := look("/api/events", "getEvents", "List events, the latest first. Without a profile_id that all have in common, the warehouse answers.",
		page, EventsResponse{}, s.getEvents)
	list.Responses = append(list.Responses, failures(http.StatusNotImplemented)...)
	return []endpoint{
		act(http.MethodPost, "/api/events", "createEvent", "Record an event.", jsonapi.Spec{}, EventRequest{},
			openapi.Response{Status: http.StatusAccepted, Doc: "Accepted, durably."}, s.postEvent),
		act(http.MethodPost, "/api/event-bulk-create-jobs", "bulkCreateEvents", "Record many events. The good ones are taken, the answer has errors of the others.",
			jsonapi.Spec{}, EventJobRequest{}, success(http.StatusAccepted, "Accepted, durably.", EventJobResponse{}), s.postEvents),
		list,
		look("/api/events/{id}", "getEvent", "Get an event.", single, EventResponse{}, s.getEvent),
	}
}

// postEvent leaves all of the document to the Door, which reads it once.
func (s *Server) postEvent(c *call) (answer, error) {
	_, err := s.deps.Door.Event(c.ctx, c.tenant, c.body, c.seed)
	return answer{status: http.StatusAccepted}, err
}

// maxReported is how many errors of a bulk job are sent.
const maxReported = 1000

func (s *Server) postEvents(c *call) (answer, error) {
	_, report, err := s.deps.Door.Bulk(c.ctx, c.tenant, c.body, c.seed)
	if err != nil {
		return answer{}, err
	}
	job := EventJobResource{Type: "event-bulk-create-job", ID: c.newID("event-bulk-create-job"), Attributes: EventJobView{
		Status: "complete", TotalCount: report.Events, CompletedCount: report.Accepted, FailedCount: report.Events - report.Accepted, Errors: reported(report)}}
	return answer{status: http.StatusAccepted, body: EventJobResponse{Data: job}}, nil
}

func reported(report *ingest.Report) []jsonapi.ErrorObject {
	var out []jsonapi.ErrorObject
	for _, refused := range report.Refused {
		for i, e := range refused.Errors {
			if len(out) == maxReported {
				return out
			}
			out = append(out, e.Object(fmt.Sprintf("%d-%d-%d", refused.Item, max(refused.Event, 0), i)))
		}
	}
	return out
}

func (s *Server) getEvent(c *call) (answer, error) {
	missing := jsonapi.NotFound("there is no event with the id %q", c.r.PathValue("id"))
	id, err := customer.ParseEventID(c.r.PathValue("id"))
	if err != nil {
		return answer{}, missing
	}
	e, err := s.deps.Profiles.Event(c.tenant, id)
	if errors.Is(err, customer.ErrNotFound) {
		return answer{}, missing
	}
	if err != nil {
		return answer{}, err
	}
	included, err := s.with(c, []customer.Event{*e})
	return answer{status: http.StatusOK, body: one{Data: c.eventResource(e), Included: included}}, err
}

func (c *call) eventResource(e *customer.Event) resource {
	id := e.ID.String()
	view := EventView{Timestamp: e.Time.Unix(), Datetime: e.Time, UUID: uuidOf(id)}
	if len(e.Properties) > 0 {
		view.Properties = e.Properties
	}
	return resource{Type: "event", ID: id, Attributes: c.sparse("event", view), Links: c.self("events", id), Relationships: EventRelationships{
		Profile: OneRef{&jsonapi.Ref{Type: "profile", ID: e.Profile.String()}}, Metric: OneRef{&jsonapi.Ref{Type: "metric", ID: e.Metric.String()}}}}
}

// uuidOf derives a UUID (RFC 9562, version 8) from an id.
func uuidOf(id string) string {
	h := sha256.Sum256([]byte(id))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// with reads the profiles and metrics of events that the query wants included.
func (s *Server) with(c *call, events []customer.Event) ([]resource, error) {
	var out []resource
	if slices.Contains(c.query.Include, "profile") {
		seen := map[fact.ProfileID]bool{}
		for _, e := range events {
			if seen[e.Profile] {
				continue
			}
			seen[e.Profile] = true
			p, err := s.deps.Profiles.Profile(c.tenant, e.Profile)
			if errors.Is(err, customer.ErrNotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			out = append(out, c.profileResource(p, nil))
		}
	}
	if !slices.Contains(c.query.Include, "metric") {
		return out, nil
	}
	metrics, err := s.metricsByID(c)
	if err != nil {
		return nil, err
	}
	seen := map[fact.MetricID]bool{}
	for _, e := range events {
		if m, ok := metrics[e.Metric]; ok && !seen[e.Metric] {
			out = append(out, c.metricResource(m))
		}
		seen[e.Metric] = true
	}
	return out, nil
}

// eventFilter is a filter over events made ready.
type eventFilter struct {
	filter  *jsonapi.Filter
	times   map[*jsonapi.Filter]customer.Range
	metrics map[*jsonapi.Filter][]fact.MetricID
	profile map[*jsonapi.Filter]fact.ProfileID
	// What all matches have: zero values do not restrict.
	common customer.EventQuery
}

func (s *Server) eventFilter(c *call, f *jsonapi.Filter) (*eventFilter, error) {
	out := &eventFilter{filter: f, times: map[*jsonapi.Filter]customer.Range{}, metrics: map[*jsonapi.Filter][]fact.MetricID{}, profile: map[*jsonapi.Filter]fact.ProfileID{}}
	for leaf := range f.Leaves {
		if err := out.read(leaf); err != nil {
			return nil, err
		}
		if id, named := out.profile[leaf]; named { // events follow merges
			var err error
			if out.profile[leaf], _, err = s.deps.Identities.Resolve(c.tenant, id); err != nil {
				return nil, err
			}
		}
	}
	for _, leaf := range conjuncts(f) {
		if r, ok := out.times[leaf]; ok {
			out.common.Time = narrow(out.common.Time, r)
		}
		if ids := out.metrics[leaf]; len(ids) == 1 {
			out.common.Metric = ids[0]
		}
		if id, ok := out.profile[leaf]; ok {
			out.common.Profile = id
		}
	}
	return out, nil
}

func (f *eventFilter) read(leaf *jsonapi.Filter) (err error) {
	switch leaf.Field {
	case "metric_id":
		for _, v := range leaf.Values {
			id, err := fact.ParseMetricID(v.Text)
			if err != nil {
				return jsonapi.BadParameter("filter", "metric_id: %q is not the id of a metric", v.Text)
			}
			f.metrics[leaf] = append(f.metrics[leaf], id)
		}
	case "profile_id":
		if f.profile[leaf], err = fact.ParseProfileID(leaf.Values[0].Text); err != nil {
			return jsonapi.BadParameter("filter", "profile_id: %q is not the id of a profile", leaf.Values[0].Text)
		}
	case "timestamp":
		n, err := leaf.Values[0].Int()
		if err != nil {
			return jsonapi.BadParameter("filter", "timestamp: %q is not a number of Unix seconds", leaf.Values[0].Text)
		}
		f.times[leaf] = unixRange(leaf.Op, n)
	case "datetime":
		f.times[leaf], err = timeRange(leaf)
	}
	return err
}

func (f *eventFilter) match(e *customer.Event) bool {
	return f.filter.Match(func(leaf *jsonapi.Filter) bool {
		switch leaf.Field {
		case "metric_id":
			return slices.Contains(f.metrics[leaf], e.Metric)
		case "profile_id":
			return f.profile[leaf] == e.Profile
		case "datetime", "timestamp":
			return within(f.times[leaf], e.Time)
		}
		return true // each event has a profile and a metric
	})
}

// getEvents answers from the profile's state if all events are of one, else from the warehouse.
func (s *Server) getEvents(c *call) (answer, error) {
	f, err := s.eventFilter(c, c.query.Filter)
	if err != nil {
		return answer{}, err
	}
	read := func(q customer.EventQuery) (*customer.EventPage, error) { return s.deps.Profiles.Events(c.tenant, q) }
	if f.common.Profile.IsZero() {
		if s.deps.Warehouse == nil {
			return answer{}, noWarehouse("filter", "", "there is no warehouse here to list events of all profiles: add equals(profile_id,…)")
		}
		read = func(q customer.EventQuery) (*customer.EventPage, error) {
			return s.deps.Warehouse.Events(c.ctx, c.tenant, q)
		}
	}
	events, next, err := c.events(f, read)
	if err != nil {
		return answer{}, err
	}
	out := many{Data: make([]resource, len(events)), Links: c.pages(next)}
	for i := range events {
		out.Data[i] = c.eventResource(&events[i])
	}
	out.Included, err = s.with(c, events)
	return answer{status: http.StatusOK, body: out}, err
}

func noWarehouse(parameter, pointer, detail string) error {
	return &jsonapi.Error{Status: http.StatusNotImplemented, Code: "not_configured", Title: "Not configured.", Parameter: parameter, Pointer: pointer, Detail: detail}
}

// events reads a page of those that match.
func (c *call) events(f *eventFilter, read func(customer.EventQuery) (*customer.EventPage, error)) (out []customer.Event, next string, err error) {
	q := f.common
	q.Descending, q.Cursor = c.query.Sort == "" || c.query.Descending, c.query.Cursor
	for range rounds {
		q.Size = c.query.Size - len(out)
		page, err := read(q)
		if errors.Is(err, customer.ErrNotFound) { // nobody has done nothing
			return out, "", nil
		}
		if err != nil {
			return nil, "", err
		}
		for _, e := range page.Events {
			if f.match(&e) {
				out = append(out, e)
			}
		}
		if q.Cursor = page.Cursor; q.Cursor == "" || len(out) >= c.query.Size {
			break
		}
	}
	return out, q.Cursor, nil
}
