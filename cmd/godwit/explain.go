package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

type explainCmd struct {
	Address explainAddressCmd `cmd:"" default:"withargs" help:"Tell how mail to an address goes: sources, limits and what set them, what is stopped."`
	Message explainMessageCmd `cmd:"" help:"Tell why a message has not left, or what became of it."`
}

type explainAddressCmd struct {
	adminFlags
	Address string `arg:"" name:"address" help:"Recipient, or only the domain."`
	Source  string `placeholder:"NAME" help:"Only this source."`
	Pool    string `placeholder:"NAME" help:"As if this pool were chosen."`
	Tenant  string `placeholder:"NAME" help:"As for mail of this tenant."`
	Stream  string `placeholder:"NAME" help:"As for mail of this stream."`
	All     bool   `help:"Show values that another block overrides too."`
}

// Help teaches by example.
func (explainAddressCmd) Help() string {
	return `First the answer in a sentence; then the site and the pool, and for each source its
health, every value in force with the place that set it, what is open and what
waits; then what is suspended or slowed, and how to lift it.

Examples:
  godwit explain jo@gmail.com
  godwit explain gmail.com --source s1 --all
  godwit explain jo@example.com --tenant acme --stream spring-sale
  godwit explain message 01890a5d-ac96-774b-bcce-b302099a8057`
}

// Run explains an address.
func (c *explainAddressCmd) Run(e *env) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	x, err := a.Explain(e.ctx, adminapi.ExplainQuery{Address: c.Address, Source: c.Source, Pool: c.Pool, Tenant: c.Tenant, Stream: c.Stream})
	if err != nil {
		return a.explain(err)
	}
	if c.JSON {
		return show.JSON(e.out, x)
	}
	p := explainPage{show.New(e.out), time.Now(), c.All}
	p.verdict(x.Verdict, !x.Stopped)
	p.path(x)
	return nil
}

type explainMessageCmd struct {
	adminFlags
	ID  string `arg:"" name:"id" help:"Id of the message."`
	All bool   `help:"Show values that another block overrides too."`
}

// Help teaches by example.
func (explainMessageCmd) Help() string {
	return `Works for messages that left too, as long as the event log keeps their events.

Example:
  godwit explain message 01890a5d-ac96-774b-bcce-b302099a8057`
}

// Run explains a message.
func (c *explainMessageCmd) Run(e *env) error {
	id, err := mail.ParseID(c.ID)
	if err != nil {
		return usageError{err}
	}
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	m, err := a.ExplainMessage(e.ctx, id)
	if err != nil {
		return a.explain(err)
	}
	if c.JSON {
		return show.JSON(e.out, m)
	}
	p := explainPage{show.New(e.out), time.Now(), c.All}
	p.verdict(m.Verdict, m.Path == nil || !m.Path.Stopped)
	p.wait(m.Wait)
	showMessage(p.Page, id, &adminapi.MessageResponse{Message: m.Message, Events: m.Events})
	if m.Path != nil {
		p.Printf("\n")
		p.path(m.Path)
	}
	return nil
}

// explainPage is where explanations go.
type explainPage struct {
	*show.Page
	now time.Time
	all bool
}

// verdict prints the sentence that people came for.
func (p *explainPage) verdict(s string, good bool) {
	s = show.Clean(s)
	if good {
		s = p.Good(s)
	} else {
		s = p.Bad(s)
	}
	p.Printf("%s\n\n", s)
}

func (p *explainPage) wait(w *adminapi.Wait) {
	if w == nil {
		return
	}
	what := map[string]string{adminapi.WaitConnect: "a connection", adminapi.WaitSend: "a message slot", adminapi.WaitTurn: "its turn",
		adminapi.WaitTenant: "its tenant's limit", adminapi.WaitRoute: "name servers"}[w.For]
	p.Pairs([2]string{"waits for", what}, [2]string{"source", w.Source}, [2]string{"limit", w.Key.String()}, [2]string{"since", show.When(w.Since, p.now)},
		[2]string{"goes on", show.When(w.Next, p.now)}, [2]string{"ahead", count(w.Ahead)}, [2]string{"told", w.Hint})
	p.Printf("\n")
}

// path prints how mail to an address goes.
func (p *explainPage) path(x *adminapi.Explanation) {
	title := x.Address
	if title == "" {
		title = x.Domain
	}
	p.Heading(show.Clean("mail to " + title))
	held := ""
	if !x.HeldUntil.IsZero() {
		held = fmt.Sprintf("until %s: %s", stamp(x.HeldUntil), x.HeldReason)
	}
	p.Pairs([2]string{"domain", x.Domain}, [2]string{"site", x.Site}, [2]string{"provider", x.Provider}, [2]string{"hosts", strings.Join(x.Hosts, ", ")},
		[2]string{"no route", x.RouteError}, [2]string{"held", held}, [2]string{"tenant", x.Tenant}, [2]string{"stream", x.Stream},
		[2]string{"pool", note(x.Pool, x.PoolOrigin)}, [2]string{"queued", p.queued(x)}, [2]string{"next attempt", stamp(x.NextDue)})
	for i := range x.Paths {
		p.source(&x.Paths[i])
	}
	if len(x.Limits) > 0 {
		p.Printf("\n")
		p.Heading("beyond sources")
		p.values(x.Limits)
		p.throttles(x.Throttles)
	}
	p.orders(x.Orders)
	p.suspensions(x.Suspensions)
}

// note is a text with another in parentheses.
func note(s, more string) string {
	if s == "" || more == "" {
		return s + more
	}
	return s + " (" + more + ")"
}

func (p *explainPage) queued(x *adminapi.Explanation) string {
	var n int64
	for _, q := range x.Queues {
		n += q.Messages
	}
	if n == 0 {
		return ""
	}
	return show.Plural(n, "message") + " in " + show.Plural(int64(len(x.Queues)), "queue")
}

// source prints one source with its values and limits.
func (p *explainPage) source(x *adminapi.Path) {
	s := &x.Source
	name := s.Name
	if name == "" {
		name = "the host's own address"
	}
	p.Printf("\n")
	p.Heading(show.Clean("source " + name))
	state := p.Good("usable")
	if !x.Usable {
		state = p.Bad(show.Clean("not usable: " + x.Why))
		if !x.Until.IsZero() {
			state += p.Bad(" (" + show.When(x.Until, p.now) + ")")
		}
	}
	p.Printf("%s\n", state)
	from := strings.TrimSpace(s.Bind + " " + s.Bind6)
	if s.Public != "" {
		from += " seen as " + s.Public
	}
	weight := count(x.Weight)
	if x.Fallback != "" {
		weight = note(weight, "fallback pool "+x.Fallback)
	}
	p.Pairs([2]string{"address", note(from, s.EHLO)}, [2]string{"proxy", note(s.Proxy, zone(s.Zone))}, [2]string{"health", health(s.State, s.Reason, s.Since, p.now)},
		[2]string{"weight", weight}, [2]string{"warm-up", s.Warmup})
	p.values(x.Values)
	p.throttles(x.Throttles)
}

func zone(s string) string {
	if s == "" {
		return ""
	}
	return "zone " + s
}

// health is "down for 3m00s: reason".
func health(state, reason string, since, now time.Time) string {
	if !since.IsZero() {
		state += " for " + show.Span(now.Sub(since))
	}
	if reason != "" {
		state += ": " + reason
	}
	return state
}

// values prints settings with where they come from.
func (p *explainPage) values(list []adminapi.Value) {
	t := &show.Table{Columns: []show.Column{{Name: "setting"}, {Name: "value"}, {Name: "in force"}, {Name: "counts over"}, {Name: "set in", Grow: true}, {Name: "lowered by", Grow: true}}}
	for _, v := range list {
		by, origin := v.By, v.Origin
		switch v.State {
		case adminapi.ValueOverridden:
			if !p.all {
				continue
			}
			origin, by = origin+"; overridden in "+by, ""
		case "beside":
			origin += "; holds beside"
		}
		if v.Order != "" {
			by += ", order " + v.Order
		}
		t.Add(v.Name, v.Value, v.InForce, v.Key.String(), origin, by)
	}
	if len(t.Rows) > 0 {
		p.Table(t)
	}
}

func (p *explainPage) throttles(list []adminapi.Throttle) {
	if len(list) > 0 {
		p.Table(throttleTable(list, p.now))
	}
}

func (p *explainPage) orders(list []adminapi.Order) {
	if len(list) == 0 {
		return
	}
	p.Printf("\n")
	p.Heading("suspended or slowed")
	p.Table(orderTable(list, p.now))
	p.Printf("%s\n", p.Dim("to lift one: godwit throttles lift ID"))
}

func (p *explainPage) suspensions(list []adminapi.Suspension) {
	if len(list) == 0 {
		return
	}
	p.Printf("\n")
	p.Heading("suspended by operators")
	p.Table(suspensionTable(list, p.now))
	p.Printf("%s\n", p.Dim("to end one: godwit queue resume ID"))
}
