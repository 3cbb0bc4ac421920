package fact

import "time"

// Kind says what a record is about. The numbers are in the logs.
type Kind uint8

// Kinds of Intake and Fact.
const (
	// KindEvent is something that a profile did or that was done to it. It may carry a Change of the profile as well.
	KindEvent Kind = iota + 1
	// KindChange changes, or makes, a profile: its attributes, consent, memberships.
	KindChange
	// KindClaim says that an identifier was given together with a stronger one (Intake only): Claim.
	KindClaim
	// KindMerge asks to merge or delete profiles (Intake only, at the tenant's Home): Merge.
	KindMerge
	// KindRedirect tells one partition of the first log of a merge or deletion that was decided (Intake only): Merge.
	KindRedirect
	// KindMarker says that one partition of the first log sends nothing more under the source of a merge
	// (Fact only): Merge, and Origin.Partition. When all have, the source's state is complete.
	KindMarker
	// KindTransfer carries state of a merged profile to its destination (Fact only): Transfer.
	KindTransfer
	// KindObject stores or deletes a document of the tenant, such as a list or a job: Object.
	KindObject
)

// Intake is a record of the first log.
type Intake struct {
	Kind   Kind
	Tenant string
	At     time.Time // accepted, to the millisecond
	// Who has the identifiers, strongest first. The record is in the partition of the first.
	Who []Identifier
	// Fresh says that a profile must not exist yet: the change is dropped otherwise.
	Fresh  bool
	Event  *Event
	Change *Change
	Claim  *Claim
	Merge  *Merge
	Object *Object
	// From is set on what a stage wrote: the record that made it.
	From Origin
}

// Fact is a record of the second log.
type Fact struct {
	Kind     Kind
	Tenant   string
	Profile  ProfileID
	At       time.Time // accepted, to the millisecond
	Who      []Identifier
	Event    *Event
	Change   *Change
	Merge    *Merge
	Transfer *Transfer
	Object   *Object
	From     Origin
}

// Origin is the record that another one was made of, so that a receiver applies it once: those of one
// source partition come in the order of (Offset, N), and what is not behind the last one came before.
type Origin struct {
	Stage      Stage
	Partition  int32
	Offset     int64
	N          int32 // 1 for the first output of a record; 0 says that there is no origin
	Generation int64
}

// Stage is who wrote a record. The numbers are in the logs.
type Stage uint8

// Stages that write to logs.
const (
	StageIntake   Stage = iota // the door: API, imports, the MTA's events
	StageIdentity              // finds whose a record is
	StageCustomer              // keeps what is known of each profile
	StageAccount               // counts for the tenant
)

// Event is something that happened.
type Event struct {
	Metric  MetricID
	Service string // "api" unless given
	Name    string // of the metric
	Time    time.Time
	// UID dedupes: of events of one profile and metric with the same one, the first counts. It is never empty.
	UID string
	// Value is what $value or value said, in millionths; HasValue if it was there.
	Value    int64
	HasValue bool
	Currency string
	Backfill bool // history: counts, but triggers nothing
	// Dims are the properties that the tenant's counts are broken down by.
	Dims []Dim
	// Properties is the JSON object that came, as it came but for hydration.
	Properties []byte
}

// Dim is a value of a dimension.
type Dim struct {
	Name  string
	Value string
}

// Change is what is to be changed of a profile, as the API's JSON.
type Change struct {
	// Attributes is a JSON object: keys that are there are set, null clears. Identifiers
	// that are to be set stand in it in their normalised form.
	Attributes []byte
	// Properties is a JSON object of custom properties, with the same rule.
	Properties []byte
	// Append, Unappend and Unset are patch_properties of the API, as JSON; empty: none.
	Append, Unappend, Unset []byte
	// Consent, Lists and Suppressions change what mail is allowed.
	Consent      []Consent
	Lists        []Membership
	Suppressions []Suppression
}

// Consent is a subscription or its end.
type Consent struct {
	Channel    string // email, sms
	Subscribed bool
	List       string    // "" is all
	At         time.Time // consented; zero: when accepted
	Method     string    // such as API
	Source     string    // custom_source
	Historical bool
}

// Membership is joining or leaving a list.
type Membership struct {
	List string
	Join bool
}

// Suppression sets or lifts one.
type Suppression struct {
	Reason string // HARD_BOUNCE, INVALID_EMAIL, SPAM_COMPLAINT, UNSUBSCRIBE, USER_SUPPRESSED
	Lift   bool
}

// Claim says that an identifier came together with a stronger one, whose profile it may join.
type Claim struct {
	ID      Identifier
	By      Identifier
	Profile ProfileID // of By
}

// Merge makes one profile part of another. Without a destination it deletes it.
type Merge struct {
	ID          [16]byte // derived from the record that asked
	Source      ProfileID
	Destination ProfileID
}

// Transfer is a part of a merged profile's state. Each level's consumer sends and takes its own.
type Transfer struct {
	Merge Merge
	Level Stage // StageCustomer or StageAccount
	N     int32 // 0, 1, …
	Last  bool
	Data  []byte // the level's own format
}

// Object is a document of a tenant that is not about one profile. Its key decides its partition.
type Object struct {
	Type string // list, job, …
	ID   string
	Data []byte // JSON; nil deletes
}
