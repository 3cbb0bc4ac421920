package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"

	"github.com/godwit-mta/godwit/config"
	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/pipeline"
)

type pipelineCheckCmd struct {
	Config string `short:"c" required:"" type:"existingfile" placeholder:"FILE" help:"The server's configuration."`
	Acks   string `type:"existingfile" placeholder:"FILE" help:"Events that must be in the log: lines of tenant and unique id."`
	Shards uint64 `default:"1" placeholder:"N" help:"Count in at least so many parts, for less memory; a long log is counted in more."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// Help teaches by example.
func (pipelineCheckCmd) Help() string {
	return `Reads the log of facts from its start, counts every event once, and compares the result with every count, sum and
unique that the account level has, by hour, day and month. The log must be kept whole
for that (pipeline.log.keep_for). Exit code 1 when anything differs.

Examples:
  godwit pipeline check -c godwit.toml
  godwit pipeline check -c godwit.toml --shards 8 --json`
}

// Run counts and compares.
func (c *pipelineCheckCmd) Run(e *env) error {
	f, err := config.Load(c.Config)
	if err != nil {
		return usageError{err}
	}
	if !f.Pipeline.Enabled() {
		return usageError{fmt.Errorf("%s: pipeline.path is not set: there is no pipeline", c.Config)}
	}
	var acks []string
	if c.Acks != "" {
		b, err := os.ReadFile(c.Acks)
		if err != nil {
			return err
		}
		acks = strings.Split(strings.TrimSpace(string(b)), "\n")
	}
	log := slog.New(slog.NewTextHandler(e.errOut, &slog.HandlerOptions{Level: slog.LevelWarn}))
	f.Pipeline.Warehouse.Engine = "" // it has no part in this
	failed := make(chan error, 1)
	p, err := pipeline.New(e.ctx, f.Pipeline, pipeline.Deps{Version: version(), Logger: log, Fatal: func(err error) {
		select {
		case failed <- err:
		default: // the first one tells why
		}
	}})
	if err != nil {
		return err
	}
	var part atomic.Int64
	stop := showProgress(e, 100, part.Load)
	r, err := p.Recount(e.ctx, acks, max(c.Shards, 1), func(done float64) { part.Store(int64(done * 100)) })
	stop()
	err = joined(err, p.Stop(e.ctx))
	select {
	case broken := <-failed:
		err = joined(broken, err)
	default:
	}
	if err != nil {
		return err
	}
	if c.JSON {
		err = show.JSON(e.out, r)
	} else {
		c.print(e, r, len(acks))
	}
	if err == nil && !r.OK() {
		err = fmt.Errorf("%d counts differ from the log, %d acknowledged events are missing", r.Different, r.Missing)
	}
	return err
}

func (c *pipelineCheckCmd) print(e *env, r *pipeline.Recounted, acks int) {
	p := show.New(e.out)
	n := func(v int64) string { return show.Count(v) }
	p.Pairs([2]string{"facts", n(r.Facts)}, [2]string{"events", n(r.Events)}, [2]string{"events that count", n(r.Distinct)},
		[2]string{"merges", n(int64(r.Merges))}, [2]string{"counts compared", n(int64(r.Counts))}, [2]string{"different", n(int64(r.Different))})
	if r.Skipped > 0 {
		p.Printf("%s\n", p.Bad(fmt.Sprintf("%d records that the account level skips were left out", r.Skipped)))
	}
	if acks > 0 {
		p.Pairs([2]string{"acknowledged", n(int64(acks))}, [2]string{"missing", n(int64(r.Missing))})
	}
	for _, s := range r.First {
		p.Printf("%s\n", p.Bad(s))
	}
	if r.OK() {
		p.Printf("%s\n", p.Good("every count is what the log says"))
	}
}
