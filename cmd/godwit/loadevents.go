package main

import (
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/crowd"
	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/internal/units"
)

type loadEventsCmd struct {
	Target string `arg:"" help:"The pipeline's API: http://host:port."`

	Key         []string       `env:"GODWIT_LOAD_KEY" required:"" placeholder:"KEY" help:"API keys, one a tenant; the first have the most events."`
	Count       uint64         `short:"n" placeholder:"N" help:"Events to send." group:"How much"`
	Duration    units.Duration `placeholder:"TIME" help:"Time to send for." group:"How much"`
	Rate        float64        `placeholder:"N" help:"Events per second; as many as go by default." group:"How much"`
	Connections int            `default:"8" placeholder:"N" help:"Connections at a time." group:"How much"`
	Batch       int            `default:"1000" placeholder:"N" help:"Events of one request; 1 sends single events." group:"How much"`
	First       uint64         `placeholder:"N" help:"Number of the first event, to go on where another run ended." group:"How much"`

	Profiles int            `default:"1000000" placeholder:"N" help:"Profiles of the world." group:"What"`
	Metrics  int            `default:"1000" placeholder:"N" help:"Metrics." group:"What"`
	Values   int            `default:"100000" placeholder:"N" help:"Values of the widest dimension." group:"What"`
	Skew     float64        `default:"3" placeholder:"N" help:"How uneven it is: 1 is even." group:"What"`
	Late     float64        `default:"0.01" placeholder:"SHARE" help:"Share of late events." group:"What"`
	Twice    float64        `default:"0.01" placeholder:"SHARE" help:"Share of events that are sent again." group:"What"`
	External float64        `default:"0.2" placeholder:"SHARE" help:"Share of profiles with an external id beside the email; giving both merges what was known apart." group:"What"`
	Span     units.Duration `default:"1h" placeholder:"TIME" help:"Time before now over which events happened." group:"What"`
	Seed     uint64         `default:"1" placeholder:"N" help:"Seed of the world." group:"What"`

	JSON bool `name:"json" help:"Print the report as JSON."`
}

// Help teaches by example.
func (loadEventsCmd) Help() string {
	return `Sends what the customers of a made-up world do to the pipeline's API and reports
the rate at which it was acknowledged. Event n is the same in every run with the
same flags, so a run can be repeated: nothing is counted twice.
"godwit pipeline check" counts afterwards.

Examples:
  godwit load events http://127.0.0.1:8085 -n 1000000 --key "$KEY"
  godwit load events http://127.0.0.1:8085 --duration 1m --rate 10000 --batch 1 --connections 200 --key "$KEY"`
}

// Run sends and reports.
func (c *loadEventsCmd) Run(e *env) error {
	o := crowd.Options{Seed: c.Seed, Profiles: c.Profiles, Metrics: c.Metrics, Values: c.Values, Skew: c.Skew, Late: c.Late,
		LateBy: units.Duration(72 * time.Hour), Twice: c.Twice, External: c.External, Span: c.Span, From: time.Now().Add(-c.Span.D())}
	w, err := crowd.NewWorld(o)
	if err != nil {
		return usageError{err}
	}
	l, err := crowd.NewLoad(w, crowd.LoadOptions{Target: c.Target, Keys: c.Key, Connections: c.Connections, Batch: c.Batch,
		Count: c.Count, First: c.First, Rate: c.Rate, Duration: c.Duration.D()})
	if err != nil {
		return usageError{err}
	}
	stop := showProgress(e, int64(c.Count), func() int64 { return int64(l.Acked()) })
	r := l.Run(e.ctx)
	stop()
	if c.JSON {
		err = show.JSON(e.out, r)
	} else {
		p := show.New(e.out)
		p.Pairs([2]string{"acknowledged", show.Count(int64(r.Events)) + " events"}, [2]string{"rate", fmt.Sprintf("%s/s", show.Count(int64(r.Rate())))},
			[2]string{"requests", show.Count(int64(r.Requests))}, [2]string{"p50, p99", fmt.Sprintf("%.2f ms, %.2f ms", float64(r.P50.Microseconds())/1e3, float64(r.P99.Microseconds())/1e3)},
			[2]string{"refused", show.Count(int64(r.Refused))}, [2]string{"without an answer", show.Count(int64(r.Unknown))})
	}
	if err != nil {
		return err
	}
	if r.FirstFail != "" {
		return fmt.Errorf("load: not everything was acknowledged; the first failure: %s", r.FirstFail)
	}
	return nil
}
