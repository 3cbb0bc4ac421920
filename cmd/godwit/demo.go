package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/godwit-mta/godwit/config"
	"github.com/godwit-mta/godwit/internal/load"
	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/queue"
)

type demoCmd struct {
	Messages int64          `short:"n" default:"5000" placeholder:"N" help:"Messages to inject (5000)."`
	Limit    units.Duration `default:"40s" placeholder:"TIME" help:"Longest time for injection and delivery; what waits then is accounted for as waiting (40s)."`
	Keep     bool           `help:"Keep the folder: configuration, keys, spool, events, both ledgers, the log."`
	Stay     bool           `help:"Keep everything running afterwards, to look around, until Ctrl-C."`
}

// Help teaches by example.
func (demoCmd) Help() string {
	return `In a temporary folder and on free loopback ports it starts mailbox providers that
defer, bounce, greylist, insist on TLS and hang up (godwit sink), makes DKIM keys, writes a
configuration, starts the engine as serve does, injects by SMTP and by HTTP (godwit load),
and holds the three books against each other. Exit code 1 when they do not balance.

Examples:
  godwit demo
  godwit demo --messages 20000 --keep
  godwit demo --stay`
}

// Run is the whole demonstration.
func (c *demoCmd) Run(e *env) (err error) {
	if c.Messages < 1 {
		return usageError{errors.New("--messages: must be positive")}
	}
	dir, err := os.MkdirTemp("", "godwit-demo-")
	if err != nil {
		return err
	}
	d := &demo{cmd: c, dir: dir, page: show.New(e.out), began: time.Now()}
	defer func() {
		err = errors.Join(err, d.stop())
		if c.Keep || c.Stay {
			d.page.Printf("everything is in %s\n", dir)
		} else {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := d.start(e.ctx); err != nil {
		return err
	}
	if err := d.inject(e.ctx); err != nil {
		return err
	}
	if err := d.settle(e.ctx); err != nil {
		return err
	}
	if e.ctx.Err() != nil {
		return errors.New("demo: interrupted; the books were not closed")
	}
	books, err := d.reconcile(e.ctx)
	if err != nil {
		return err
	}
	if err := d.summary(e.ctx, books); err != nil {
		return err
	}
	if c.Stay {
		if d.resume != nil {
			if err := d.resume(); err != nil {
				return err
			}
		}
		d.page.Printf("\neverything keeps running; Ctrl-C ends it\n")
		select {
		case <-e.ctx.Done():
		case err := <-d.server.fatal:
			return err
		}
	}
	return books.verdict()
}

// demo is one running demonstration.
type demo struct {
	cmd     *demoCmd
	dir     string
	page    *show.Page
	began   time.Time
	sink    *sink.Sink
	server  *server
	logFile *os.File
	key     string // API key of the HTTP sources
	tally   *tally
	sources []*source
	stopLog context.CancelFunc
	tailed  chan struct{}
	resume  func() error // ends the suspension that settle needed
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

// start starts the providers, then the engine.
func (d *demo) start(ctx context.Context) (err error) {
	keys, err := d.makeKeys()
	if err != nil {
		return err
	}
	o := demoSink(keys)
	o.Ledger = d.path("sink.ledger")
	if d.sink, err = sink.New(o, sink.Deps{}); err != nil {
		return err
	}
	if err := d.sink.Start(); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if d.key, err = d.writeConfig(keys); err != nil {
		return err
	}
	f, err := config.Load(d.path("godwit.toml"))
	if err != nil {
		return fmt.Errorf("demo: the configuration it wrote is not valid: %w", err)
	}
	if d.logFile, err = os.Create(d.path("godwit.log")); err != nil {
		return err
	}
	s := &server{path: d.path("godwit.toml"), grace: 10 * time.Second, level: new(slog.LevelVar)}
	s.log = s.logger(f, d.logFile)
	if err := s.start(ctx, f); err != nil {
		return err
	}
	d.server = s
	d.page.Heading("godwit " + version() + " demo")
	d.page.Printf("%s on loopback with a name server of their own; engine on smtp %s and http %s\n",
		show.Plural(int64(len(o.Providers)), "mailbox provider"), s.engine.SMTP().Addrs()[0], s.engine.HTTP().Addrs()[0])
	d.page.Printf("every body fsynced to %s before its 250 or 202, signed by RSA-2048 and Ed25519\n\n", d.path("spool"))
	return d.tail()
}

// tail follows the event log, like any reader of it.
func (d *demo) tail() error {
	cursor, err := d.server.engine.Queue().EventLog().Cursor("demo")
	if err != nil {
		return err
	}
	d.tally = newTally()
	ctx, cancel := context.WithCancel(context.Background())
	d.stopLog, d.tailed = cancel, make(chan struct{})
	go func() {
		defer close(d.tailed)
		d.tally.follow(ctx, cursor)
	}()
	return nil
}

// source is one load source and what came of it.
type source struct {
	name   string
	o      load.Options
	report *load.Report
	err    error
}

// inject runs the sources side by side and shows how far things are.
func (d *demo) inject(ctx context.Context) error {
	d.sources = d.makeSources()
	done := make(chan struct{})
	running := make(chan struct{}, len(d.sources))
	for _, s := range d.sources {
		l, err := load.New(s.o, load.Deps{})
		if err != nil {
			return fmt.Errorf("demo: source %s: %w", s.name, err)
		}
		go func() {
			s.report, s.err = l.Run(ctx)
			running <- struct{}{}
		}()
	}
	go func() {
		for range d.sources {
			<-running
		}
		close(done)
	}()
	d.watch(done)
	for _, s := range d.sources {
		if s.err != nil && ctx.Err() == nil {
			return fmt.Errorf("demo: source %s: %w; the engine's log is in %s (--keep)", s.name, s.err, d.path("godwit.log"))
		}
	}
	return nil
}

// settle waits until nothing is left to deliver or the time is over; then it
// stops delivery, so that no book changes while they are compared.
func (d *demo) settle(ctx context.Context) error {
	d.await(ctx, time.Until(d.began.Add(d.cmd.Limit.D())), d.quiet)
	d.page.Clear()
	if d.quiet() || ctx.Err() != nil {
		return nil
	}
	q := d.server.engine.Queue()
	x, err := q.Suspend(queue.Filter{All: true}, time.Time{}, "the time of the demo is over")
	if err != nil {
		return err
	}
	d.resume = func() error { return q.Resume(x.ID) }
	d.await(ctx, 10*time.Second, d.still)
	d.page.Clear()
	return nil
}

// await shows progress until ok, for some time at most.
func (d *demo) await(ctx context.Context, most time.Duration, ok func() bool) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil && !ok() {
			<-tick.C
		}
	}()
	d.watch(done)
}

// still reports whether nothing is being delivered and the event log has told
// all that was.
func (d *demo) still() bool {
	list, err := d.server.engine.Queue().List(queue.Filter{})
	for _, in := range list {
		if in.InFlight > 0 {
			return false
		}
	}
	t := d.tally.totals()
	return err == nil && t.injected-t.ended == d.server.engine.Queue().Queued()
}

// quiet reports whether everything accepted came to its end and the event log
// has told so: then the books can be closed.
func (d *demo) quiet() bool {
	t := d.tally.totals()
	return d.server.engine.Queue().Queued() == 0 && t.injected == t.ended
}

// stop ends in reverse order. Everything may be missing after a failed start.
func (d *demo) stop() error {
	var errs []error
	if d.stopLog != nil {
		d.stopLog()
		<-d.tailed
	}
	if d.server != nil {
		errs = append(errs, d.server.stop())
	}
	if d.sink != nil {
		d.sink.Stop()
	}
	if d.logFile != nil {
		errs = append(errs, d.logFile.Close())
	}
	return errors.Join(errs...)
}
