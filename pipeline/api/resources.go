package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/pipeline/ingest"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// This file has what answers consist of, and how they are put together. Sparse fields make attributes differ from
// request to request, so they are encoded as resource; the types below it describe them, and tests hold answers to them.

// resource is how a resource is encoded.
type resource struct {
	Type          string         `json:"type"`
	ID            string         `json:"id"`
	Attributes    any            `json:"attributes,omitempty"`
	Relationships any            `json:"relationships,omitempty"`
	Links         *jsonapi.Links `json:"links,omitempty"`
}

// one and many are documents.
type one struct {
	Data     resource       `json:"data"`
	Included []resource     `json:"included,omitempty"`
	Links    *jsonapi.Links `json:"links,omitempty"`
}

type many struct {
	Data     []resource    `json:"data"`
	Included []resource    `json:"included,omitempty"`
	Links    jsonapi.Links `json:"links"`
}

type refs struct {
	Data  []jsonapi.Ref `json:"data"`
	Links jsonapi.Links `json:"links"`
}

// ProfileResponse has a profile.
type ProfileResponse struct {
	Data     ProfileResource `json:"data"`
	Included []ListResource  `json:"included,omitempty"`
	Links    *jsonapi.Links  `json:"links,omitempty"`
}

// ProfilesResponse has profiles.
type ProfilesResponse struct {
	Data  []ProfileResource `json:"data"`
	Links jsonapi.Links     `json:"links"`
}

// ProfileResource is a profile.
type ProfileResource struct {
	Type          string                `json:"type" enum:"profile"`
	ID            string                `json:"id"`
	Attributes    ProfileView           `json:"attributes,omitzero"`
	Relationships *ProfileRelationships `json:"relationships,omitempty"`
	Links         *jsonapi.Links        `json:"links,omitempty"`
}

// ProfileRelationships are to the lists that the profile is in.
type ProfileRelationships struct {
	Lists ManyRefs `json:"lists"`
}

// ProfileView is what is known of a profile. What is not known is not there.
type ProfileView struct {
	Email         string      `json:"email,omitempty"`
	PhoneNumber   string      `json:"phone_number,omitempty"`
	ExternalID    string      `json:"external_id,omitempty"`
	FirstName     string      `json:"first_name,omitempty"`
	LastName      string      `json:"last_name,omitempty"`
	Organization  string      `json:"organization,omitempty"`
	Locale        string      `json:"locale,omitempty"`
	Title         string      `json:"title,omitempty"`
	Image         string      `json:"image,omitempty"`
	Created       time.Time   `json:"created,omitzero"`
	Updated       time.Time   `json:"updated,omitzero"`
	LastEventDate time.Time   `json:"last_event_date,omitzero"`
	JoinedGroupAt time.Time   `json:"joined_group_at,omitzero" doc:"Among the profiles of a list: when it joined."`
	Location      *Location   `json:"location,omitempty"`
	Properties    wire.Object `json:"properties,omitempty"`
	Subscriptions wire.Object `json:"subscriptions,omitempty" doc:"Consent by channel and purpose."`
}

// ProfileRefResponse names a profile.
type ProfileRefResponse struct {
	Data ProfileRef `json:"data"`
}

// ProfileRef names a profile.
type ProfileRef struct {
	Type  string         `json:"type" enum:"profile"`
	ID    string         `json:"id"`
	Links *jsonapi.Links `json:"links,omitempty"`
}

// RefsResponse names resources.
type RefsResponse struct {
	Data  []jsonapi.Ref `json:"data"`
	Links jsonapi.Links `json:"links"`
}

// EventResponse has an event.
type EventResponse struct {
	Data     EventResource    `json:"data"`
	Included []IncludedWithIt `json:"included,omitempty"`
}

// EventsResponse has events.
type EventsResponse struct {
	Data     []EventResource  `json:"data"`
	Included []IncludedWithIt `json:"included,omitempty"`
	Links    jsonapi.Links    `json:"links"`
}

// IncludedWithIt is the profile or metric of an event.
type IncludedWithIt struct {
	Type       string         `json:"type" enum:"profile,metric"`
	ID         string         `json:"id"`
	Attributes wire.Object    `json:"attributes,omitempty"`
	Links      *jsonapi.Links `json:"links,omitempty"`
}

// EventResource is an event.
type EventResource struct {
	Type          string             `json:"type" enum:"event"`
	ID            string             `json:"id"`
	Attributes    EventView          `json:"attributes,omitzero"`
	Relationships EventRelationships `json:"relationships"`
	Links         *jsonapi.Links     `json:"links,omitempty"`
}

// EventView is an event's attributes.
type EventView struct {
	Timestamp  int64       `json:"timestamp,omitempty" doc:"Unix seconds."`
	Datetime   time.Time   `json:"datetime,omitzero"`
	UUID       string      `json:"uuid,omitempty" format:"uuid" doc:"Derived from the id."`
	Properties wire.Object `json:"event_properties,omitempty"`
}

// EventRelationships are whose it is and what happened.
type EventRelationships struct {
	Profile OneRef `json:"profile"`
	Metric  OneRef `json:"metric"`
}

// EventJobResponse tells what became of a bulk job of events.
type EventJobResponse struct {
	Data EventJobResource `json:"data"`
}

// EventJobResource is the job.
type EventJobResource struct {
	Type       string       `json:"type" enum:"event-bulk-create-job"`
	ID         string       `json:"id"`
	Attributes EventJobView `json:"attributes"`
}

// EventJobView counts events. The good ones are taken, the others have errors here.
type EventJobView struct {
	Status         string                `json:"status" enum:"complete"`
	TotalCount     int                   `json:"total_count"`
	CompletedCount int                   `json:"completed_count"`
	FailedCount    int                   `json:"failed_count"`
	Errors         []jsonapi.ErrorObject `json:"errors,omitempty" doc:"Of the events that were not taken, each with its pointer; 1000 at most."`
}

// MetricResponse has a metric.
type MetricResponse struct {
	Data MetricResource `json:"data"`
}

// MetricsResponse has metrics.
type MetricsResponse struct {
	Data  []MetricResource `json:"data"`
	Links jsonapi.Links    `json:"links"`
}

// MetricResource is a metric.
type MetricResource struct {
	Type       string         `json:"type" enum:"metric"`
	ID         string         `json:"id"`
	Attributes MetricView     `json:"attributes,omitzero"`
	Links      *jsonapi.Links `json:"links,omitempty"`
}

// MetricView is a metric's attributes.
type MetricView struct {
	Name        string           `json:"name,omitempty"`
	Created     time.Time        `json:"created,omitzero"`
	Updated     time.Time        `json:"updated,omitzero"`
	Integration *IntegrationView `json:"integration,omitempty"`
}

// IntegrationView is who reports a metric.
type IntegrationView struct {
	Object   string `json:"object" enum:"integration"`
	ID       string `json:"id"`
	Name     string `json:"name"`
	Category string `json:"category"`
}

// AggregateResponse has counts.
type AggregateResponse struct {
	Data  AggregateResource `json:"data"`
	Links *jsonapi.Links    `json:"links,omitempty"`
}

// AggregateResource is an answer to a question for counts.
type AggregateResource struct {
	Type       string         `json:"type" enum:"metric-aggregate"`
	ID         string         `json:"id"`
	Attributes AggregateView  `json:"attributes"`
	Links      *jsonapi.Links `json:"links,omitempty"`
}

// AggregateView is the counts: a row for each combination of values of by, and in it a series for each measurement.
type AggregateView struct {
	Dates []time.Time    `json:"dates" doc:"Where each interval begins."`
	Data  []AggregateRow `json:"data"`
}

// AggregateRow is a row of counts.
type AggregateRow struct {
	Dimensions   []string             `json:"dimensions" doc:"Values in the order of by."`
	Measurements map[string][]Decimal `json:"measurements"`
}

// Decimal is a number as it is written, without a float between.
type Decimal string

// MarshalJSON implements json.Marshaler.
func (d Decimal) MarshalJSON() ([]byte, error) { return []byte(d), nil }

// JSONSchema describes it to package openapi.
func (Decimal) JSONSchema() string { return `{"type":"number"}` }

// SummaryResponse has what a metric's events of one profile came to.
type SummaryResponse struct {
	Data SummaryResource `json:"data"`
}

// SummaryResource is the summary.
type SummaryResource struct {
	Type       string         `json:"type" enum:"metric-summary"`
	ID         string         `json:"id" doc:"Of the profile."`
	Attributes SummaryView    `json:"attributes"`
	Links      *jsonapi.Links `json:"links,omitempty"`
}

// SummaryView has the windows in the order in which they were asked for.
type SummaryView struct {
	MetricID string       `json:"metric_id"`
	At       time.Time    `json:"at" doc:"Where all windows end."`
	Windows  []WindowView `json:"windows"`
}

// WindowView is one of them.
type WindowView struct {
	Window string    `json:"window" doc:"As it was asked for."`
	Count  int64     `json:"count"`
	Sum    Decimal   `json:"sum_value"`
	First  time.Time `json:"first,omitzero" doc:"Time of the first event in it."`
	Last   time.Time `json:"last,omitzero" doc:"Time of the last event in it."`
}

// ListResponse has a list.
type ListResponse struct {
	Data ListResource `json:"data"`
}

// ListsResponse has lists.
type ListsResponse struct {
	Data  []ListResource `json:"data"`
	Links jsonapi.Links  `json:"links"`
}

// ListResource is a list.
type ListResource struct {
	Type       string         `json:"type" enum:"list"`
	ID         string         `json:"id"`
	Attributes ListView       `json:"attributes,omitzero"`
	Links      *jsonapi.Links `json:"links,omitempty"`
}

// ListView is a list's attributes; its JSON without profile_count is also what is stored.
type ListView struct {
	Name         string    `json:"name,omitempty"`
	OptInProcess string    `json:"opt_in_process,omitempty" enum:"double_opt_in,single_opt_in"`
	Created      time.Time `json:"created,omitzero"`
	Updated      time.Time `json:"updated,omitzero"`
	ProfileCount *int      `json:"profile_count,omitempty" doc:"How many members it has; only when asked for."`
}

// JobResponse has a job.
type JobResponse struct {
	Data JobResource `json:"data"`
}

// JobsResponse has jobs.
type JobsResponse struct {
	Data  []JobResource `json:"data"`
	Links jsonapi.Links `json:"links"`
}

// JobResource is a bulk job.
type JobResource struct {
	Type          string            `json:"type" enum:"profile-bulk-import-job,profile-suppression-bulk-create-job,profile-suppression-bulk-delete-job"`
	ID            string            `json:"id"`
	Attributes    JobView           `json:"attributes,omitzero"`
	Relationships *JobRelationships `json:"relationships,omitempty"`
	Links         *jsonapi.Links    `json:"links,omitempty"`
}

// JobRelationships are to the lists that were joined.
type JobRelationships struct {
	Lists ManyRefs `json:"lists"`
}

// JobView is a job's attributes.
type JobView struct {
	Status         string    `json:"status,omitempty" enum:"complete" doc:"A job is complete once it is accepted: all good items are durable then."`
	CreatedAt      time.Time `json:"created_at,omitzero"`
	StartedAt      time.Time `json:"started_at,omitzero"`
	CompletedAt    time.Time `json:"completed_at,omitzero"`
	TotalCount     *int      `json:"total_count,omitempty"`
	CompletedCount *int      `json:"completed_count,omitempty"`
	FailedCount    *int      `json:"failed_count,omitempty"`
	SkippedCount   *int      `json:"skipped_count,omitempty"`
}

// ImportErrorsResponse has the errors of an import.
type ImportErrorsResponse struct {
	Data  []ImportErrorResource `json:"data"`
	Links jsonapi.Links         `json:"links"`
}

// ImportErrorResource is an error of an import.
type ImportErrorResource struct {
	Type       string          `json:"type" enum:"import-error"`
	ID         string          `json:"id"`
	Attributes ImportErrorView `json:"attributes,omitzero"`
}

// ImportErrorView tells what is wrong with a profile of an import.
type ImportErrorView struct {
	Code            string              `json:"code,omitempty"`
	Title           string              `json:"title,omitempty"`
	Detail          string              `json:"detail,omitempty"`
	Source          jsonapi.ErrorSource `json:"source,omitzero"`
	OriginalPayload wire.Object         `json:"original_payload,omitempty" doc:"The profile as it came."`
}

// url is the absolute form of a path of this API.
func (c *call) url(path string) string {
	if base := c.state.opts.PublicURL; base != "" {
		return strings.TrimSuffix(base, "/") + path
	}
	scheme := "http://"
	if c.r.TLS != nil {
		scheme = "https://"
	}
	return scheme + c.r.Host + path
}

// self links to a resource.
func (c *call) self(path ...string) *jsonapi.Links {
	escaped := make([]string, len(path))
	for i := range path {
		escaped[i] = url.PathEscape(path[i])
	}
	return &jsonapi.Links{Self: c.url("/api/" + strings.Join(escaped, "/"))}
}

// pages links to this page and the next one.
func (c *call) pages(next string) jsonapi.Links {
	out := jsonapi.Links{Self: c.url(c.r.URL.RequestURI())}
	if next != "" {
		q := c.r.URL.Query()
		q.Set("page[cursor]", jsonapi.EncodeCursor(next))
		out.Next = c.url(c.r.URL.EscapedPath() + "?" + q.Encode())
	}
	return out
}

// sparse leaves of attributes what fields[kind] names, if it is there.
func (c *call) sparse(kind string, attributes any) any {
	fields, given := c.query.Fields[kind]
	if !given {
		return attributes
	}
	b, err := json.Marshal(attributes)
	if err != nil {
		return attributes
	}
	return pick(b, fields)
}

// pick leaves those members of an object whose names, or names with a dot into them, are in fields.
func pick(object []byte, fields []string) map[string]json.RawMessage {
	all, out := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if json.Unmarshal(object, &all) != nil {
		return out
	}
	within := map[string][]string{}
	for _, f := range fields {
		name, rest, dotted := strings.Cut(f, ".")
		switch v, there := all[name]; {
		case !there:
		case dotted && !slices.Contains(fields, name):
			within[name] = append(within[name], rest)
		default:
			out[name] = v
		}
	}
	for name, rest := range within {
		if b, err := json.Marshal(pick(all[name], rest)); err == nil {
			out[name] = b
		}
	}
	return out
}

// also reports whether additional-fields[kind] or fields[kind] asks for name.
func (c *call) also(kind, name string) bool {
	under := func(f string) bool { return f == name || strings.HasPrefix(f, name+".") }
	return slices.ContainsFunc(c.query.Additional[kind], under) || slices.ContainsFunc(c.query.Fields[kind], under)
}

// newID makes an id for a resource of a kind: of the time of acceptance, so that ids are in the order of their making, and,
// with an idempotency key, of that; so a repeat makes the same one.
func (c *call) newID(kind string) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(c.at.UnixMilli())<<16)
	seed := c.seed
	if seed == "" {
		seed = rand.Text()
	}
	h := sha256.Sum256([]byte(kind + "\x00" + seed))
	copy(b[6:], h[:])
	return idText(b)
}

// idText writes an id so that the order of texts is that of ids.
func idText(b [16]byte) string {
	const digits = "0123456789abcdefghjkmnpqrstvwxyz"
	var out bytes.Buffer
	var bits, have uint
	for _, c := range b {
		bits, have = bits<<8|uint(c), have+8
		for have >= 5 {
			have -= 5
			out.WriteByte(digits[bits>>have&31])
		}
	}
	out.WriteByte(digits[bits<<(5-have)&31])
	return out.String()
}

// visible waits until what was put can be read, and reports whether that was within the time for it.
func (s *Server) visible(c *call, at ingest.Position) bool {
	ctx, cancel := context.WithTimeout(c.ctx, c.state.opts.WaitVisible.D())
	defer cancel()
	if err := s.deps.Waiter.Wait(ctx, at); err != nil {
		s.metrics.unseen.Inc()
		return false
	}
	return true
}
