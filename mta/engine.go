// Package mta is the engine: it wires accept, queue and deliver together, and
// starts and stops them in order. docs/OVERVIEW.md follows a message through it.
package mta

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/bounce/report"
	"github.com/godwit-mta/godwit/internal/cluster"
	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/render"
	"github.com/godwit-mta/godwit/internal/trace"
	"github.com/godwit-mta/godwit/mta/accept"
	"github.com/godwit-mta/godwit/mta/compose"
	"github.com/godwit-mta/godwit/mta/deliver"
	"github.com/godwit-mta/godwit/mta/dkim"
	"github.com/godwit-mta/godwit/mta/dns"
	"github.com/godwit-mta/godwit/mta/egress"
	"github.com/godwit-mta/godwit/mta/httpd"
	"github.com/godwit-mta/godwit/mta/route"
	"github.com/godwit-mta/godwit/mta/smtpd"
	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/queue"
)

// Options are the options of every part.
type Options struct {
	Hostname string
	SMTP     smtpd.Options
	HTTP     httpd.Options
	Accept   accept.Options
	Queue    queue.Options
	DNS      dns.Options
	Route    route.Options
	Deliver  deliver.Options
	DKIM     dkim.Options
	Compose  compose.Options
	Render   render.Options
	Report   report.Options
	Events   event.FileSinkOptions
	Cluster  cluster.Options
	Egress   proxy.Options
	Throttle egress.Throttle
}

// Deps are what an engine works with.
type Deps struct {
	Version    string
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Fatal is called once when the queue can no longer record what it does.
	Fatal func(error)
	// Admin tells the address of the admin API, for other nodes. Nil: there is none.
	Admin func() string
	// Pipeline tells the address at which the pipeline answers other nodes. Nil: there is none.
	Pipeline func() string
	// Give hands messages to the admin API of another node. Nil: none are.
	Give Giver
}

// Engine is a running delivery engine.
type Engine struct {
	log      *slog.Logger
	o        Options
	queue    *queue.Queue
	outward  outward
	handoff  *Handoff
	resolver *dns.Resolver
	router   *route.Router
	deliver  *deliver.Deliverer
	composer *compose.Composer
	signer   dkim.Live
	deps     Deps
	stopping atomic.Bool
	trace    *trace.Recorder
	smtp     *smtpd.Server
	http     *httpd.Server
	sink     *event.FileSink
	sinkDone chan struct{}
	stopSink context.CancelFunc
}

// New opens the spool, recovers it and builds every part. Nothing listens yet.
func New(ctx context.Context, o Options, d Deps) (*Engine, error) {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Admin == nil {
		d.Admin = func() string { return "" }
	}
	if d.Pipeline == nil {
		d.Pipeline = func() string { return "" }
	}
	e := &Engine{log: d.Logger, o: o, deps: d, trace: trace.New(trace.DefaultTraces)}
	var err error
	if e.queue, err = queue.Open(ctx, o.Queue, queue.Deps{Logger: d.Logger, Registerer: d.Registerer, Fatal: d.Fatal}); err != nil {
		return nil, err
	}
	if err := e.build(); err != nil {
		return nil, errors.Join(err, e.queue.Stop(ctx), e.outward.stop(ctx))
	}
	return e, nil
}

// build makes the parts in the order in which they need each other.
func (e *Engine) build() (err error) {
	o, d := &e.o, e.deps
	if err := e.buildOutward(); err != nil {
		return err
	}
	e.handoff = newHandoff(handoffDeps{fs: faultfs.OS{}, dir: o.Queue.Path, queue: e.queue, members: e.outward.cluster.Members,
		alone: !o.Cluster.Enabled() || d.Give == nil, token: e.outward.cluster.Token("admin"), give: d.Give, log: d.Logger})
	renderer, err := render.New(o.Render, render.Deps{Log: d.Logger, Registerer: d.Registerer})
	if err != nil {
		return err
	}
	signer, err := e.newSigner(o.DKIM)
	if err != nil {
		return err
	}
	e.signer.Store(signer)
	e.composer, err = compose.New(o.Compose, compose.Deps{Bodies: e.queue, Renderer: renderer, Signer: &e.signer,
		Hostname: o.Hostname, Logger: d.Logger, Registerer: d.Registerer})
	if err != nil {
		return err
	}
	if err := e.buildDelivery(); err != nil {
		return err
	}
	door, err := accept.New(o.Accept, accept.Deps{Queue: spoolDoor{e.queue, e.outward.gate}, IDs: new(mail.IDs), Hostname: o.Hostname,
		Templates: templates{renderer}, Logger: d.Logger, Registerer: d.Registerer})
	if err != nil {
		return err
	}
	if e.smtp, err = smtpd.New(o.SMTP, smtpd.Deps{Door: door, Hostname: o.Hostname, Trace: e.traceInjection, Tracing: e.trace.Active,
		Logger: d.Logger, Registerer: d.Registerer}); err != nil {
		return err
	}
	if e.http, err = httpd.New(o.HTTP, httpd.Deps{Injector: door, Store: store{e.queue}, Checker: renderer,
		Version: d.Version, Logger: d.Logger, Registerer: d.Registerer}); err != nil {
		return err
	}
	return e.buildSink()
}

// buildSink opens the events file, if one is configured.
func (e *Engine) buildSink() error {
	const cursor = "file"
	if e.o.Events.Path == "" {
		return e.queue.EventLog().DropCursor(cursor) // or it would hold the log back for nobody
	}
	c, err := e.queue.EventLog().Cursor(cursor)
	if err != nil {
		return err
	}
	e.sink, err = event.NewFileSink(e.o.Events, event.FileSinkDeps{Cursor: c, Logger: e.log, Registerer: e.deps.Registerer})
	return err
}

// templates refuses templates that cannot be parsed at accept.
type templates struct{ r *render.Engine }

func (t templates) CheckBody(_ context.Context, body *mail.Body) error {
	err := compose.CheckBody(t.r, body)
	if bad := new(compose.TemplateError); errors.As(err, &bad) {
		return &accept.Error{Code: 554, Enhanced: [3]int{5, 6, 0}, Message: bad.Error(), Err: err}
	}
	return err
}

func (e *Engine) buildDelivery() (err error) {
	o, d := &e.o, e.deps
	if e.resolver, err = dns.New(o.DNS, dns.Deps{Logger: d.Logger, Registerer: d.Registerer}); err != nil {
		return err
	}
	e.router, err = route.New(routeOptions(o.Route, e.outward.gate.Rules()), route.Deps{Apart: e.apart, Resolver: e.resolver, Hostname: o.Hostname, Listeners: listeners(o.SMTP),
		Logger: d.Logger, Registerer: d.Registerer})
	if err != nil {
		return err
	}
	direct, err := deliver.NewDirect(o.Deliver)
	if err != nil {
		return err
	}
	e.deliver, err = deliver.New(o.Deliver, deliver.Deps{Dialer: direct, Resolver: e.resolver, Composer: e.composer,
		Hostname: o.Hostname, Own: e.router.Own, Logger: d.Logger, Registerer: d.Registerer})
	if err != nil {
		return err
	}
	reports, err := report.New(o.Report, report.Deps{Hostname: o.Hostname, IDs: new(mail.IDs)})
	if err != nil {
		return err
	}
	e.queue.SetDeliverer(e.router, e.outward.gate, sessions{e.deliver, e.trace}, reports)
	return nil
}

// listeners are the addresses we take SMTP on, so that the router knows ourselves.
func listeners(o smtpd.Options) []netip.AddrPort {
	var list []netip.AddrPort
	for _, l := range o.Listeners {
		if a, err := netip.ParseAddrPort(l.Address); err == nil && a.Port() != 0 {
			list = append(list, a)
		}
	}
	return list
}

func (e *Engine) newSigner(o dkim.Options) (*dkim.Signer, error) {
	s, err := dkim.New(o, dkim.Deps{Logger: e.log, Registerer: e.deps.Registerer})
	if err != nil {
		return nil, err
	}
	if len(o.Keys) > 0 {
		e.log.Info("dkim keys loaded", "keys", len(o.Keys), "rsa", s.Backend())
	}
	return s, nil
}

// checkPublished compares the keys in use with their DNS records, in the background.
func (e *Engine) checkPublished(o dkim.Options) {
	if o.CheckDNS && len(o.Keys) > 0 {
		go e.compareKeys(e.signer.Load(), o)
	}
}

func (e *Engine) compareKeys(s *dkim.Signer, o dkim.Options) {
	ctx, cancel := context.WithTimeout(context.Background(), o.CheckTimeout.D())
	defer cancel()
	for _, w := range s.CheckPublished(ctx, e.resolver) {
		e.log.Warn("dkim key and its DNS record differ", "warning", w)
	}
}

// Start begins delivery and then listens: mail that waited goes first.
func (e *Engine) Start() error {
	if err := e.outward.start(e); err != nil {
		return err
	}
	e.queue.Start()
	e.handoff.resume()
	if e.sink != nil {
		ctx, cancel := context.WithCancel(context.Background())
		e.stopSink, e.sinkDone = cancel, make(chan struct{})
		go func() {
			defer close(e.sinkDone)
			if err := e.sink.Run(ctx); err != nil && ctx.Err() == nil {
				e.log.Error("event file sink ended", "error", err)
			}
		}()
	}
	e.checkPublished(e.o.DKIM)
	if err := e.smtp.Start(context.Background()); err != nil {
		return err
	}
	return e.http.Start()
}

// Stop ends in reverse: no new mail, sessions finish, everything is written down.
func (e *Engine) Stop(ctx context.Context) error {
	e.stopping.Store(true) // the queue still takes what is under way; it drains by itself
	stopped := make(chan error, 1)
	go func() { stopped <- e.http.Stop(ctx) }()
	err := errors.Join(e.smtp.Stop(ctx), <-stopped)
	e.handoff.close(ctx)
	// The sink reads from the queue's event log: it goes after the last
	// outcome and before the log closes.
	err = errors.Join(err, e.queue.Stop(ctx, func() {
		if e.stopSink != nil {
			e.stopSink()
			<-e.sinkDone
		}
	}))
	err = errors.Join(err, e.outward.stop(ctx))
	e.resolver.Close()
	return err
}

// Reload takes changed options without dropping a connection: smtp, http, queue,
// throttle, egress, route, deliver and dkim. A changed hostname or queue.path is an error; other
// sections that changed are named in the log and wait for the next start.
func (e *Engine) Reload(o Options) error {
	if o.Hostname != e.o.Hostname {
		return fmt.Errorf("hostname: cannot change while running (%q to %q): restart", e.o.Hostname, o.Hostname)
	}
	if o.Queue.Path != e.o.Queue.Path {
		return fmt.Errorf("queue.path: cannot change while running: restart")
	}
	signer, err := e.newSigner(o.DKIM)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		f    func() error
	}{
		{"smtp.", func() error { return e.smtp.Reload(o.SMTP) }},
		{"http.", func() error { return e.http.Reload(o.HTTP) }},
		{"queue.", func() error { return e.queue.Reload(o.Queue) }},
		{"", func() error { return e.outward.gate.Reload(e.egressOptions(o)) }},
		{"route.", func() error { return e.router.Reload(routeOptions(o.Route, e.outward.gate.Rules())) }},
		{"deliver.", func() error { return e.deliver.Reload(o.Deliver) }},
	} {
		if err := step.f(); err != nil {
			return fmt.Errorf("%s%w", step.name, err)
		}
	}
	e.signer.Store(signer)
	e.checkPublished(o.DKIM)
	for _, section := range restartNeeded(&e.o, &o) {
		e.log.Warn("changed options take effect at the next start", "section", section)
	}
	e.o = o
	return nil
}

// restartNeeded names the sections that differ and are only read at the start.
func restartNeeded(old, now *Options) (sections []string) {
	for _, s := range []struct {
		name     string
		old, now any
	}{
		{"accept", old.Accept, now.Accept}, {"dns", old.DNS, now.DNS}, {"compose", old.Compose, now.Compose},
		{"report", old.Report, now.Report}, {"render", old.Render, now.Render}, {"events_file", old.Events, now.Events},
		{"cluster", old.Cluster, now.Cluster}, {"queue.spool", old.Queue.Spool, now.Queue.Spool}, {"queue.events", old.Queue.Events, now.Queue.Events},
	} {
		if !reflect.DeepEqual(s.old, s.now) {
			sections = append(sections, s.name)
		}
	}
	return sections
}

// Queue is the engine's queue, for the admin API.
func (e *Engine) Queue() *queue.Queue { return e.queue }

// SMTP is the SMTP server, to ask for its addresses.
func (e *Engine) SMTP() *smtpd.Server { return e.smtp }

// HTTP is the injection server, to ask for its addresses.
func (e *Engine) HTTP() *httpd.Server { return e.http }

// Ready reports why the engine should get no traffic now; nil if it should.
func (e *Engine) Ready() error {
	switch {
	case e.queue.Failed() != nil:
		return e.queue.Failed()
	case e.queue.Draining() || e.stopping.Load():
		return mail.ErrDraining
	case e.queue.Stats().FreeSpaceLow:
		return mail.ErrDiskFull
	}
	return nil
}

// Handoff gives this node's queue to others.
func (e *Engine) Handoff() *Handoff { return e.handoff }
