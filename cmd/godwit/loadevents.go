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
	Burst       float64        `placeholder:"FACTOR" help:"Multiply the rate by this during bursts; it rises and falls within seconds." group:"How much"`
	BurstEvery  units.Duration `default:"1m" placeholder:"TIME" help:"Time from one burst to the next." group:"How much"`
	BurstFor    units.Duration `default:"20s" placeholder:"TIME" help:"Length of a burst." group:"How much"`
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
	Mail     float64        `placeholder:"SHARE" help:"Share of events that are about mail: delivered, and some bounced, opened, clicked, called spam." group:"What"`
	Span     units.Duration `default:"1h" placeholder:"TIME" help:"Time before now over which events happened." group:"What"`
	Seed     uint64         `default:"1" placeholder:"N" help:"Seed of the world." group:"What"`

	ProfilesFirst bool `help:"Make all profiles of the world before the first event, by bulk imports, with all their identifiers: no event joins anything then." group:"What"`

	JSON bool `name:"json" help:"Print the report as JSON."`
}

// Help teaches by example.
func (loadEventsCmd) Help() string {
	return `Sends what the customers of a made-up world do to the pipeline's API and reports
the rate at which it was acknowledged. Event n is the same in every run with the
same flags, so a run can be repeated: nothing is counted twice.
"godwit pipeline check" counts afterwards.

With --burst the load begins with the calm before the first burst, and the report
has the rates inside and outside of bursts. Mail (--mail) has the MTA's metrics and
properties: 1 % bounces, 30 % is opened, half of that by machines within seconds,
2 % is clicked, 0.02 % is called spam.

Examples:
  godwit load events http://127.0.0.1:8085 -n 1000000 --key "$KEY"
  godwit load events http://127.0.0.1:8085 --duration 1m --rate 10000 --batch 1 --connections 200 --key "$KEY"
  godwit load events http://127.0.0.1:8085 --duration 10m --rate 5000 --burst 10 --mail 0.4 --span 72h --key "$KEY"
  godwit load events http://127.0.0.1:8085 -n 1000000 --profiles 200000 --profiles-first --key "$KEY"`
}

// Run sends and reports.
func (c *loadEventsCmd) Run(e *env) error {
	o := crowd.Options{Seed: c.Seed, Profiles: c.Profiles, Metrics: c.Metrics, Values: c.Values, Skew: c.Skew, Late: c.Late,
		LateBy: units.Duration(72 * time.Hour), Twice: c.Twice, External: c.External, Mail: c.Mail, Span: c.Span, From: time.Now().Add(-c.Span.D())}
	w, err := crowd.NewWorld(o)
	if err != nil {
		return usageError{err}
	}
	lo := crowd.LoadOptions{Target: c.Target, Keys: c.Key, Connections: c.Connections, Batch: c.Batch,
		Count: c.Count, First: c.First, Rate: c.Rate, Duration: c.Duration.D()}
	if c.Burst != 0 {
		lo.Burst = crowd.Burst{Factor: c.Burst, Every: c.BurstEvery.D(), For: c.BurstFor.D()}
	}
	events, err := crowd.NewLoad(w, lo)
	if err != nil {
		return usageError{err}
	}
	var out loadEventsReport
	if c.ProfilesFirst {
		profiles, err := crowd.NewLoad(w, crowd.LoadOptions{Target: c.Target, Keys: c.Key, Connections: c.Connections, Batch: importBatch, Profiles: true})
		if err != nil {
			return usageError{err}
		}
		r := c.send(e, profiles, int64(c.Profiles*len(c.Key)))
		out.Profiles = &r
	}
	if out.failure() == "" && e.ctx.Err() == nil {
		out.Report = c.send(e, events, int64(c.Count))
	}
	if c.JSON {
		err = show.JSON(e.out, out)
	} else {
		out.print(show.New(e.out))
	}
	if err == nil && out.failure() != "" {
		err = fmt.Errorf("load: not everything was acknowledged; the first failure: %s", out.failure())
	}
	return err
}

// importBatch is how many profiles one request makes.
const importBatch = 5000

// send runs a load and shows how far it is.
func (c *loadEventsCmd) send(e *env, l *crowd.Load, of int64) crowd.Report {
	stop := showProgress(e, of, func() int64 { return int64(l.Acked()) })
	defer stop()
	return l.Run(e.ctx)
}

// loadEventsReport is what is printed.
type loadEventsReport struct {
	crowd.Report
	Profiles *crowd.Report `json:"profiles,omitempty"` // its events are profiles
}

func (r *loadEventsReport) failure() string {
	if r.Profiles != nil && r.Profiles.FirstFail != "" {
		return r.Profiles.FirstFail
	}
	return r.FirstFail
}

func (r *loadEventsReport) print(p *show.Page) {
	rate := func(n float64) string { return show.Count(int64(n)) + "/s" }
	var pairs [][2]string
	if r.Profiles != nil {
		pairs = append(pairs, [2]string{"profiles", show.Count(int64(r.Profiles.Events)) + " at " + rate(r.Profiles.Rate())})
	}
	pairs = append(pairs, [2]string{"acknowledged", show.Count(int64(r.Events)) + " events"}, [2]string{"rate", rate(r.Rate())})
	if r.Burst != nil {
		inside, outside := r.BurstRates()
		pairs = append(pairs, [2]string{"in bursts", rate(inside)}, [2]string{"outside of them", rate(outside)})
	}
	p.Pairs(append(pairs, [2]string{"requests", show.Count(int64(r.Requests))},
		[2]string{"p50, p99", fmt.Sprintf("%.2f ms, %.2f ms", float64(r.P50.Microseconds())/1e3, float64(r.P99.Microseconds())/1e3)},
		[2]string{"refused", show.Count(int64(r.Refused))}, [2]string{"without an answer", show.Count(int64(r.Unknown))})...)
}
