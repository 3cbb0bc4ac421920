package main

// The pipeline benchmark: events in over the HTTP API, from a source in a
// process of its own (internal/crowd), and what two independent consumers make of them.
//
//	ingest_single   200 connections, one event a request
//	ingest_bulk     1,000 events a request
//	sustained       bulk at a set rate through both levels, then counted again from the log
//	visible         from the acknowledgement of an event until its count shows, at 10,000 events/s
//	query           metric-summary of random profiles, at 10,000 events/s
//	profiles        memory with ten million profiles

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/crowd"
	"github.com/godwit-mta/godwit/internal/units"
)

const (
	suitePipeline  = "pipeline"
	childCrowd     = "child-crowd"
	backgroundRate = 10_000 // events a second beside visible and query
)

// pipelineOptions are the command line's for this suite.
type pipelineOptions struct {
	sustainFor float64
	sustain    float64 // events a second
	profiles   int
	large      int // profiles of the case profiles
	config     string
	young      bool
	unchecked  bool
}

func (o *pipelineOptions) flags(f *flag.FlagSet) {
	f.Float64Var(&o.sustainFor, "sustain-seconds", 120, "how long the case sustained lasts, in seconds")
	f.Float64Var(&o.sustain, "sustain-rate", 50_500, "events a second of the case sustained")
	f.IntVar(&o.profiles, "profiles", 1_000_000, "profiles of the world")
	f.StringVar(&o.config, "config", "", "lines of configuration behind the benchmark's own, separated by ;")
	f.BoolVar(&o.unchecked, "unchecked", false, "do not count again after the case sustained: for development")
	f.BoolVar(&o.young, "young", false, "profiles are made by their first event, not beforehand")
	f.IntVar(&o.large, "large", 10_000_000, "profiles of the case profiles")
}

func (o *pipelineOptions) quick() { o.sustainFor, o.profiles, o.large = 15, 100_000, 500_000 }

func pipelineCases() []benchCase {
	return []benchCase{
		{name: "ingest_single", about: "200 connections, one event a request", run: (*bench).ingestSingle},
		{name: "ingest_bulk", about: "1,000 events a request", run: (*bench).ingestBulk},
		{name: "sustained", about: "bulk at a set rate through both levels, then counted again", round1: true, run: (*bench).sustained},
		{name: "visible", about: "from acknowledged to counted, at 10,000 events/s", run: (*bench).visible},
		{name: "query", about: "metric-summary at 10,000 events/s", run: (*bench).query},
		{name: "profiles", about: "memory with very many profiles", round1: true, run: (*bench).manyProfiles},
	}
}

func pipelineFigures() []figure {
	return []figure{
		{"ingest.single", "events/s", ">= 10000"},
		{"ingest.single.p99", "ms", ""},
		{"ingest.bulk", "events/s", ">= 100000"},
		{"aggregate.sustained", "events/s", ">= 50000"},
		{"aggregate.lag_customer", "s", "< 1"},
		{"aggregate.lag_account", "s", "< 1"},
		{"aggregate.lag_warehouse", "s", ""},
		{"aggregate.caught_up", "s", ""},
		{"aggregate.cpu_us_per_event", "us", ""},
		{"aggregate.visible.p99", "ms", "< 80"},
		{"aggregate.visible.p50", "ms", ""},
		{"profile.query.p99", "ms", "< 5"},
		{"state.bytes_per_profile", "bytes", ""},
		{"state.bytes_per_event", "bytes", ""},
		{"state.10m_profiles.anon", "MiB", "< 2048"},
	}
}

// crowdRun is what the source process is told.
type crowdRun struct {
	World crowd.Options
	Load  crowd.LoadOptions
}

// crowdMain is the source process: options from in, the report to out.
func crowdMain(ctx context.Context, in io.Reader, out io.Writer) error {
	var run crowdRun
	if err := json.NewDecoder(in).Decode(&run); err != nil {
		return err
	}
	w, err := crowd.NewWorld(run.World)
	if err != nil {
		return err
	}
	l, err := crowd.NewLoad(w, run.Load)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(l.Run(ctx))
}

// pipe is an engine with the pipeline on.
type pipe struct {
	*engine
	b     *bench
	sink  *sinkProcess
	world crowd.Options
	dir   string

	events uint64 // acknowledged by the case sustained
}

// newPipe starts one on empty state.
func (b *bench) newPipe(ctx context.Context, name string) (*pipe, error) {
	const allInMemory = "pipeline.identity.cached = 1048576\n" // of a million profiles
	return b.pipeWith(ctx, name, allInMemory)
}

// pipeWith starts one with lines of configuration that an operator would set for its size.
func (b *bench) pipeWith(ctx context.Context, name, sized string) (*pipe, error) {
	s, err := startSink(ctx, false)
	if err != nil {
		return nil, err
	}
	p := &pipe{b: b, sink: s, dir: filepath.Join(b.dir, name)}
	p.world = crowd.DefaultOptions()
	p.world.Profiles, p.world.From = b.o.profiles, time.Now().Add(-time.Hour)
	p.world.Span = units.Duration(time.Hour)
	sum := sha256.Sum256([]byte(apiKey))
	extra := ""
	if !strings.Contains(b.o.pipelineOptions.config, "pipeline.partitions") {
		extra = fmt.Sprintf("pipeline.partitions = %d\n%s", runtime.NumCPU(), sized)
	}
	extra += fmt.Sprintf("pipeline.api.listen = [\"127.0.0.1:0\"]\npipeline.path = %q\npipeline.ingest.dimensions = [%q, %q, %q, %q]\npipeline.api.keys = [{ name = \"bench\", tenant = \"bench\", sha256 = \"%s\" }]\n",
		filepath.Join(p.dir, "pipeline"), crowd.DimInbox, crowd.DimCampaign, crowd.DimClient, crowd.DimURL, hex.EncodeToString(sum[:]))
	extra += strings.ReplaceAll(b.o.pipelineOptions.config, ";", "\n") + "\n"
	if p.engine, err = b.startEngine(ctx, p.dir, s, engineOptions{extra: extra}); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if err := p.settle(ctx); err != nil {
		return nil, errors.Join(err, p.kill(), s.stop())
	}
	return p, nil
}

// end stops the engine, and removes everything unless it is kept.
func (p *pipe) end(err error) error {
	if err != nil {
		err = fmt.Errorf("%w\nengine's log: %s", err, p.tail())
		err = errors.Join(err, p.kill())
	} else {
		err = p.stop()
	}
	err = errors.Join(err, p.sink.stop())
	if !p.b.o.keep {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}

// crowd runs the source in a process of its own.
func (p *pipe) crowd(ctx context.Context, o crowd.LoadOptions) (*crowd.Report, error) {
	o.Target, o.Keys = p.pipeline, []string{apiKey}
	cmd, err := self(ctx, childCrowd)
	if err != nil {
		return nil, err
	}
	in, err := json.Marshal(crowdRun{p.world, o})
	if err != nil {
		return nil, err
	}
	cmd.Stdin, cmd.Stderr = strings.NewReader(string(in)), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var r crowd.Report
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, err
	}
	if r.FirstFail != "" {
		return nil, fmt.Errorf("%d events refused, %d without an answer; the first: %s", r.Refused, r.Unknown, r.FirstFail)
	}
	return &r, nil
}

func (b *bench) ingestSingle(ctx context.Context) error {
	return b.ingest(ctx, "ingest_single", "ingest.single", crowd.LoadOptions{Connections: 200, Batch: 1, Duration: b.o.load})
}

func (b *bench) ingestBulk(ctx context.Context) error {
	return b.ingest(ctx, "ingest_bulk", "ingest.bulk", crowd.LoadOptions{Connections: 8, Batch: 1000, Duration: b.o.load})
}

func (b *bench) ingest(ctx context.Context, name, figure string, o crowd.LoadOptions) error {
	p, err := b.newPipe(ctx, name)
	if err != nil {
		return err
	}
	profiled := b.profile(ctx, name, p.engine)
	before, err := cpuOf(p.pid)
	if err != nil {
		return p.end(err)
	}
	r, err := p.crowd(ctx, o)
	if err != nil {
		return p.end(err)
	}
	after, err := cpuOf(p.pid)
	if err != nil {
		return p.end(err)
	}
	if err := profiled(); err != nil {
		return p.end(err)
	}
	b.say("    %d events, %.0f/s; %d requests, p50 %.2f ms, p99 %.2f; engine %.1f us CPU per event, consumers included",
		r.Events, r.Rate(), r.Requests, ms(r.P50), ms(r.P99), float64((after-before).Microseconds())/float64(r.Events))
	st, err := p.status(ctx)
	if err != nil {
		return p.end(err)
	}
	b.say("    lag then: %s", st)
	b.set(figure, r.Rate())
	if figure == "ingest.single" {
		b.set(figure+".p99", ms(r.P99))
	}
	return p.end(p.drain(ctx))
}

// sustained sends at a set rate, looks at the lags, and has everything counted again.
func (b *bench) sustained(ctx context.Context) error {
	p, err := b.newPipe(ctx, "sustained")
	if err != nil {
		return err
	}
	if err := p.sustain(ctx); err != nil {
		return p.end(err)
	}
	conf := filepath.Join(p.dir, "godwit.toml")
	if err := p.stop(); err != nil {
		return err
	}
	if !b.o.unchecked {
		out, err := exec.CommandContext(ctx, b.o.godwit, "pipeline", "check", "-c", conf).CombinedOutput()
		b.say("    %s", strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "\n    "))
		if err != nil {
			return fmt.Errorf("counting again: %w", err)
		}
	}
	if err := p.sizes(b); err != nil {
		return err
	}
	err = p.sink.stop()
	if !b.o.keep {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}

func (p *pipe) sustain(ctx context.Context) error {
	b := p.b
	if !b.o.young {
		if err := p.populate(ctx); err != nil {
			return err
		}
	}
	d := time.Duration(b.o.sustainFor * float64(time.Second))
	profiled := b.profileAfter(ctx, max(0, d-b.o.load), "sustained", p.engine)
	before, err := cpuOf(p.pid)
	if err != nil {
		return err
	}
	began := time.Now()
	watched := p.watch(ctx)
	r, err := p.crowd(ctx, crowd.LoadOptions{Connections: 8, Batch: 1000, Rate: b.o.sustain, Duration: d})
	watched()
	if err != nil {
		return err
	}
	st, err := p.status(ctx)
	if err != nil {
		return err
	}
	b.say("    %d events in %.1f s, %.0f/s; p50 %.1f ms, p99 %.1f; lag at the end: %s", r.Events, r.Took.Seconds(), r.Rate(), ms(r.P50), ms(r.P99), st)
	if err := p.drain(ctx); err != nil {
		return err
	}
	took := r.Took
	identity := st.lag("identity")                                // what it has not passed on, both levels lack
	if identity+max(st.lag("customer"), st.lag("account")) >= 1 { // then it is as fast as the slowest consumer
		took = time.Since(began)
	}
	after, err := cpuOf(p.pid)
	if err != nil {
		return err
	}
	p.b.say("    all applied %.1f s after the start", time.Since(began).Seconds())
	b.set("aggregate.sustained", float64(r.Events)/took.Seconds())
	b.set("aggregate.lag_customer", identity+st.lag("customer"))
	b.set("aggregate.lag_account", identity+st.lag("account"))
	b.set("aggregate.lag_warehouse", identity+st.lag("warehouse"))
	b.set("aggregate.caught_up", (time.Since(began) - r.Took).Seconds())
	b.set("aggregate.cpu_us_per_event", float64((after-before).Microseconds())/float64(r.Events))
	p.events = r.Events
	return profiled()
}

// sizes tells what a profile and an event cost on disk.
func (p *pipe) sizes(b *bench) error {
	for _, name := range []string{"identity", "customer", "account"} {
		n, err := usage(filepath.Join(p.dir, "pipeline", "state", name))
		if err != nil {
			return err
		}
		b.say("    state of %s: %.0f MiB, %.0f bytes an event", name, mib(n), float64(n)/float64(p.events))
	}
	all, err := usage(filepath.Join(p.dir, "pipeline", "state"))
	if err != nil {
		return err
	}
	b.set("state.bytes_per_event", float64(all)/float64(p.events))
	return nil
}
