package customer

import (
	"errors"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Errors of a Reader.
var (
	// ErrNotFound says that there is no such thing, or that it was deleted.
	ErrNotFound = errors.New("customer: not found")
	// ErrCursor says that a cursor is not one that this question gave, or is damaged.
	ErrCursor = errors.New("customer: the cursor does not belong to this question")
	// ErrElsewhere says that another node has the partition, or that it is not ready.
	ErrElsewhere = errors.New("customer: the partition is not here")
)

// Stores finds the state of a partition, as keyed.Worker.Store does.
type Stores func(partition int32) (*keyed.Store, bool)

// States finds the state of a partition, wherever it is.
type States func(partition int32) (State, bool)

// Reader answers questions about profiles from what is committed. It is safe for concurrent use. All
// questions are of one tenant, and see nothing of others.
type Reader struct {
	states     States
	partitions int32 // of the second log
	looks      int   // rows of a partition that one page looks at
	atOnce     int   // profiles that are read at the same time
}

// NewReader returns a reader of so many partitions, all of which are here.
func NewReader(s Stores, partitions int32) *Reader {
	r := NewReaderOf(func(partition int32) (State, bool) {
		store, ok := s(partition)
		return Here(store), ok
	}, partitions)
	r.atOnce = 1
	return r
}

// NewReaderOf returns a reader of so many partitions, which may be elsewhere.
func NewReaderOf(s States, partitions int32) *Reader {
	return &Reader{states: s, partitions: partitions, looks: defaultLooks, atOnce: readAtOnce}
}

// Profile is what is known of a profile.
type Profile struct {
	ID        fact.ProfileID
	Created   time.Time
	Updated   time.Time // when its attributes, properties, consent or lists changed last
	LastEvent time.Time // zero if there is none

	External, Email, Phone, Anonymous string

	Attributes   []byte // the others of the API (first_name, location, …), a JSON object
	Properties   []byte // custom ones, a JSON object
	Consents     []Consent
	Suppressions []Suppression
	Lists        []Membership
}

// Consent is what a profile said last about a channel, or about a list in it.
type Consent struct {
	Channel    string
	List       string // "" is the whole channel
	Subscribed bool
	At         time.Time // when the profile said so
	Updated    time.Time // when it was recorded
	Method     string
	Source     string
	Historical bool
}

// Suppression is a reason not to send mail to a profile.
type Suppression struct {
	Reason string
	At     time.Time
}

// Membership is being on a list.
type Membership struct {
	List   string
	Joined time.Time
}

// CanReceive reports whether consent allows a channel: its end, or for mail a suppression, forbids it.
func (p *Profile) CanReceive(channel string) bool {
	if channel == Email && len(p.Suppressions) > 0 {
		return false
	}
	for _, c := range p.Consents {
		if c.Channel == channel && c.List == "" {
			return c.Subscribed
		}
	}
	return true
}

// millis is the time of a row; never is the zero time.
func millis(ms int64) time.Time {
	if ms == never {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// show makes a document what readers see. Its parts are its own.
func (d *document) show(id fact.ProfileID, h head) *Profile {
	p := &Profile{ID: id, Created: millis(d.created), Updated: millis(d.updated), LastEvent: millis(h.last),
		External: *d.id(fact.ByExternal), Email: *d.id(fact.ByEmail), Phone: *d.id(fact.ByPhone), Anonymous: *d.id(fact.ByAnonymous),
		Attributes: orEmpty(d.attributes), Properties: orEmpty(d.properties)}
	for _, c := range d.consents {
		p.Consents = append(p.Consents, Consent{Channel: c.channel, List: c.list, Subscribed: c.subscribed, At: millis(c.at),
			Updated: millis(c.updated), Method: c.method, Source: c.source, Historical: c.historical})
	}
	for _, s := range d.suppressions {
		p.Suppressions = append(p.Suppressions, Suppression{s.reason, millis(s.at)})
	}
	for _, m := range d.lists {
		p.Lists = append(p.Lists, Membership{m.list, millis(m.joined)})
	}
	return p
}

func orEmpty(object []byte) []byte {
	if object == nil {
		return []byte("{}")
	}
	return object
}

// Profile returns a profile. One that was merged is answered by the one it went to, whose ID the answer has.
func (r *Reader) Profile(tenant string, id fact.ProfileID) (*Profile, error) {
	return r.profile(fact.TenantIDOf(tenant), id)
}

func (r *Reader) profile(t fact.TenantID, id fact.ProfileID) (*Profile, error) {
	s, w, h, err := r.find(t, id)
	if err != nil {
		return nil, err
	}
	raw, err := s.Get(append([]byte{prefixDocument}, w[:]...))
	if errors.Is(err, keyed.ErrNotFound) { // it left between two reads
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	var d document
	if err := d.parse(raw); err != nil {
		return nil, err
	}
	if h.last, err = lastEvent(s, w, h); err != nil {
		return nil, err
	}
	return d.show(w.profile(), h), nil
}

// lastEvent is the time of a profile's latest event, which its head may be behind of.
func lastEvent(s State, w who, h head) (int64, error) {
	if h.last == never {
		return never, nil
	}
	last := h.last
	var failed error
	err := s.Scan(append([]byte{prefixEvent}, w[:]...), nil, func(_, v []byte) bool {
		var r row
		failed = r.parse(v)
		last = max(last, r.time)
		return failed == nil
	})
	return last, errors.Join(err, failed)
}

// mostMerges bounds how far a profile that was merged again and again is followed.
const mostMerges = 100

// find returns the state that a profile is in, following merges.
func (r *Reader) find(t fact.TenantID, id fact.ProfileID) (State, who, head, error) {
	for range mostMerges {
		w := whoOf(t, id)
		s, err := r.store(id.Partition(r.partitions))
		if err != nil {
			return s, w, head{}, err
		}
		h, err := loadHead(s.Get, w)
		if err != nil {
			return s, w, h, err
		}
		switch h.standing {
		case living:
			return s, w, h, nil
		case merged:
			id = h.to
		default:
			return s, w, h, ErrNotFound
		}
	}
	return State{}, who{}, head{}, fmt.Errorf("customer: profile %s was merged more than %d times", id, mostMerges)
}

func (r *Reader) store(partition int32) (State, error) {
	s, ok := r.states(partition)
	if !ok {
		return s, fmt.Errorf("%w: %d", ErrElsewhere, partition)
	}
	return s, nil
}

// MemberOf returns the lists that a profile is on, with when it joined them. A list that was deleted may still be among them.
func (r *Reader) MemberOf(tenant string, id fact.ProfileID) ([]Membership, error) {
	p, err := r.Profile(tenant, id)
	if err != nil {
		return nil, err
	}
	return p.Lists, nil
}
