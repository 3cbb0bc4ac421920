package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

type queueDrainCmd struct {
	adminFlags
	Handoff bool     `help:"Hand the queue to other members of the cluster too, and show how far it is."`
	To      []string `placeholder:"NAME" help:"Hand it to these members only; several with commas." group:"Handoff"`
	NoWait  bool     `help:"Do not wait until everything is handed over; it goes on." group:"Handoff"`
	Status  bool     `help:"Only tell how far a handoff is." group:"Handoff"`
}

// Help teaches by example.
func (queueDrainCmd) Help() string {
	return `SMTP clients get 421, HTTP clients 503, /readyz fails; delivery goes on. With --handoff
other members of the cluster take the messages that wait, so that the node can
leave. It goes on when this command is interrupted, and after a restart, until
it is done or godwit queue undrain stops it.

Examples:
  godwit queue drain && godwit queue stats
  godwit queue drain --handoff
  godwit queue drain --handoff --to mta2,mta3
  godwit queue drain --status`
}

// handoffPoll is how often progress is asked for.
const handoffPoll = 500 * time.Millisecond

// Run drains, and hands the queue over if that is wanted.
func (c *queueDrainCmd) Run(e *env) error {
	switch {
	case c.Status && (c.Handoff || c.NoWait || len(c.To) > 0):
		return usageError{errors.New("--status does not go with other flags")}
	case !c.Handoff && (c.NoWait || len(c.To) > 0):
		return usageError{errors.New("--to and --no-wait go with --handoff")}
	case !c.Handoff && !c.Status:
		return c.drain(e, true)
	}
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	if c.Status {
		s, err := a.HandoffStatus(e.ctx)
		if err != nil {
			return a.explain(err)
		}
		return c.report(e, s)
	}
	if _, err := a.Drain(e.ctx, true); err != nil {
		return a.explain(err)
	}
	s, err := a.StartHandoff(e.ctx, adminapi.HandoffRequest{To: c.To})
	if err != nil {
		return a.explain(err)
	}
	if !c.NoWait {
		if s, err = c.follow(e, a, s); err != nil {
			return err
		}
	}
	return c.report(e, s)
}

// follow shows progress until the handoff ends.
func (c *queueDrainCmd) follow(e *env, a *admin, s *adminapi.HandoffStatus) (*adminapi.HandoffStatus, error) {
	page := show.New(e.errOut)
	defer page.Clear()
	tick := time.NewTicker(handoffPoll)
	defer tick.Stop()
	for s.State == adminapi.HandoffRunning {
		page.Draw(handoffLines(s))
		select {
		case <-e.ctx.Done():
			return nil, errors.New("interrupted; the handoff goes on: godwit queue drain --status")
		case <-tick.C:
		}
		next, err := a.HandoffStatus(e.ctx)
		if err != nil {
			return nil, a.explain(err)
		}
		s = next
	}
	return s, nil
}

// handoffLines are the progress of a handoff.
func handoffLines(s *adminapi.HandoffStatus) []string {
	lines := []string{bar(s.Total-s.Left, s.Total, 40) + " " + handoffText(s)}
	for _, t := range s.Targets {
		lines = append(lines, "  "+show.Clean(note(t.Name+": "+show.Plural(t.Messages, "message"), t.State)))
	}
	if s.Error != "" {
		lines = append(lines, "  "+show.Clean(s.Error)+"; it is tried again")
	}
	return lines
}

// bar is a progress bar: [#####-----].
func bar(done, total int64, width int) string {
	full := width
	if total > 0 {
		full = int(float64(width) * min(1, max(0, float64(done)/float64(total))))
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", width-full) + "]"
}

func handoffText(s *adminapi.HandoffStatus) string {
	parts := []string{show.Count(s.Moved) + " moved"}
	if s.Delivered > 0 {
		parts = append(parts, show.Count(s.Delivered)+" ended here")
	}
	parts = append(parts, show.Count(s.Left)+" left")
	if s.Delivering > 0 {
		parts = append(parts, show.Count(s.Delivering)+" being delivered")
	}
	if s.Rate > 0 {
		parts = append(parts, fmt.Sprintf("%.0f/s", s.Rate))
		if s.State == adminapi.HandoffRunning {
			parts = append(parts, "about "+show.Span(time.Duration(float64(s.Left)/s.Rate)*time.Second))
		}
	}
	return strings.Join(parts, ", ")
}

// report prints how a handoff stands. One that stopped with messages left is a failure.
func (c *queueDrainCmd) report(e *env, s *adminapi.HandoffStatus) error {
	if c.JSON {
		if err := show.JSON(e.out, s); err != nil {
			return err
		}
	} else {
		text := map[string]string{adminapi.HandoffNone: "no handoff was begun", adminapi.HandoffRunning: "handing over: ",
			adminapi.HandoffDone: "handed over: ", adminapi.HandoffStopped: "stopped: "}[s.State]
		if s.State != adminapi.HandoffNone {
			text += handoffText(s)
		}
		p := show.New(e.out)
		p.Printf("%s\n", text)
		for _, l := range handoffLines(s)[1:] {
			p.Printf("%s\n", l)
		}
	}
	if s.State == adminapi.HandoffStopped && s.Left > 0 && !c.Status {
		return fmt.Errorf("the handoff was stopped with %s left", show.Plural(s.Left, "message"))
	}
	return nil
}

type queueUndrainCmd struct{ adminFlags }

// Help teaches by example.
func (queueUndrainCmd) Help() string {
	return `Stops a handoff too; what was handed over stays with the others.

Example:
  godwit queue undrain`
}

// Run takes mail again.
func (c *queueUndrainCmd) Run(e *env) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	if err := stopHandoff(e, a); err != nil {
		return err
	}
	return c.drain(e, false)
}

// stopHandoff ends a handoff that runs; a server without a cluster has none.
func stopHandoff(e *env, a *admin) error {
	s, err := a.HandoffStatus(e.ctx)
	if notConfigured(err) {
		return nil
	}
	if err == nil && s.State == adminapi.HandoffRunning {
		_, err = a.StopHandoff(e.ctx)
	}
	return a.explain(err)
}
