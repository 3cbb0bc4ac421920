package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/godwit-mta/godwit/config"
	"github.com/godwit-mta/godwit/internal/debugz"
	"github.com/godwit-mta/godwit/mta"
	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/pipeline"
)

type serveCmd struct {
	Config string        `short:"c" required:"" type:"existingfile" help:"Configuration file; \"godwit config defaults\" prints a complete one." placeholder:"FILE"`
	Grace  time.Duration `default:"30s" help:"How long sessions may finish when the server is told to stop."`
	Ports  string        `help:"Write the addresses that were bound to this file, as JSON, once everything listens." placeholder:"FILE" type:"path"`
}

// Help teaches by example.
func (serveCmd) Help() string {
	return `SIGHUP reads the configuration again without dropping a connection. SIGTERM and
SIGINT refuse new mail, let transactions finish, write everything down and end;
a second one ends at once, which loses nothing either: the next start recovers.

Example:
  godwit config defaults > godwit.toml
  godwit config check godwit.toml
  godwit serve -c godwit.toml`
}

// Run runs the server until it is told to stop.
func (c *serveCmd) Run(e *env) error {
	f, err := config.Load(c.Config)
	if err != nil {
		return usageError{err}
	}
	tuneGC()
	s := &server{path: c.Config, grace: c.Grace, level: new(slog.LevelVar)}
	s.log = s.logger(f, e.errOut)
	if err := s.start(e.ctx, f); err != nil {
		return err
	}
	if c.Ports != "" {
		if err := s.writePorts(c.Ports); err != nil {
			return errors.Join(err, s.stop())
		}
	}
	return s.wait(e.ctx)
}

// server is a running set of roles.
type server struct {
	path    string
	grace   time.Duration
	log     *slog.Logger
	level   *slog.LevelVar
	engine  *mta.Engine
	admin   *adminapi.Server
	adminAt atomic.Pointer[string] // where other nodes reach it
	peerAt  atomic.Pointer[string] // likewise the pipeline
	proxy   *proxyRole             // nil: not in this process
	pipe    *pipeline.Pipeline     // nil: not in this process
	ops     *debugz.Server
	fatal   chan error

	started time.Time

	mu     sync.Mutex // guards what a reload changes; one reload at a time
	file   *config.File
	loaded time.Time
}

func (s *server) logger(f *config.File, w io.Writer) *slog.Logger {
	_ = s.level.UnmarshalText([]byte(f.Log.Level)) // checked when the file was loaded
	o := &slog.HandlerOptions{Level: s.level}
	if f.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// start builds and starts everything; on an error it stops what runs.
func (s *server) start(ctx context.Context, f *config.File) (err error) {
	s.file, s.started, s.loaded = f, time.Now(), time.Now()
	s.fatal = make(chan error, 1)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	o, err := f.Engine()
	if err != nil {
		return usageError{err}
	}
	s.engine, err = mta.New(ctx, o, mta.Deps{Version: version(), Logger: s.log, Registerer: registry,
		Fatal: s.failed, Admin: s.advertised, Pipeline: s.peerAddress, Give: give})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	r := s.engine.Queue().Recovered()
	s.log.Info("spool recovered", "volume", s.engine.Queue().Volume().ID.String(), "messages", s.engine.Queue().Queued(),
		"replayed", r.Replayed, "changes", r.Changes, "took", r.Took)
	if err = s.newPipeline(ctx, registry); err != nil {
		return err
	}
	if err = s.startOps(registry); err != nil {
		return err
	}
	if err = s.startAdmin(); err != nil {
		return err
	}
	if err = s.startProxy(ctx, registry); err != nil {
		return err
	}
	if err = s.engine.Start(); err != nil {
		return err
	}
	if s.pipe != nil {
		if err = s.pipe.Start(); err != nil {
			return usageError{err}
		}
	}
	s.log.Info("serving", "hostname", o.Hostname, "config", s.path, "digest", f.Digest(), "version", version())
	return nil
}

// pipelineCursor is the name of the pipeline's cursor in the event log.
const pipelineCursor = "pipeline"

// newPipeline makes the pipeline, if it has a folder.
func (s *server) newPipeline(ctx context.Context, registry *prometheus.Registry) (err error) {
	events := s.engine.Queue().EventLog()
	if !s.file.Pipeline.Enabled() {
		return events.DropCursor(pipelineCursor) // or it would hold the log back for nobody
	}
	mail, err := events.Cursor(pipelineCursor)
	if err != nil {
		return err
	}
	s.pipe, err = pipeline.New(ctx, s.file.Pipeline, pipeline.Deps{Version: version(), Logger: s.log, Registerer: registry, Fatal: s.failed, Mail: mail,
		Peers: s.peersOf()})
	if s.pipe != nil && s.pipe.PeerAddr() != nil {
		address := s.file.Pipeline.Peers.Advertised(s.pipe.PeerAddr(), loopback(s.file.Cluster.Bind))
		s.peerAt.Store(&address)
	}
	spareThread()
	return err
}

// spareThread lets one more thread run Go code than there are CPUs, unless GOMAXPROCS says how many. A stage and a compaction of its state
// keep two for many milliseconds; a request that comes then waits for Go's scheduler, up to 10 ms, whereas the
// kernel gives a thread that wakes up its time almost at once. The pipeline counted its turns before.
func spareThread() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
}

// failed ends the program: it can no longer record what it does.
func (s *server) failed(err error) {
	select {
	case s.fatal <- err:
	default: // it ends already
	}
}

// startProxy runs the proxy role beside the engine, if it has listeners.
func (s *server) startProxy(ctx context.Context, registry *prometheus.Registry) (err error) {
	if len(s.file.Proxy.Listeners) == 0 {
		return nil
	}
	// The engine has links of its own in the same registry.
	apart := prometheus.WrapRegistererWithPrefix("proxy_", registry)
	if s.proxy, err = newProxyRole(s.file.Proxy, s.engine.Cluster().Token("link"), s.log, apart); err != nil {
		return usageError{fmt.Errorf("proxy.%w", err)}
	}
	return s.proxy.start(ctx)
}

func (s *server) startOps(registry *prometheus.Registry) error {
	s.ops = debugz.New(debugz.Options{Listen: s.file.Ops.Listen}, debugz.Deps{Gatherer: registry, Ready: s.engine.Ready,
		Pages: s.engine.DebugPages(), Logger: s.log, Version: version()})
	return s.ops.Start()
}

func (s *server) startAdmin() (err error) {
	q := adminQueue{s.engine.Queue(), s.engine.Shared()}
	e := adminEgress{s.engine.Gate(), s.engine.Records()}
	s.admin, err = adminapi.New(s.file.Admin, adminapi.Deps{Inspector: q, Suspender: q, Changer: q, Mover: q, Node: adminNode{s},
		Explainer: adminExplain{e, q, s.engine.Router()}, Egress: e, Orders: e, Cluster: adminCluster{s.engine}, Handoff: adminHandoff{s.engine.Handoff()},
		Pipeline: adminPipelineOf(s.pipe), PeerToken: s.engine.Cluster().Token("admin"), Level: s.level, Version: version(), Logger: s.log})
	if err != nil {
		return err
	}
	if err := s.admin.Start(); err != nil {
		return err
	}
	s.advertise(s.file)
	return nil
}

// advertise chooses the address that other nodes are told.
func (s *server) advertise(f *config.File) {
	address := f.Admin.Advertised(s.admin.Addrs(), loopback(f.Cluster.Bind))
	s.adminAt.Store(&address)
}

// advertised is where other nodes reach the admin API; "" while they do not.
func (s *server) advertised() string {
	if p := s.adminAt.Load(); p != nil {
		return *p
	}
	return ""
}

// wait blocks until the server is told to stop, reloading on SIGHUP.
func (s *server) wait(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			if err := s.Reload(); err != nil {
				s.log.Error("configuration not taken; the old one stays in force", "error", err)
			}
		case err := <-s.fatal:
			return errors.Join(fmt.Errorf("ended because it could no longer record what it does: %w", err), s.stop())
		case <-ctx.Done():
			s.log.Info("stopping", "grace", s.grace)
			return s.stop()
		}
	}
}

// stop ends in reverse order. A second signal ends it at once.
func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.grace)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	var errs []error
	if s.admin != nil {
		errs = append(errs, s.admin.Stop(ctx))
	}
	if s.pipe != nil {
		errs = append(errs, s.pipe.Stop(ctx))
	}
	errs = append(errs, s.engine.Stop(ctx))
	if s.proxy != nil {
		errs = append(errs, s.proxy.drain(ctx))
	}
	if s.ops != nil {
		errs = append(errs, s.ops.Stop(ctx))
	}
	return errors.Join(errs...)
}

// Reload reads the configuration file again. On an error nothing changes.
func (s *server) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := config.Load(s.path)
	if err != nil {
		return err
	}
	o, err := f.Engine()
	if err != nil {
		return err
	}
	if err := s.engine.Reload(o); err != nil {
		return err
	}
	if err := s.admin.Reload(f.Admin); err != nil {
		return fmt.Errorf("admin.%w", err)
	}
	if s.pipe != nil {
		if err := s.pipe.Reload(f.Pipeline); err != nil {
			return err
		}
	}
	s.advertise(f)
	_ = s.level.UnmarshalText([]byte(f.Log.Level)) // checked by Load
	if f.Ops != s.file.Ops || f.Log.Format != s.file.Log.Format {
		s.log.Warn("changed options take effect at the next start", "section", "ops, log.format")
	}
	s.file, s.loaded = f, time.Now()
	s.log.Info("configuration taken", "digest", f.Digest())
	return nil
}
