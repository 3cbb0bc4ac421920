package warehouse_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"reflect"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// customerLevel is the stage whose rules Profile has, on one partition.
type customerLevel struct {
	t     *testing.T
	facts stream.Topic
	store *keyed.Store
	proc  keyed.Processor
	tx    *keyed.Tx
	next  int64
}

func newCustomerLevel(t *testing.T) *customerLevel {
	t.Helper()
	facts, err := stream.NewMemory().Topic(t.Context(), "facts", 1)
	if err != nil {
		t.Fatal(err)
	}
	make, err := customer.NewProcessor(customer.DefaultOptions(), customer.Deps{Facts: facts, Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	c := &customerLevel{t: t, facts: facts}
	if c.store, err = keyed.OpenStore(t.TempDir(), keyed.StoreOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.store.Close() })
	a := stream.Assignment{Generation: 1}
	if c.proc, err = make(c.store, a); err != nil {
		t.Fatal(err)
	}
	c.tx = c.store.Begin(a)
	return c
}

// put gives it a fact, and all that comes of it.
func (c *customerLevel) put(f *fact.Fact) {
	c.t.Helper()
	c.append(stream.Message{Data: f.Append(nil)})
	r, err := c.facts.Read(c.t.Context(), 0, c.next)
	if err != nil {
		c.t.Fatal(err)
	}
	for {
		end, err := c.facts.End(c.t.Context(), 0)
		if err != nil {
			c.t.Fatal(err)
		}
		if c.next >= end {
			return
		}
		recs, err := r.Next(c.t.Context(), 100)
		if err != nil {
			c.t.Fatal(err)
		}
		c.next = recs[len(recs)-1].Offset + 1
		if err := errors.Join(c.proc.Apply(c.tx, recs), c.proc.Flush(c.tx)); err != nil {
			c.t.Fatal(err)
		}
		for _, m := range c.tx.Outputs()[c.facts] {
			c.append(m)
		}
		if err := c.tx.Commit(c.next); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *customerLevel) append(m stream.Message) {
	c.t.Helper()
	if _, err := c.facts.Append(c.t.Context(), []stream.Message{m}); err != nil {
		c.t.Fatal(err)
	}
}

func pick[T any](r *rand.Rand, values ...T) T { return values[r.Intn(len(values))] }

func randomChange(r *rand.Rand, now time.Time) *fact.Change {
	c := new(fact.Change)
	if r.Intn(2) == 0 {
		c.Attributes = []byte(pick(r, `{"first_name":"Ann"}`, `{"phone_number":null,"title":7}`, `{"email":"new@example.com"}`, `{"email":null}`, `{"location":{"city":"Köln","latitude":50.9}}`,
			`{"location":{"city":null,"latitude":null}}`, `{"location":null}`, `{"location":"here"}`, `{"organization":""}`))
	}
	if r.Intn(2) == 0 {
		c.Properties = []byte(pick(r, `{"age":5}`, `{"age":"old","tags":[1]}`, `{"age":null}`, `{"tags":"a"}`, `{"a":{"b":1}}`))
	}
	if r.Intn(4) == 0 {
		c.Append = []byte(pick(r, `{"tags":"a"}`, `{"tags":["b",2],"age":1}`))
	}
	if r.Intn(4) == 0 {
		c.Unappend = []byte(pick(r, `{"tags":"a"}`, `{"tags":["b",1]}`))
	}
	if r.Intn(6) == 0 {
		c.Unset = []byte(pick(r, `"age"`, `["tags","none"]`))
	}
	for range r.Intn(3) {
		s := fact.Consent{Channel: pick(r, "email", "email", "sms"), Subscribed: r.Intn(2) == 0, List: pick(r, "", "L1", "L2"), Method: pick(r, "API", "form"), Historical: r.Intn(5) == 0}
		if r.Intn(3) == 0 {
			s.At = now.Add(-time.Duration(r.Intn(5)) * time.Minute).Truncate(time.Millisecond)
		}
		c.Consent = append(c.Consent, s)
	}
	if r.Intn(4) == 0 {
		c.Lists = append(c.Lists, fact.Membership{List: pick(r, "L1", "L2"), Join: r.Intn(2) == 0})
	}
	if r.Intn(4) == 0 {
		c.Suppressions = append(c.Suppressions, fact.Suppression{Reason: pick(r, "HARD_BOUNCE", "INVALID_EMAIL", "SPAM_COMPLAINT", "UNSUBSCRIBE", "USER_SUPPRESSED"), Lift: r.Intn(3) == 0})
	}
	return c
}

// TestProfilesAreThoseOfTheCustomerLevel gives both the same facts. What they say to each question about a profile must be the same.
func TestProfilesAreThoseOfTheCustomerLevel(t *testing.T) {
	for seed := range int64(300) {
		r := rand.New(rand.NewSource(seed))
		c := newCustomerLevel(t)
		mine := map[fact.ProfileID]*warehouse.Profile{}
		var ids []fact.ProfileID
		for i := range 3 {
			ids = append(ids, fact.DeriveProfile("t", fact.Identifier{Value: fmt.Sprint(i)}, fact.ProfileID{}))
		}
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		for i := range 30 {
			now = now.Add(time.Duration(r.Intn(3)) * time.Minute)
			p := ids[r.Intn(len(ids))]
			if i == 20 && p != ids[0] {
				c.put(&fact.Fact{Kind: fact.KindMarker, Tenant: "t", Profile: p, At: now, Merge: &fact.Merge{ID: [16]byte{1}, Source: p, Destination: ids[0]}, From: fact.Origin{Stage: fact.StageIdentity, Offset: 1, N: 1}})
				if from := mine[p]; from != nil {
					if mine[ids[0]] == nil {
						mine[ids[0]] = from
					} else {
						mine[ids[0]].Merge(from)
					}
				}
				delete(mine, p)
				ids = []fact.ProfileID{ids[0]}
				continue
			}
			f := &fact.Fact{Kind: fact.KindChange, Tenant: "t", Profile: p, At: now, Change: randomChange(r, now)}
			if r.Intn(3) == 0 {
				f.Who = []fact.Identifier{{Kind: fact.ByEmail, Value: pick(r, "a@example.com", "b@example.com")}, {Kind: fact.ByPhone, Value: "+4930"}}
			}
			c.put(f)
			if mine[p] == nil {
				mine[p] = &warehouse.Profile{Created: now.UnixMilli(), Updated: now.UnixMilli()}
			}
			mine[p].Know(f.Who)
			if err := mine[p].Apply(f.Change, now.UnixMilli()); err != nil {
				t.Fatal(err)
			}
		}
		reader := customer.NewReader(func(int32) (*keyed.Store, bool) { return c.store, true }, 1)
		for id, p := range mine {
			theirs, err := reader.Profile("t", id)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if got, want := plain(t, ofWarehouse(p)), plain(t, ofCustomer(theirs)); !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d:\n%v\nthe customer level has\n%v", seed, got, want)
			}
		}
	}
}

// person is what both know.
type person struct {
	Created                           int64
	External, Email, Phone, Anonymous string
	Attributes, Properties            json.RawMessage
	Consents, Suppressions, Lists     []string
}

func ofWarehouse(p *warehouse.Profile) person {
	out := person{Created: p.Created, External: p.IDs[0], Email: p.IDs[1], Phone: p.IDs[2], Anonymous: p.IDs[3], Attributes: p.Attributes.Append(nil), Properties: p.Properties.Append(nil)}
	for _, c := range p.Consents {
		out.Consents = append(out.Consents, fmt.Sprint(c.Channel, c.List, c.Subscribed, c.Historical, c.At, c.Updated, c.Method, c.Source))
	}
	for _, s := range p.Suppressions {
		out.Suppressions = append(out.Suppressions, fmt.Sprint(s.Reason, s.At))
	}
	for _, m := range p.Lists {
		out.Lists = append(out.Lists, fmt.Sprint(m.List, m.Joined))
	}
	return out
}

func ofCustomer(p *customer.Profile) person {
	out := person{Created: p.Created.UnixMilli(), External: p.External, Email: p.Email, Phone: p.Phone, Anonymous: p.Anonymous, Attributes: orEmpty(p.Attributes), Properties: orEmpty(p.Properties)}
	for _, c := range p.Consents {
		out.Consents = append(out.Consents, fmt.Sprint(c.Channel, c.List, c.Subscribed, c.Historical, c.At.UnixMilli(), c.Updated.UnixMilli(), c.Method, c.Source))
	}
	for _, s := range p.Suppressions {
		out.Suppressions = append(out.Suppressions, fmt.Sprint(s.Reason, s.At.UnixMilli()))
	}
	for _, m := range p.Lists {
		out.Lists = append(out.Lists, fmt.Sprint(m.List, m.Joined.UnixMilli()))
	}
	return out
}

func orEmpty(b []byte) []byte {
	if len(b) == 0 {
		return []byte("{}")
	}
	return bytes.Clone(b)
}

// plain forgets in which order members are.
func plain(t *testing.T, p person) any {
	t.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
