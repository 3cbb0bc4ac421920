package api

import (
	"context"
	"time"

	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/identity"
	"github.com/godwit-mta/godwit/pipeline/ingest"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// Door takes what comes in; *ingest.Door is one. What it has returned from is durable.
type Door interface {
	Put(ctx context.Context, records []*fact.Intake) (ingest.Position, error)
	// Event takes the document of a single event. With the same seed an event without a unique id counts once.
	Event(ctx context.Context, tenant string, body []byte, seed string) (ingest.Position, error)
	// Bulk takes the good events of a job's document.
	Bulk(ctx context.Context, tenant string, body []byte, seed string) (ingest.Position, *ingest.Report, error)
	// ProfileChange reads attributes and meta (may be nil) of a profile at pointer.
	ProfileChange(tenant string, attributes, meta []byte, pointer string) ([]fact.Identifier, *fact.Change, jsonapi.Errors)
}

// Waiter waits until writes can be read.
type Waiter interface {
	// Wait returns when what was put up to a position has been applied to identities, profiles and
	// lists, or the context's error.
	Wait(ctx context.Context, at ingest.Position) error
}

// Identities finds profiles by their identifiers.
type Identities interface {
	// Lookup returns the living profile that a normalised identifier belongs to.
	Lookup(tenant string, id fact.Identifier) (fact.ProfileID, bool, error)
	// Resolve returns the profile that one is part of by now and what became of it. One that was never heard of lives.
	Resolve(tenant string, p fact.ProfileID) (fact.ProfileID, identity.Standing, error)
}

// Profiles reads what is known of profiles, their events, and lists; *customer.Reader does. What is not there is
// customer.ErrNotFound.
type Profiles interface {
	Profile(tenant string, id fact.ProfileID) (*customer.Profile, error)
	Profiles(tenant string, q customer.ProfileQuery) (*customer.ProfilePage, error)
	Summary(tenant string, id fact.ProfileID, metric fact.MetricID, windows []time.Duration, now time.Time) ([]customer.Window, error)
	Events(tenant string, q customer.EventQuery) (*customer.EventPage, error)
	Event(tenant string, id customer.EventID) (*customer.Event, error)
	Object(tenant, kind, id string) (*customer.Object, error)
	Objects(tenant, kind, cursor string, size int) (*customer.ObjectPage, error)
	Members(tenant string, q customer.MemberQuery) (*customer.MemberPage, error)
}

// Warehouse answers what the states cannot: events of all profiles, counts by more than one dimension.
type Warehouse interface {
	// Events lists events of a profile, or of all for the zero one.
	Events(ctx context.Context, tenant string, q customer.EventQuery) (*customer.EventPage, error)
	Query(ctx context.Context, q account.Query) (*account.Result, error)
}

// Counts answers questions for counts; *account.Reader does.
type Counts interface {
	Query(ctx context.Context, q account.Query) (*account.Result, error)
	Metrics(ctx context.Context, tenant string) ([]account.Metric, error)
	// Zone is the time zone in which a tenant is counted.
	Zone(tenant string) *time.Location
}
