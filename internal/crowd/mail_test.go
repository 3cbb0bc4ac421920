package crowd

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/pipeline/ingest/feed"
)

func mailWorld(t testing.TB) *World {
	return benchWorld(t, func(o *Options) { o.Mail, o.Span = 0.4, units.Duration(30*24*time.Hour) })
}

func TestMailMetricsAreThoseOfTheFeed(t *testing.T) {
	if MailMetric(Received) != feed.Metric(event.Delivered) || MailMetric(Bounced) != feed.Metric(event.Bounced) || Service != feed.Service {
		t.Errorf("%s, %s of %s", MailMetric(Received), MailMetric(Bounced), Service)
	}
}

// What follows a message has its facts and its profile, comes later, and comes once.
func TestMailHangsTogether(t *testing.T) {
	w := mailWorld(t)
	first := map[uint64]Event{} // by message
	seen := map[string]bool{}   // message and kind
	var events, about int
	var bots []time.Duration
	var human []time.Duration
	count := map[Kind]int{}
	for n := range uint64(400_000) {
		e := w.Event(n)
		if events++; e.N != n { // again
			continue
		}
		if e.Kind == Shop {
			continue
		}
		about++
		count[e.Kind]++
		if !e.Email || e.External {
			t.Fatalf("%d: mail goes to addresses: %+v", n, e)
		}
		if key := fmt.Sprint(e.Mail.Number, e.Kind); seen[key] {
			t.Fatalf("%d: a second %s of one message", n, MailMetric(e.Kind))
		} else {
			seen[key] = true
		}
		if e.Kind == Received || e.Kind == Bounced {
			if e.Mail.Number != n || !e.Mail.At.Equal(e.Time) {
				t.Fatalf("%d: %+v", n, e)
			}
			first[n] = e
			continue
		}
		d, ok := first[e.Mail.Number]
		if !ok || d.Kind != Received {
			t.Fatalf("%d: %s of a message that was not delivered", n, MailMetric(e.Kind))
		}
		if d.Profile != e.Profile || d.Inbox != e.Inbox || d.Campaign != e.Campaign || d.Mail.Flow != e.Mail.Flow || !d.Time.Equal(e.Mail.At) {
			t.Fatalf("%d: %+v\nof %+v", n, e, d)
		}
		after := e.Time.Sub(d.Time)
		if after < 0 || e.Time.After(w.o.From.Add(w.o.Span.D())) {
			t.Fatalf("%d: %s after %v", n, MailMetric(e.Kind), after)
		}
		switch {
		case e.Kind == Opened && e.Mail.Bot:
			bots = append(bots, after)
		case e.Kind == Opened:
			human = append(human, after)
		}
	}
	near := func(what string, got, want, within float64) {
		t.Helper()
		if math.Abs(got-want) > within*want {
			t.Errorf("%s: %.5f, not about %.5f", what, got, want)
		}
	}
	sent := float64(count[Received] + count[Bounced])
	near("share of mail", float64(about)/float64(events), 0.4, 0.03)
	near("bounces", float64(count[Bounced])/sent, 0.01, 0.15)
	near("opens", float64(count[Opened])/sent, 0.30, 0.05)
	near("clicks", float64(count[Clicked])/sent, 0.02, 0.15)
	near("complaints", float64(count[Complained])/sent, 0.0002, 0.7)
	near("opens by machines", float64(len(bots))/float64(count[Opened]), 0.5, 0.05)
	slices.Sort(bots)
	slices.Sort(human)
	if most := bots[len(bots)-1]; most > 5*time.Second {
		t.Errorf("a machine opened after %v", most)
	}
	if half := human[len(human)/2]; half < 30*time.Minute || half > 50*time.Minute {
		t.Errorf("half of the people opened within %v", half)
	}
}

// An event is the same whichever was asked for before, and one that is sent again is the first one.
func TestMailDependsOnItsNumber(t *testing.T) {
	w, other := mailWorld(t), mailWorld(t)
	again := 0
	for n := uint64(50_000); n > 0; n-- {
		e := w.Event(n)
		if e != other.Event(n) {
			t.Fatal(n)
		}
		if e.N != n {
			again++
			if e != w.Event(e.N) {
				t.Fatalf("%d is not %d again", n, e.N)
			}
		}
	}
	if again == 0 {
		t.Error("nothing is sent again")
	}
	plain := benchWorld(t, func(o *Options) { o.Span = units.Duration(30 * 24 * time.Hour) })
	same := 0
	for n := range uint64(10_000) {
		if e := w.Event(n); e.Kind == Shop && e == plain.Event(n) {
			same++
		}
	}
	if same < 5500 {
		t.Errorf("only %d of 10000 events are as without mail", same)
	}
}

func TestMailDocuments(t *testing.T) {
	w := mailWorld(t)
	want := map[Kind][]string{
		Received: {"Email Domain", "Inbox Provider", "Subject", "message_id", "$message"},
		Bounced:  {"Bounce Type", "Failure Type", "Failure Source", "message_id", "code", "reply"},
		Opened:   {"Machine Open", "Client Name", "message_id"},
		Clicked:  {"Bot Click", "URL", "message_id"}, Complained: {"message_id", "$message"},
	}
	ids := map[uint64]string{}
	for n := range uint64(200_000) {
		e := w.Event(n)
		if e.Kind == Shop || e.N != n || len(want[e.Kind]) == 0 {
			continue
		}
		var doc struct {
			Data struct {
				Attributes struct {
					Properties map[string]any
					Value      any
					Metric     struct {
						Data struct {
							Attributes struct{ Name, Service string }
						}
					}
				}
			}
		}
		if err := json.Unmarshal(e.AppendEvent(nil), &doc); err != nil {
			t.Fatalf("%v: %s", err, e.AppendEvent(nil))
		}
		a := doc.Data.Attributes
		if a.Value != nil || a.Metric.Data.Attributes.Name != MailMetric(e.Kind) || a.Metric.Data.Attributes.Service != Service {
			t.Fatalf("%+v", a)
		}
		for _, name := range want[e.Kind] {
			if a.Properties[name] == nil {
				t.Fatalf("%s has no %s: %v", MailMetric(e.Kind), name, a.Properties)
			}
		}
		if (a.Properties["$flow"] != nil) == (a.Properties["$campaign"] != nil) {
			t.Fatalf("neither or both of flow and campaign: %v", a.Properties)
		}
		id := a.Properties["message_id"].(string)
		if _, err := mail.ParseID(id); err != nil {
			t.Fatal(id)
		}
		if e.Kind == Received || e.Kind == Bounced {
			ids[n] = id
		} else if ids[e.Mail.Number] != id {
			t.Fatalf("%s names %s, not %s", MailMetric(e.Kind), id, ids[e.Mail.Number])
		}
		if e.Kind == Complained {
			delete(want, e.Kind) // the rarest
			break
		}
	}
	if len(want) != 4 {
		t.Error("there was no complaint")
	}
}
