package api

import (
	"time"

	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// This file has what requests consist of. Handlers read them strictly: a member that is not here is an error.

// ProfileRequest is the body of requests that make or change a profile.
type ProfileRequest struct {
	Data ProfileInput `json:"data"`
}

// ProfileInput is a profile as it is written.
type ProfileInput struct {
	Type       string            `json:"type" enum:"profile"`
	ID         string            `json:"id,omitempty" doc:"Of a profile that there is."`
	Attributes ProfileAttributes `json:"attributes,omitzero"`
	Meta       *ProfileMeta      `json:"meta,omitempty"`
}

// ProfileAttributes are what can be written. Null takes away; what is absent stays as it is.
type ProfileAttributes struct {
	Email        string      `json:"email,omitempty" doc:"Identifier. Case does not count."`
	PhoneNumber  string      `json:"phone_number,omitempty" doc:"Identifier, in E.164 form."`
	ExternalID   string      `json:"external_id,omitempty" doc:"Identifier that is yours."`
	AnonymousID  string      `json:"anonymous_id,omitempty" doc:"Identifier of a browser or device. It can be written, never read."`
	FirstName    string      `json:"first_name,omitempty"`
	LastName     string      `json:"last_name,omitempty"`
	Organization string      `json:"organization,omitempty"`
	Locale       string      `json:"locale,omitempty" doc:"BCP 47, such as en-US."`
	Title        string      `json:"title,omitempty"`
	Image        string      `json:"image,omitempty" doc:"URL."`
	Location     *Location   `json:"location,omitempty"`
	Properties   wire.Object `json:"properties,omitempty" doc:"What is yours: any JSON."`
}

// Location is where a profile lives.
type Location struct {
	Address1  string  `json:"address1,omitempty"`
	Address2  string  `json:"address2,omitempty"`
	City      string  `json:"city,omitempty"`
	Country   string  `json:"country,omitempty"`
	Latitude  Numeric `json:"latitude,omitzero" doc:"A number or a string of one."`
	Longitude Numeric `json:"longitude,omitzero" doc:"A number or a string of one."`
	Region    string  `json:"region,omitempty"`
	Zip       string  `json:"zip,omitempty"`
	Timezone  string  `json:"timezone,omitempty" doc:"IANA name, such as Europe/Paris."`
	IP        string  `json:"ip,omitempty"`
}

// Numeric is a number or a string.
type Numeric struct{}

// JSONSchema describes it to package openapi: no type is named, so either will do.
func (Numeric) JSONSchema() string { return `{}` }

// ProfileMeta changes properties in part.
type ProfileMeta struct {
	PatchProperties *PatchProperties `json:"patch_properties,omitempty"`
}

// PatchProperties are changes within properties.
type PatchProperties struct {
	Append   wire.Object `json:"append,omitempty" doc:"Adds a value, or each of an array's, to properties that are arrays."`
	Unappend wire.Object `json:"unappend,omitempty" doc:"Takes a value, or each of an array's, from properties that are arrays."`
	Unset    []string    `json:"unset,omitempty" doc:"Takes properties away."`
}

// RefsRequest names resources.
type RefsRequest struct {
	Data []jsonapi.Ref `json:"data" min:"1" max:"1000"`
}

// OneRef names a resource, or with null none.
type OneRef struct {
	Data *jsonapi.Ref `json:"data,omitempty"`
}

// ManyRefs name resources.
type ManyRefs struct {
	Data []jsonapi.Ref `json:"data,omitempty"`
}

// MergeRequest merges one profile into another.
type MergeRequest struct {
	Data MergeInput `json:"data"`
}

// MergeInput is what to merge.
type MergeInput struct {
	Type          string             `json:"type" enum:"profile-merge"`
	ID            string             `json:"id" doc:"The profile that stays."`
	Relationships MergeRelationships `json:"relationships"`
}

// MergeRelationships has the profile that goes.
type MergeRelationships struct {
	Profiles ManyRefs `json:"profiles" doc:"One profile: it becomes part of the other one."`
}

// DeletionRequest asks to forget a person.
type DeletionRequest struct {
	Data DeletionInput `json:"data"`
}

// DeletionInput is the job.
type DeletionInput struct {
	Type       string             `json:"type" enum:"data-privacy-deletion-job"`
	Attributes DeletionAttributes `json:"attributes"`
}

// DeletionAttributes name the profile.
type DeletionAttributes struct {
	Profile DeletionProfile `json:"profile"`
}

// DeletionProfile is the profile's document.
type DeletionProfile struct {
	Data PersonInput `json:"data"`
}

// PersonInput names a profile by its id or one identifier.
type PersonInput struct {
	Type       string           `json:"type" enum:"profile"`
	ID         *string          `json:"id,omitempty"`
	Attributes PersonAttributes `json:"attributes,omitzero"`
}

// PersonAttributes are identifiers.
type PersonAttributes struct {
	Email       *string `json:"email,omitempty"`
	PhoneNumber *string `json:"phone_number,omitempty"`
	ExternalID  *string `json:"external_id,omitempty"`
	AnonymousID *string `json:"anonymous_id,omitempty"`
}

// EventRequest is the body of a single event.
type EventRequest struct {
	Data EventInput `json:"data"`
}

// EventInput is an event as it is written.
type EventInput struct {
	Type       string          `json:"type" enum:"event"`
	Attributes EventAttributes `json:"attributes"`
}

// EventAttributes are what happened, and to whom.
type EventAttributes struct {
	Properties    wire.Object      `json:"properties,omitempty" doc:"What is yours: any JSON."`
	Time          string           `json:"time,omitempty" doc:"ISO 8601. The default is now."`
	Value         float64          `json:"value,omitempty" doc:"What sum_value adds up, exact to the millionth."`
	ValueCurrency string           `json:"value_currency,omitempty" doc:"ISO 4217."`
	UniqueID      string           `json:"unique_id,omitempty" doc:"Of events of one profile and metric with the same one, the first counts. The default is the time cut to the second."`
	Backfill      bool             `json:"backfill,omitempty" doc:"History: it counts and triggers nothing."`
	Metric        MetricDocument   `json:"metric"`
	Profile       *ProfileDocument `json:"profile,omitempty" doc:"Required but in a bulk job, where it stands beside the events."`
}

// MetricDocument names a metric.
type MetricDocument struct {
	Data MetricInput `json:"data"`
}

// MetricInput names a metric.
type MetricInput struct {
	Type       string               `json:"type" enum:"metric"`
	Attributes MetricNameAttributes `json:"attributes"`
}

// MetricNameAttributes name a metric.
type MetricNameAttributes struct {
	Name    string `json:"name"`
	Service string `json:"service,omitempty" doc:"Who reports it. The default is api."`
}

// ProfileDocument has the profile of an event, which is made or changed by it.
type ProfileDocument struct {
	Data ProfileInput `json:"data"`
}

// EventJobRequest is the body of a bulk job of events.
type EventJobRequest struct {
	Data EventJobInput `json:"data"`
}

// EventJobInput is the job.
type EventJobInput struct {
	Type       string             `json:"type" enum:"event-bulk-create-job"`
	Attributes EventJobAttributes `json:"attributes"`
}

// EventJobAttributes have the events by profile.
type EventJobAttributes struct {
	EventsBulkCreate EventJobItems `json:"events-bulk-create"`
}

// EventJobItems are the profiles of a job.
type EventJobItems struct {
	Data []EventJobItem `json:"data"`
}

// EventJobItem is a profile with its events.
type EventJobItem struct {
	Type       string                 `json:"type" enum:"event-bulk-create"`
	Attributes EventJobItemAttributes `json:"attributes"`
}

// EventJobItemAttributes are a profile with its events.
type EventJobItemAttributes struct {
	Backfill bool            `json:"backfill,omitempty" doc:"For all of the profile's events."`
	Profile  ProfileDocument `json:"profile"`
	Events   EventsDocument  `json:"events"`
}

// EventsDocument are events of one profile.
type EventsDocument struct {
	Data []EventInput `json:"data"`
}

// ImportRequest is the body of a bulk import of profiles.
type ImportRequest struct {
	Data ImportInput `json:"data"`
}

// ImportInput is the job.
type ImportInput struct {
	Type          string               `json:"type" enum:"profile-bulk-import-job"`
	Attributes    ImportAttributes     `json:"attributes"`
	Relationships *ImportRelationships `json:"relationships,omitempty"`
}

// ImportAttributes have the profiles.
type ImportAttributes struct {
	Profiles ImportProfiles `json:"profiles"`
}

// ImportProfiles are the profiles.
type ImportProfiles struct {
	Data []ProfileInput `json:"data" min:"1" max:"10000"`
}

// ImportRelationships has the lists that all of the profiles join.
type ImportRelationships struct {
	Lists ManyRefs `json:"lists,omitzero"`
}

// SubscriptionRequest is the body of jobs that subscribe or unsubscribe.
type SubscriptionRequest struct {
	Data SubscriptionInput `json:"data"`
}

// SubscriptionInput is the job.
type SubscriptionInput struct {
	Type          string                     `json:"type" enum:"profile-subscription-bulk-create-job,profile-subscription-bulk-delete-job"`
	Attributes    SubscriptionAttributes     `json:"attributes"`
	Relationships *SubscriptionRelationships `json:"relationships,omitempty"`
}

// SubscriptionAttributes say who, and how consent came.
type SubscriptionAttributes struct {
	CustomSource     *string              `json:"custom_source,omitempty" doc:"Where consent came from, in your words."`
	HistoricalImport *bool                `json:"historical_import,omitempty" doc:"Consent was given before: consented_at is required, and nothing is triggered."`
	Profiles         SubscriptionProfiles `json:"profiles"`
}

// SubscriptionRelationships has the list that is joined or left.
type SubscriptionRelationships struct {
	List OneRef `json:"list,omitzero"`
}

// SubscriptionProfiles are who.
type SubscriptionProfiles struct {
	Data []SubscriptionProfile `json:"data" min:"1" max:"1000"`
}

// SubscriptionProfile is one of them.
type SubscriptionProfile struct {
	Type       string                        `json:"type" enum:"profile"`
	ID         *string                       `json:"id,omitempty"`
	Attributes SubscriptionProfileAttributes `json:"attributes,omitzero"`
}

// SubscriptionProfileAttributes are identifiers, and what is subscribed to.
type SubscriptionProfileAttributes struct {
	Email         *string           `json:"email,omitempty"`
	PhoneNumber   *string           `json:"phone_number,omitempty"`
	ExternalID    *string           `json:"external_id,omitempty"`
	AnonymousID   *string           `json:"anonymous_id,omitempty"`
	Subscriptions *SubscriptionsSet `json:"subscriptions,omitempty" doc:"The default is marketing on each channel that an identifier is given for."`
}

// SubscriptionsSet is by channel.
type SubscriptionsSet struct {
	Email *ChannelSet `json:"email,omitempty"`
	SMS   *ChannelSet `json:"sms,omitempty"`
}

// ChannelSet is by purpose.
type ChannelSet struct {
	Marketing     *ConsentSet `json:"marketing,omitempty"`
	Transactional *ConsentSet `json:"transactional,omitempty" doc:"Of sms."`
}

// ConsentSet is what the person said.
type ConsentSet struct {
	Consent     string     `json:"consent" enum:"SUBSCRIBED,UNSUBSCRIBED"`
	ConsentedAt *time.Time `json:"consented_at,omitempty" doc:"With historical_import: when."`
}

// SuppressionRequest is the body of jobs that set or lift suppressions.
type SuppressionRequest struct {
	Data SuppressionInput `json:"data"`
}

// SuppressionInput is the job.
type SuppressionInput struct {
	Type          string                     `json:"type" enum:"profile-suppression-bulk-create-job,profile-suppression-bulk-delete-job"`
	Attributes    SuppressionAttributes      `json:"attributes,omitzero"`
	Relationships *SubscriptionRelationships `json:"relationships,omitempty" doc:"A list, all of whose members are meant."`
}

// SuppressionAttributes say who.
type SuppressionAttributes struct {
	Profiles *SuppressionProfiles `json:"profiles,omitempty"`
}

// SuppressionProfiles are who.
type SuppressionProfiles struct {
	Data []SuppressionProfile `json:"data" min:"1" max:"1000"`
}

// SuppressionProfile is one of them.
type SuppressionProfile struct {
	Type       string                       `json:"type" enum:"profile"`
	Attributes SuppressionProfileAttributes `json:"attributes"`
}

// SuppressionProfileAttributes name an address.
type SuppressionProfileAttributes struct {
	Email string `json:"email"`
}

// ListRequest is the body of requests that make or change a list.
type ListRequest struct {
	Data ListInput `json:"data"`
}

// ListInput is a list as it is written.
type ListInput struct {
	Type       string         `json:"type" enum:"list"`
	ID         *string        `json:"id,omitempty"`
	Attributes ListAttributes `json:"attributes"`
}

// ListAttributes are what can be written.
type ListAttributes struct {
	Name         *string `json:"name,omitempty"`
	OptInProcess *string `json:"opt_in_process,omitempty" enum:"double_opt_in,single_opt_in" doc:"The default is single_opt_in."`
}

// AggregateRequest is the body of a question for counts.
type AggregateRequest struct {
	Data AggregateInput `json:"data"`
}

// AggregateInput is the question.
type AggregateInput struct {
	Type       string              `json:"type" enum:"metric-aggregate"`
	Attributes AggregateAttributes `json:"attributes"`
}

// AggregateAttributes are what is asked.
type AggregateAttributes struct {
	MetricID     string    `json:"metric_id"`
	Measurements []string  `json:"measurements" min:"1" max:"3" doc:"count, sum_value, unique."`
	Interval     *string   `json:"interval,omitempty" enum:"hour,day,week,month" doc:"The default is day."`
	By           []string  `json:"by,omitempty" doc:"Names of dimensions."`
	Filter       []string  `json:"filter" min:"1" doc:"Both bounds of datetime, and if need be equals or any of dimensions."`
	Timezone     *string   `json:"timezone,omitempty" doc:"IANA name. The default is UTC."`
	PageSize     *int      `json:"page_size,omitempty" doc:"Rows, 1 to 1000. The default is 500."`
	PageCursor   *string   `json:"page_cursor,omitempty" doc:"Of links.next of the page before."`
	Sort         *string   `json:"sort,omitempty" doc:"A measurement or dimension, with - before it for descending."`
	ReturnFields *[]string `json:"return_fields,omitempty" doc:"Understood and ignored."`
}

// decoders read the bodies.
type decoders struct {
	refs         *wire.Decoder[RefsRequest]
	merge        *wire.Decoder[MergeRequest]
	deletion     *wire.Decoder[DeletionRequest]
	subscription *wire.Decoder[SubscriptionRequest]
	suppression  *wire.Decoder[SuppressionRequest]
	list         *wire.Decoder[ListRequest]
	aggregate    *wire.Decoder[AggregateRequest]
	job          *wire.Decoder[importJob]
	resource     *wire.Decoder[resourceRequest]
}

func newDecoders() (*decoders, error) {
	d := &decoders{}
	for _, build := range []func() error{
		builder(&d.refs), builder(&d.merge), builder(&d.deletion), builder(&d.subscription), builder(&d.suppression),
		builder(&d.list), builder(&d.aggregate), builder(&d.job), builder(&d.resource),
	} {
		if err := build(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func builder[T any](into **wire.Decoder[T]) func() error {
	return func() (err error) {
		*into, err = wire.NewDecoder[T]()
		return err
	}
}

// resourceRequest is a document whose resource ingest reads.
type resourceRequest struct {
	Data wire.Object `json:"data"`
}

// importJob is an ImportRequest whose profiles ingest reads.
type importJob struct {
	Data importJobData `json:"data"`
}

type importJobData struct {
	Type          string               `json:"type"`
	Attributes    importJobAttributes  `json:"attributes"`
	Relationships *ImportRelationships `json:"relationships"`
}

type importJobAttributes struct {
	Profiles importJobProfiles `json:"profiles"`
}

type importJobProfiles struct {
	Data []wire.Object `json:"data"`
}
