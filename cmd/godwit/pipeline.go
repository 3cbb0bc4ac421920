package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

type pipelineCmd struct {
	Status   pipelineStatusCmd   `cmd:"" default:"withargs" help:"Tell how far the consumers are."`
	Stop     pipelineStopCmd     `cmd:"" help:"Stop a consumer; what comes in waits in the log."`
	Start    pipelineStartCmd    `cmd:"" help:"Start a consumer that was stopped."`
	Snapshot pipelineSnapshotCmd `cmd:"" help:"Take snapshots of a consumer's state now."`
	Rebuild  pipelineRebuildCmd  `cmd:"" help:"Rebuild a consumer's state from the newest snapshot and the log."`
	Skip     pipelineSkipCmd     `cmd:"" help:"Skip the record that a consumer is stuck at, for good."`
	Check    pipelineCheckCmd    `cmd:"" help:"Count everything again from the log and compare; the server must be stopped."`
}

// Help teaches by example.
func (pipelineCmd) Help() string {
	return `Examples:
  godwit pipeline
  godwit pipeline stop account
  godwit pipeline rebuild customer --partition 2
  godwit pipeline check -c godwit.toml`
}

type pipelineStatusCmd struct{ adminFlags }

// Run lists consumers with their lags.
func (c *pipelineStatusCmd) Run(e *env) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	st, err := a.Pipeline(e.ctx)
	if err != nil {
		return a.explain(err)
	}
	return showPipeline(e, st, c.JSON)
}

func showPipeline(e *env, st *adminapi.PipelineStatus, asJSON bool) error {
	if asJSON {
		return show.JSON(e.out, st)
	}
	p := show.New(e.out)
	t := &show.Table{Columns: []show.Column{{Name: "consumer"}, {Name: "partition", Right: true}, {Name: "state"}, {Name: "lag", Right: true},
		{Name: "behind", Right: true}, {Name: "applied", Right: true}, {Name: "snapshot"}, {Name: "error", Grow: true}}}
	now := time.Now()
	var bad []bool
	for _, c := range st.Consumers {
		state := "running"
		if !c.Running {
			state = "stopped"
		}
		for _, x := range c.Partitions {
			snapshot := "none"
			if !x.Snapshot.IsZero() {
				snapshot = show.When(x.Snapshot, now)
			}
			if x.Elsewhere {
				t.Add(c.Name, fmt.Sprint(x.Partition), "at "+cmp.Or(x.Node, "no node"), "", "", "", "", "")
				bad = append(bad, x.Node == "")
				continue
			}
			t.Add(c.Name, fmt.Sprint(x.Partition), state, show.Count(x.Lag), show.Span(time.Duration(x.Seconds*float64(time.Second))), show.Count(x.Applied), snapshot, troubles(x))
			bad = append(bad, x.Error != "" || !c.Running)
		}
		if len(c.Partitions) == 0 {
			t.Add(c.Name, "-", state, "", "", "", "", "")
			bad = append(bad, !c.Running)
		}
	}
	tinted(p, t, bad)
	showErasure(p, st.Erasure, now)
	return nil
}

// troubles is what the operator has to know of a partition.
func troubles(x adminapi.ConsumerPartition) string {
	var all []string
	if x.StuckAt != nil {
		all = append(all, fmt.Sprintf("stuck at offset %d", *x.StuckAt))
	}
	if x.Error != "" {
		all = append(all, x.Error)
	}
	if len(x.Skipped) > 0 {
		all = append(all, fmt.Sprintf("skips %s", strings.Trim(fmt.Sprint(x.Skipped), "[]")))
	}
	return strings.Join(all, "; ")
}

// showErasure tells of deletions that wait for being erased, if there are any, and of the last pass.
func showErasure(p *show.Page, s *adminapi.PipelineErasure, now time.Time) {
	if s == nil || s.Waiting == 0 && s.Last.IsZero() {
		return
	}
	text := "nothing waits"
	if s.Waiting > 0 {
		text = fmt.Sprintf("%s wait, the oldest since %s, to be erased by %s", show.Count(int64(s.Waiting)), show.When(s.Oldest, now), show.When(s.Due, now))
	}
	if s.Running {
		text += "; a pass is " + s.Doing
	}
	if !s.Last.IsZero() {
		text += fmt.Sprintf("; last pass %s, in %s: %s profiles, %s records", show.When(s.Last, now), show.Span(time.Duration(s.Seconds*float64(time.Second))), show.Count(int64(s.Profiles)), show.Count(int64(s.Records)))
		if len(s.Compacted) > 0 {
			text += ", files of " + strings.Join(s.Compacted, " and ")
		}
	}
	p.Printf("erasing deleted profiles: %s\n", text)
	if s.Error != "" {
		p.Printf("%s\n", p.Bad("the last pass could not be finished: "+s.Error))
	}
}

// actFlags are what the commands that act have in common.
type actFlags struct {
	adminFlags
	Consumer string `arg:"" enum:"identity,customer,account,warehouse" help:"identity, customer, account or warehouse."`
}

// act asks the server and shows what came of it.
func (f *actFlags) act(e *env, action string, partition *int) error {
	return f.ask(e, adminapi.PipelineAct{Consumer: f.Consumer, Action: action, Partition: partition})
}

func (f *actFlags) ask(e *env, r adminapi.PipelineAct) error {
	a, err := f.client()
	if err != nil {
		return err
	}
	defer a.Close()
	st, err := a.ActOnConsumer(e.ctx, r)
	if err != nil {
		return a.explain(err)
	}
	return showPipeline(e, st, f.JSON)
}

type pipelineStopCmd struct{ actFlags }

// Run stops a consumer.
func (c *pipelineStopCmd) Run(e *env) error { return c.act(e, adminapi.ActStop, nil) }

type pipelineStartCmd struct{ actFlags }

// Run starts a consumer.
func (c *pipelineStartCmd) Run(e *env) error { return c.act(e, adminapi.ActStart, nil) }

type pipelineSnapshotCmd struct {
	actFlags
	Partition *int `help:"Only this partition." placeholder:"N"`
}

// Run takes snapshots.
func (c *pipelineSnapshotCmd) Run(e *env) error { return c.act(e, adminapi.ActSnapshot, c.Partition) }

type pipelineRebuildCmd struct {
	actFlags
	Partition *int `help:"Only this partition." placeholder:"N"`
}

// Run rebuilds state.
func (c *pipelineRebuildCmd) Run(e *env) error { return c.act(e, adminapi.ActRebuild, c.Partition) }

type pipelineSkipCmd struct {
	actFlags
	Partition int   `arg:"" help:"Partition of its input."`
	Offset    int64 `arg:"" help:"Offset of the record, as godwit pipeline tells it."`
}

// Run skips a record.
func (c *pipelineSkipCmd) Run(e *env) error {
	return c.ask(e, adminapi.PipelineAct{Consumer: c.Consumer, Action: adminapi.ActSkip, Partition: &c.Partition, Offset: &c.Offset})
}

// Help teaches by example.
func (pipelineSkipCmd) Help() string {
	return `A record that cannot be applied holds its partition of that consumer; other consumers go on. First look for the reason: after
a fix or an upgrade the consumer goes on by itself, and nothing is lost. Skipping is for good: what the record says is missing from this
consumer's state, also after a rebuild. It is refused unless the consumer is stuck at exactly this record.

Example:
  godwit pipeline skip account 2 71833`
}

// Help teaches by example.
func (pipelineStatusCmd) Help() string {
	return `Examples:
  godwit pipeline status
  godwit pipeline --json`
}

// Help teaches by example.
func (pipelineStopCmd) Help() string {
	return `The others go on. It starts again with the server.

Example:
  godwit pipeline stop account`
}

// Help teaches by example.
func (pipelineStartCmd) Help() string {
	return `Example:
  godwit pipeline start account`
}

// Help teaches by example.
func (pipelineSnapshotCmd) Help() string {
	return `Snapshots are taken by themselves every pipeline.state.snapshot_every; this takes one before that.

Example:
  godwit pipeline snapshot account --partition 2`
}

// Help teaches by example.
func (pipelineRebuildCmd) Help() string {
	return `Throws the state away and makes it again from the newest snapshot and the log. What was asked
from it meanwhile is answered from the old state as long as that is there.

Example:
  godwit pipeline rebuild customer --partition 2`
}
