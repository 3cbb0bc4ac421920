package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

type queueCmd struct {
	List        queueListCmd        `cmd:"" help:"List the scheduled queues, the longest first." group:"Look"`
	Messages    queueMessagesCmd    `cmd:"" help:"List messages in the queue." group:"Look"`
	Show        queueShowCmd        `cmd:"" help:"Tell all about a message, in the queue or gone." group:"Look"`
	Stats       queueStatsCmd       `cmd:"" help:"Tell the totals, and what is running." group:"Look"`
	Suspensions queueSuspensionsCmd `cmd:"" help:"List what is suspended." group:"Look"`
	Suspend     queueSuspendCmd     `cmd:"" help:"Stop delivery of what matches." group:"Act"`
	Resume      queueResumeCmd      `cmd:"" help:"Let suspended delivery go on." group:"Act"`
	Retry       queueRetryCmd       `cmd:"" help:"Try messages now." group:"Act"`
	Bounce      queueBounceCmd      `cmd:"" help:"End messages, with a report to each sender." group:"Act"`
	Export      queueExportCmd      `cmd:"" help:"Write messages to a file; they stay in the queue." group:"Act"`
	Import      queueImportCmd      `cmd:"" help:"Store messages that an export wrote." group:"Act"`
	Drain       queueDrainCmd       `cmd:"" help:"Accept no more mail; deliver what is there." group:"Act"`
	Undrain     queueUndrainCmd     `cmd:"" help:"Accept mail again." group:"Act"`
	Check       queueCheckCmd       `cmd:"" help:"Read the whole index of a volume that no server uses." group:"Offline"`
	Repair      queueRepairCmd      `cmd:"" help:"Rebuild the index of a volume from its segments." group:"Offline"`
}

type queueListCmd struct {
	adminFlags
	Tenant string `placeholder:"NAME" help:"Only this tenant; * and ? match any." group:"Filter"`
	Stream string `placeholder:"NAME" help:"Only this stream." group:"Filter"`
	Domain string `placeholder:"NAME" help:"Only this recipient domain." group:"Filter"`
	Site   string `placeholder:"NAME" help:"Only this site." group:"Filter"`
	State  string `enum:",suspended,held,delivering,ready,waiting" default:"" placeholder:"STATE" help:"Only this state: suspended, held, delivering, ready or waiting." group:"Filter"`
	Limit  int    `default:"100" help:"How many to list, at most 1000." group:"Filter"`
}

// Help teaches by example.
func (queueListCmd) Help() string {
	return `Examples:
  godwit queue list
  godwit queue list --domain 'example.*' --state held
  godwit queue list --admin /run/godwit/admin.sock --json`
}

// Run lists scheduled queues.
func (c *queueListCmd) Run(e *env) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	f := (&filterFlags{Tenant: c.Tenant, Stream: c.Stream, Domain: c.Domain, Site: c.Site}).filter()
	list, err := a.Queues(e.ctx, f, adminapi.Page{State: c.State, Limit: c.Limit})
	if err != nil {
		return a.explain(err)
	}
	if c.JSON {
		return show.JSON(e.out, list)
	}
	now := time.Now()
	t := &show.Table{Empty: "no queues", Columns: []show.Column{{Name: "domain"}, {Name: "tenant"}, {Name: "stream"}, {Name: "priority"},
		{Name: "messages", Right: true}, {Name: "ready", Right: true}, {Name: "in flight", Right: true},
		{Name: "state"}, {Name: "next due"}, {Name: "last reply", Grow: true}}}
	for _, q := range list.Queues {
		state := q.State
		if q.State == adminapi.QueueHeld {
			state += " until " + show.When(q.HeldUntil, now)
		}
		t.Add(q.Domain, q.Tenant, q.Stream, q.Priority, show.Count(q.Messages), count(q.Ready), count(q.InFlight), state, show.When(q.NextDue, now), q.LastReply)
	}
	page := show.New(e.out)
	page.Table(t)
	if list.Total > 0 {
		page.Printf("%s in %s", show.Plural(list.Messages, "message"), show.Plural(int64(list.Total), "queue"))
		if list.Total > len(list.Queues) {
			page.Printf("; %d listed, --limit lists more", len(list.Queues))
		}
		page.Printf("\n")
	}
	return nil
}

// count leaves a zero out of a table.
func count(n int) string {
	if n == 0 {
		return ""
	}
	return show.Count(int64(n))
}

type queueMessagesCmd struct {
	adminFlags
	filterFlags
	State string `enum:",queued,delivering,deferred,scheduled" default:"" placeholder:"STATE" help:"Only this state: queued, delivering, deferred or scheduled." group:"Filter"`
	Limit int    `default:"100" help:"How many to list; 0 for all." group:"Filter"`
}

// Help teaches by example.
func (queueMessagesCmd) Help() string {
	return `Examples:
  godwit queue messages --domain example.com --state deferred
  godwit queue messages --recipient 'jo@*' --limit 0 --json`
}

// Run lists messages, page by page.
func (c *queueMessagesCmd) Run(e *env) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	all := adminapi.MessagesResponse{Messages: []adminapi.Message{}}
	const most = 1000 // of one page
	for {
		limit := most
		if c.Limit > 0 {
			limit = min(most, c.Limit-len(all.Messages))
		}
		list, err := a.Messages(e.ctx, c.filter(), adminapi.Page{State: c.State, Limit: limit, Cursor: all.Next})
		if err != nil {
			return a.explain(err)
		}
		all.Messages, all.Next = append(all.Messages, list.Messages...), list.Next
		if all.Next == "" || c.Limit > 0 && len(all.Messages) >= c.Limit {
			break
		}
	}
	if c.JSON {
		return show.JSON(e.out, all)
	}
	now := time.Now()
	t := &show.Table{Empty: "no messages", Columns: []show.Column{{Name: "id"}, {Name: "recipient"}, {Name: "state"}, {Name: "tenant"}, {Name: "stream"},
		{Name: "attempts", Right: true}, {Name: "due"}, {Name: "last reply", Grow: true}}}
	for _, m := range all.Messages {
		t.Add(m.ID, m.Recipient, m.State, m.Tenant, m.Stream, count(m.Attempts), show.When(m.Due, now), m.LastReply)
	}
	page := show.New(e.out)
	page.Table(t)
	if all.Next != "" {
		page.Printf("there are more; --limit 0 lists all\n")
	}
	return nil
}

type queueShowCmd struct {
	adminFlags
	ID     string `arg:"" name:"id" help:"Id of the message."`
	Header bool   `help:"Show the header of its stored body too."`
	Body   bool   `help:"Write its stored body, as it is, and nothing else."`
}

// Help teaches by example.
func (queueShowCmd) Help() string {
	return `Works for messages in the queue and, as long as the event log keeps their
events, for those that were delivered or bounced.

Examples:
  godwit queue show 01890a5d-ac96-774b-bcce-b302099a8057
  godwit queue show 01890a5d-ac96-774b-bcce-b302099a8057 --body > message.eml`
}

// Run tells all about one message.
func (c *queueShowCmd) Run(e *env) error {
	id, err := mail.ParseID(c.ID)
	if err != nil {
		return usageError{err}
	}
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	if c.Body {
		_, err := a.Body(e.ctx, id, e.out)
		return a.explain(err)
	}
	m, err := a.Message(e.ctx, id, c.Header)
	if err != nil {
		return a.explain(err)
	}
	if c.JSON {
		return show.JSON(e.out, m)
	}
	showMessage(show.New(e.out), id, m)
	return nil
}

// showMessage prints a message and what happened to it.
func showMessage(p *show.Page, id mail.ID, m *adminapi.MessageResponse) {
	p.Heading("message " + id.String())
	if w := m.Message; w != nil {
		p.Pairs([2]string{"recipient", w.Recipient}, [2]string{"reverse path", "<" + w.ReversePath + ">"}, [2]string{"state", w.State},
			[2]string{"attempts", fmt.Sprint(w.Attempts)}, [2]string{"due", stamp(w.Due)}, [2]string{"expires", stamp(w.Expires)},
			[2]string{"deadline", stamp(w.Deadline)}, [2]string{"last reply", w.LastReply}, [2]string{"tenant", w.Tenant}, [2]string{"stream", w.Stream},
			[2]string{"pool", w.Pool}, [2]string{"priority", w.Priority}, [2]string{"size", show.Bytes(w.Size)}, [2]string{"batch", w.Batch},
			[2]string{"substitutions", m.Substitutions})
	} else if n := len(m.Events); n > 0 {
		last := m.Events[n-1]
		p.Pairs([2]string{"recipient", last.Recipient}, [2]string{"state", "no longer in the queue: " + last.Kind})
	}
	t := &show.Table{Empty: "no events yet", Columns: []show.Column{{Name: "time"}, {Name: "event"}, {Name: "try", Right: true}, {Name: "host"},
		{Name: "address"}, {Name: "tls"}, {Name: "took", Right: true}, {Name: "what", Grow: true}}}
	for _, v := range m.Events {
		took := ""
		if v.TookMS > 0 {
			took = fmt.Sprintf("%.1fms", v.TookMS)
		}
		t.Add(v.Time.Local().Format("15:04:05.000"), v.Kind, count(v.Attempt), v.Host, v.Address, protocol(v.TLS), took, eventText(&v))
	}
	p.Table(t)
	if m.Header != "" {
		p.Printf("\n%s\n", cleanLines(m.Header))
	}
}

// eventText is what an event says beyond its kind.
func eventText(v *adminapi.MessageEvent) string {
	switch {
	case v.Kind == "injected":
		return "by " + v.Protocol + " from " + v.Peer
	case v.Code > 0 && v.Command != "":
		return v.Command + ": " + mail.Reply{Code: v.Code, Enhanced: v.Enhanced, Text: v.Reply}.String()
	case v.Reason != "":
		return v.Reason
	}
	return mail.Reply{Code: v.Code, Enhanced: v.Enhanced, Text: v.Reply}.String()
}

// protocol leaves the cipher out: JSON has it.
func protocol(tls string) string {
	name, _, _ := strings.Cut(tls, " ")
	return name
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime) + " (" + show.When(t, time.Now()) + ")"
}

type queueStatsCmd struct{ adminFlags }

// Help teaches by example.
func (queueStatsCmd) Help() string {
	return `Example:
  godwit queue stats --json | jq .stats.messages`
}

// statsOutput is the JSON form of queue stats.
type statsOutput struct {
	Stats *adminapi.Stats `json:"stats"`
	Info  *adminapi.Info  `json:"info"`
}

// Run prints totals.
func (c *queueStatsCmd) Run(e *env) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	s, err := a.Stats(e.ctx)
	if err != nil {
		return a.explain(err)
	}
	info, err := a.Info(e.ctx)
	if err != nil {
		return a.explain(err)
	}
	if c.JSON {
		return show.JSON(e.out, statsOutput{s, info})
	}
	state := "accepting mail"
	switch {
	case s.Draining:
		state = "draining: accepts no mail; godwit queue undrain"
	case s.DiskLow:
		state = "refusing mail: the spool's disk is nearly full"
	}
	n := func(v int) string { return show.Count(int64(v)) }
	show.New(e.out).Pairs([2]string{"state", state}, [2]string{"messages", show.Count(s.Messages)}, [2]string{"in memory", n(s.InMemory)},
		[2]string{"queues", n(s.Queues)}, [2]string{"sites", n(s.Sites)}, [2]string{"connections", n(s.Connections)},
		[2]string{"suspensions", n(s.Suspended)}, [2]string{"bodies in memory", show.Bytes(s.BodyBytes)}, [2]string{"index", show.Bytes(s.IndexBytes)},
		[2]string{"segments", show.Bytes(s.SegmentBytes)}, [2]string{"records", show.Count(s.Records)}, [2]string{"durable writes", show.Count(s.Syncs)},
		[2]string{"volume", s.VolumeID}, [2]string{"hostname", info.Hostname}, [2]string{"version", info.Version + " (" + info.Go + ")"},
		[2]string{"process", fmt.Sprintf("%d, running for %s", info.PID, show.Span(time.Since(info.Started)))},
		[2]string{"configuration", fmt.Sprintf("%s, loaded %s", info.ConfigFile, show.When(info.ConfigLoaded, time.Now()))}, [2]string{"digest", info.ConfigDigest})
	return nil
}

// cleanLines cleans every line of a text.
func cleanLines(s string) string {
	lines := strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	for i, l := range lines {
		lines[i] = show.Clean(l)
	}
	return strings.Join(lines, "\n")
}
