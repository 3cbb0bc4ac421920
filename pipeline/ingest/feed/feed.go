// Package feed brings what the delivery engine has to tell into the pipeline: a message that was sent,
// delivered, deferred or bounced is an event of its recipient like any other one.
//
// A Feed reads the event log from a cursor of its own. Of each batch it first writes down what its messages
// are about (Store), so that later events that name them can be completed; then it puts the events
// through the door; then it commits the cursor. After a crash between any two of these a batch comes
// again, with the same unique ids, and counts once.
package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/identity"
	"github.com/godwit-mta/godwit/pipeline/ingest"
)

// Service is that of the metrics of mail.
const Service = "godwit"

// Options are what a configuration file can set.
type Options struct {
	Kinds []string `toml:"kinds" doc:"Kinds of delivery events that become events of profiles: injected (Sent Email), delivered (Received Email), deferred (Deferred Email), bounced and expired (Bounced Email)."`
}

// DefaultOptions take all but deferrals, which a message can have many of.
func DefaultOptions() Options {
	return Options{Kinds: []string{string(event.Injected), string(event.Delivered), string(event.Bounced), string(event.Expired)}}
}

// Metric is the name of the metric that a kind of event counts for; "" if it counts for none.
func Metric(k event.Kind) string {
	switch k {
	case event.Injected:
		return "Sent Email"
	case event.Delivered:
		return "Received Email"
	case event.Deferred:
		return "Deferred Email"
	case event.Bounced, event.Expired:
		return "Bounced Email"
	}
	return ""
}

// Validate returns an error that begins with the key at fault.
func (o Options) Validate() error {
	for _, k := range o.Kinds {
		if Metric(event.Kind(k)) == "" {
			return fmt.Errorf("kinds: %q is not one of injected, delivered, deferred, bounced, expired", k)
		}
	}
	return nil
}

// Door is what a Feed needs of an ingest.Door.
type Door interface {
	Complete(in *fact.Intake) error
	Put(ctx context.Context, all []*fact.Intake) (ingest.Position, error)
}

// Deps are what a Feed works with.
type Deps struct {
	Cursor     *event.Cursor // of the event log, for this feed alone
	Door       Door
	Messages   *Store                   // nil: messages are not written down
	Tenant     func(tenant string) bool // whether the pipeline has the tenant; nil: all but ""
	Now        func() time.Time         // nil: time.Now
	Registerer prometheus.Registerer    // nil: no metrics
	Logger     *slog.Logger             // nil: discard
}

// Feed is made by New and works in Run.
type Feed struct {
	kinds map[event.Kind]bool
	d     Deps
	taken prometheus.Counter
	left  *prometheus.CounterVec
	fails prometheus.Counter

	expired time.Time
}

// New returns a feed.
func New(o Options, d Deps) (*Feed, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if d.Cursor == nil || d.Door == nil {
		return nil, errors.New("feed: needs a cursor and a door")
	}
	if d.Tenant == nil {
		d.Tenant = func(tenant string) bool { return tenant != "" }
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Feed{
		kinds: map[event.Kind]bool{}, d: d,
		taken: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_feed_events_total",
			Help: "Delivery events that became events of profiles.",
		}),
		left: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_feed_left_total",
			Help: "Delivery events that did not become events of profiles: of a kind or tenant that is not taken, with a recipient that cannot be a profile's address, or unreadable. The last two should be rare.",
		}, []string{"why"}),
		fails: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_feed_failures_total",
			Help: "Failures of bringing delivery events into the pipeline. They are tried again until it works, and nothing is lost while the event log has room.",
		}),
	}
	for _, k := range o.Kinds {
		f.kinds[event.Kind(k)] = true
	}
	if d.Registerer != nil {
		if err := errors.Join(d.Registerer.Register(f.taken), d.Registerer.Register(f.left), d.Registerer.Register(f.fails)); err != nil {
			return nil, err
		}
	}
	return f, nil
}

const retryEvery = time.Second

// Run works until ctx ends. What fails is tried again; Run never stops for it.
func (f *Feed) Run(ctx context.Context) error {
	for {
		err := f.next(ctx)
		if ctx.Err() != nil {
			return f.d.Cursor.Save()
		}
		if err == nil {
			continue
		}
		f.fails.Inc()
		f.d.Logger.Error("delivery events cannot enter the pipeline; trying again", "error", err)
		f.d.Cursor.Rewind()
		select {
		case <-ctx.Done():
		case <-time.After(retryEvery):
		}
	}
}

// next takes one batch in.
func (f *Feed) next(ctx context.Context) error {
	b, err := f.d.Cursor.Next(ctx)
	if err != nil {
		return err
	}
	var known []Entry
	var all []*fact.Intake
	for _, line := range b.Lines {
		var e event.Event
		if err := json.Unmarshal(line, &e); err != nil {
			f.leave("unreadable")
			continue
		}
		if e.Kind == event.Gap {
			f.d.Logger.Error("delivery events were lost before the pipeline had them", "events", e.GapEvents, "reason", e.Reason)
			continue
		}
		if Metric(e.Kind) == "" || !f.d.Tenant(e.Tenant) {
			f.leave("not taken")
			continue
		}
		m := About(&e)
		if !e.Message.IsZero() {
			known = append(known, Entry{e.Tenant, e.Message, m})
		}
		if !f.kinds[e.Kind] {
			f.leave("not taken")
			continue
		}
		in, err := f.record(&e, &m)
		if err != nil {
			f.leave("recipient")
			continue
		}
		all = append(all, in)
	}
	if err := f.keep(known); err != nil {
		return err
	}
	if len(all) > 0 {
		if _, err := f.d.Door.Put(ctx, all); err != nil {
			return err
		}
	}
	f.taken.Add(float64(len(all)))
	f.d.Cursor.Commit(b.Next)
	return nil
}

func (f *Feed) leave(why string) { f.left.WithLabelValues(why).Inc() }

// keep writes down what messages are about. Of several entries of one message the last has the most.
func (f *Feed) keep(known []Entry) error {
	if f.d.Messages == nil {
		return nil
	}
	last := map[mail.ID]int{}
	short := known[:0]
	for _, e := range known {
		if i, ok := last[e.ID]; ok {
			short[i] = e
			continue
		}
		last[e.ID] = len(short)
		short = append(short, e)
	}
	now := f.d.Now()
	if err := f.d.Messages.Put(now, short); err != nil {
		return err
	}
	if now.Sub(f.expired) < time.Hour {
		return nil
	}
	f.expired = now
	return f.d.Messages.Expire(now)
}

// Tags of a message that say what it is about. All others become properties under their own name.
const (
	TagCampaign     = "campaign"
	TagCampaignName = "campaign_name"
	TagFlow         = "flow"
	TagMessage      = "message"
	TagMessageName  = "message_name"
	TagVariation    = "variation"
	TagSubject      = "subject"
)

// About is what an event tells of its message.
func About(e *event.Event) ingest.Message {
	m := ingest.Message{Domain: e.Domain, Provider: e.Provider}
	for _, t := range e.Tags {
		if to := field(&m, t.Name); to != nil {
			*to = t.Value
		}
	}
	return m
}

// field is where a tag of that name goes; nil if it is a property like others.
func field(m *ingest.Message, tag string) *string {
	switch tag {
	case TagCampaign:
		return &m.Campaign
	case TagCampaignName:
		return &m.CampaignName
	case TagFlow:
		return &m.Flow
	case TagMessage:
		return &m.Message
	case TagMessageName:
		return &m.MessageName
	case TagVariation:
		return &m.Variation
	case TagSubject:
		return &m.Subject
	}
	return nil
}

// record is the pipeline's event for one of the engine.
func (f *Feed) record(e *event.Event, m *ingest.Message) (*fact.Intake, error) {
	address, err := identity.Email(e.Recipient)
	if err != nil {
		return nil, err
	}
	in := &fact.Intake{
		Kind: fact.KindEvent, Tenant: e.Tenant,
		Who: []fact.Identifier{{Kind: fact.ByEmail, Value: address}},
		Event: &fact.Event{
			Service: Service, Name: Metric(e.Kind), Time: e.Time.Truncate(time.Millisecond), UID: e.ID,
			Properties: properties(e, m),
		},
	}
	return in, f.d.Door.Complete(in)
}

// maxReply bounds a reply's text among the properties, in bytes.
const maxReply = 1000

// properties tell what happened, as JSON.
func properties(e *event.Event, m *ingest.Message) []byte {
	o := object{b: m.AppendProperties([]byte{'{'}), names: map[string]bool{}}
	o.text("message_id", e.Message.String())
	o.text("Stream", e.Stream)
	switch e.Kind {
	case event.Bounced, event.Expired:
		o.text("Bounce Type", bounceType(e))
		o.text("Failure Type", e.Class)
	case event.Deferred:
		o.text("Failure Type", e.Class)
	}
	o.text("Failure Source", failureSource(e))
	if e.Attempt > 0 {
		o.number("attempt", e.Attempt)
	}
	if e.Code > 0 {
		o.number("code", e.Code)
	}
	o.text("enhanced", e.Enhanced)
	o.text("reply", cut(e.Reply, maxReply))
	o.text("reason", cut(e.Reason, maxReply))
	var known ingest.Message
	for _, t := range e.Tags {
		if field(&known, t.Name) == nil {
			o.text(t.Name, t.Value)
		}
	}
	return o.close()
}

// bounceType is Hard if the address or its domain is the reason, as far as the reply tells: then nothing
// that is sent there later will arrive either. All else is Soft.
func bounceType(e *event.Event) string {
	hard := e.Kind == event.Bounced && (e.Class == "dns" ||
		e.Class == "smtp" && e.Code >= 500 && (e.Enhanced == "" || len(e.Enhanced) > 4 && e.Enhanced[:4] == "5.1."))
	if hard {
		return "Hard"
	}
	return "Soft"
}

// failureSource is who refused, if there was a reply.
func failureSource(e *event.Event) string {
	if e.Kind == event.Delivered || e.Kind == event.Injected || e.Code == 0 {
		return ""
	}
	return e.Host
}

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// object appends members, the first of a name.
type object struct {
	b     []byte
	names map[string]bool
}

func (o *object) name(name string) bool {
	if name == "" || o.names[name] {
		return false
	}
	o.names[name] = true
	text, err := json.Marshal(name)
	if err != nil {
		return false
	}
	o.b = append(append(o.b, text...), ':')
	return true
}

func (o *object) text(name, value string) {
	if value == "" || !o.name(name) {
		return
	}
	text, err := json.Marshal(value)
	if err != nil {
		text = []byte(`""`)
	}
	o.b = append(append(o.b, text...), ',')
}

func (o *object) number(name string, value int) {
	if o.name(name) {
		o.b = append(strconv.AppendInt(o.b, int64(value), 10), ',')
	}
}

func (o *object) close() []byte {
	if o.b[len(o.b)-1] == ',' {
		o.b = o.b[:len(o.b)-1]
	}
	return append(o.b, '}')
}
