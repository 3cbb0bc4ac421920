package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

// counted is the JSON form of an action.
type counted struct {
	Count int `json:"count"`
}

// told prints how much an action did.
func told(e *env, asJSON bool, n int, verb, noun string) error {
	if asJSON {
		return show.JSON(e.out, counted{n})
	}
	_, err := fmt.Fprintf(e.out, "%s %s\n", verb, show.Plural(int64(n), noun))
	return err
}

type queueSuspensionsCmd struct{ adminFlags }

// Help teaches by example.
func (queueSuspensionsCmd) Help() string {
	return `Example:
  godwit queue suspensions`
}

// Run lists suspensions.
func (c *queueSuspensionsCmd) Run(e *env) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	list, err := a.Suspensions(e.ctx)
	if err != nil {
		return a.explain(err)
	}
	if c.JSON {
		return show.JSON(e.out, adminapi.SuspensionsResponse{Suspensions: list})
	}
	show.New(e.out).Table(suspensionTable(list, time.Now()))
	return nil
}

func suspensionTable(list []adminapi.Suspension, now time.Time) *show.Table {
	t := &show.Table{Empty: "nothing is suspended", Columns: []show.Column{{Name: "id"}, {Name: "what"}, {Name: "since"}, {Name: "ends"}, {Name: "reason", Grow: true}}}
	for _, x := range list {
		t.Add(x.ID, filterText(x.Filter), show.When(x.Created, now), show.When(x.Until, now), x.Reason)
	}
	return t
}

func filterText(f adminapi.Filter) string {
	s := ""
	for _, p := range [][2]string{{"tenant", f.Tenant}, {"stream", f.Stream}, {"domain", f.Domain}, {"site", f.Site}, {"recipient", f.Recipient}} {
		if p[1] != "" {
			s += " " + p[0] + "=" + p[1]
		}
	}
	if s == "" {
		return "everything"
	}
	return s[1:]
}

type queueSuspendCmd struct {
	adminFlags
	Tenant   string         `placeholder:"NAME" help:"This tenant; * and ? match any." group:"Filter"`
	Stream   string         `placeholder:"NAME" help:"This stream." group:"Filter"`
	Domain   string         `placeholder:"NAME" help:"This recipient domain." group:"Filter"`
	Site     string         `placeholder:"NAME" help:"This site." group:"Filter"`
	Source   string         `placeholder:"NAME" help:"Only from this source; then names are exact and it holds in the whole cluster, as godwit throttles suspend." group:"Filter"`
	Pool     string         `placeholder:"NAME" help:"Only from this pool; likewise." group:"Filter"`
	Provider string         `placeholder:"NAME" help:"Only to this provider; likewise." group:"Filter"`
	All      bool           `help:"Really everything." group:"Filter"`
	For      units.Duration `placeholder:"TIME" help:"Go on by itself after this time, such as 30m or 2d; until resumed by default."`
	Reason   string         `placeholder:"TEXT" help:"Why, for others to read."`
}

// Help teaches by example.
func (queueSuspendCmd) Help() string {
	return `Messages are still accepted, and those under way are finished. It survives a restart.

Examples:
  godwit queue suspend --domain example.com --for 1h --reason 'they have a problem'
  godwit queue suspend --tenant acme --stream spring-sale
  godwit queue suspend --source s1 --provider google --for 2h
  godwit queue suspend --all`
}

// Run suspends.
func (c *queueSuspendCmd) Run(e *env) error {
	if c.Source+c.Pool+c.Provider != "" {
		return c.order(e)
	}
	f, err := (&actionFlags{filterFlags: filterFlags{Tenant: c.Tenant, Stream: c.Stream, Domain: c.Domain, Site: c.Site}, All: c.All}).filter()
	if err != nil {
		return err
	}
	if c.For < 0 {
		return usageError{errors.New("--for: must be positive")}
	}
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	var until time.Time
	if c.For > 0 {
		until = time.Now().Add(c.For.D())
	}
	x, err := a.Suspend(e.ctx, f, until, c.Reason)
	if err != nil {
		return a.explain(err)
	}
	if c.JSON {
		return show.JSON(e.out, x)
	}
	end := "until resumed"
	if !x.Until.IsZero() {
		end = "until " + stamp(x.Until)
	}
	_, err = fmt.Fprintf(e.out, "suspended %s %s\nto end it: godwit queue resume %s\n", show.Clean(filterText(x.Filter)), end, x.ID)
	return err
}

// order suspends what queues do not know of: sources, pools and providers.
func (c *queueSuspendCmd) order(e *env) error {
	if c.All {
		return usageError{errors.New("--all does not go with other filters")}
	}
	f := orderFlags{Stream: c.Stream, For: c.For, Reason: c.Reason,
		scopeFlags: scopeFlags{Source: c.Source, Pool: c.Pool, Tenant: c.Tenant, Provider: c.Provider, Site: c.Site, Domain: c.Domain}}
	r, err := f.request(adminapi.ActionSuspend)
	if err != nil {
		return err
	}
	return c.set(e, r)
}

type queueResumeCmd struct {
	adminFlags
	IDs    []string `arg:"" optional:"" name:"id" help:"Ids of suspensions, as godwit queue suspensions lists them."`
	Tenant string   `placeholder:"NAME" help:"Suspensions of this tenant." group:"Filter"`
	Stream string   `placeholder:"NAME" help:"Suspensions of this stream." group:"Filter"`
	Domain string   `placeholder:"NAME" help:"Suspensions of this recipient domain." group:"Filter"`
	Site   string   `placeholder:"NAME" help:"Suspensions of this site." group:"Filter"`
	All    bool     `help:"Every suspension." group:"Filter"`
}

// Help teaches by example.
func (queueResumeCmd) Help() string {
	return `Examples:
  godwit queue resume 01890a5d-ac96-774b-bcce-b302099a8057
  godwit queue resume --domain example.com
  godwit queue resume --all`
}

// Run resumes by id or by what the suspensions stop.
func (c *queueResumeCmd) Run(e *env) error {
	chosen := actionFlags{filterFlags: filterFlags{Tenant: c.Tenant, Stream: c.Stream, Domain: c.Domain, Site: c.Site}, All: c.All}
	if len(c.IDs) > 0 && chosen != (actionFlags{}) {
		return usageError{errors.New("give ids or a filter, not both")}
	}
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	if len(c.IDs) == 0 {
		f, err := chosen.filter()
		if err != nil {
			return err
		}
		n, err := a.ResumeMatching(e.ctx, f)
		if err != nil {
			return a.explain(err)
		}
		return told(e, c.JSON, n, "ended", "suspension")
	}
	for _, id := range c.IDs {
		if err := a.Resume(e.ctx, id); err != nil {
			return fmt.Errorf("%s: %w", id, a.explain(err))
		}
	}
	return told(e, c.JSON, len(c.IDs), "ended", "suspension")
}

type queueRetryCmd struct {
	adminFlags
	actionFlags
}

// Help teaches by example.
func (queueRetryCmd) Help() string {
	return `Makes waiting messages due now, and lets sites that could not be reached be tried at once.

Examples:
  godwit queue retry --domain example.com
  godwit queue retry --all`
}

// Run makes messages due.
func (c *queueRetryCmd) Run(e *env) error {
	f, err := c.actionFlags.filter()
	if err != nil {
		return err
	}
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	n, err := a.Retry(e.ctx, f)
	if err != nil {
		return a.explain(err)
	}
	return told(e, c.JSON, n, "made due", "message")
}

type queueBounceCmd struct {
	adminFlags
	actionFlags
	Reason string `placeholder:"TEXT" help:"Why; senders get to read it."`
}

// Help teaches by example.
func (queueBounceCmd) Help() string {
	return `Ends messages; each sender gets a report (DSN), unless the reverse path is null.
Messages being delivered at this moment are left alone.

Examples:
  godwit queue bounce --recipient jo@example.com --reason 'mailbox is closed'
  godwit queue bounce --tenant acme --stream spring-sale`
}

// Run bounces messages.
func (c *queueBounceCmd) Run(e *env) error {
	f, err := c.actionFlags.filter()
	if err != nil {
		return err
	}
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	n, err := a.Bounce(e.ctx, f, c.Reason)
	if err != nil {
		return a.explain(err)
	}
	return told(e, c.JSON, n, "bounced", "message")
}

type queueExportCmd struct {
	adminFlags
	actionFlags
	Out string `short:"o" type:"path" placeholder:"FILE" help:"File to write; standard output by default."`
}

// Help teaches by example.
func (queueExportCmd) Help() string {
	return `Writes envelopes and bodies as JSON lines (docs/formats/export.md). To move
messages to another server: suspend, export, import there, bounce here.

Example:
  godwit queue export --tenant acme -o acme.ndjson`
}

// Run exports; a file appears whole or not at all.
func (c *queueExportCmd) Run(e *env) error {
	f, err := c.actionFlags.filter()
	if err != nil {
		return err
	}
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	if c.Out == "" {
		n, err := a.Export(e.ctx, f, e.out)
		if err == nil {
			fmt.Fprintf(e.errOut, "exported %s\n", show.Plural(int64(n), "message"))
		}
		return a.explain(err)
	}
	part := c.Out + ".part"
	file, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) // bodies are confidential
	if err != nil {
		return err
	}
	n, err := a.Export(e.ctx, f, file)
	err = errors.Join(a.explain(err), file.Sync(), file.Close())
	if err != nil {
		return errors.Join(err, os.Remove(part))
	}
	if err := os.Rename(part, c.Out); err != nil {
		return err
	}
	return told(e, c.JSON, n, "exported", "message")
}

type queueImportCmd struct {
	adminFlags
	File string `arg:"" optional:"" help:"File that an export wrote; standard input by default."`
}

// Help teaches by example.
func (queueImportCmd) Help() string {
	return `Messages keep their ids, attempts and due times; those already in the queue are skipped,
so it may be repeated.

Example:
  godwit queue import acme.ndjson`
}

// Run imports.
func (c *queueImportCmd) Run(e *env) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	var in io.Reader = os.Stdin
	if c.File != "" && c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return usageError{err}
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	done, err := a.Import(e.ctx, io.NopCloser(in))
	if err != nil {
		return a.explain(err)
	}
	if c.JSON {
		return show.JSON(e.out, done)
	}
	_, err = fmt.Fprintf(e.out, "stored %s; %d were in the queue before\n", show.Plural(int64(done.Stored), "message"), done.Known)
	return err
}

func (f *adminFlags) drain(e *env, on bool) error {
	a, err := f.client()
	if err != nil {
		return err
	}
	defer a.Close()
	s, err := a.Drain(e.ctx, on)
	if err != nil {
		return a.explain(err)
	}
	if f.JSON {
		return show.JSON(e.out, s)
	}
	text := "accepting mail again"
	if on {
		text = "accepting no more mail"
	}
	_, err = fmt.Fprintf(e.out, "%s; %s in the queue\n", text, show.Plural(s.Messages, "message"))
	return err
}
