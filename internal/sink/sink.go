// Package sink is the provider simulator: the mail exchangers of any number of
// domains on loopback, with a name server that leads to them.
//
// It exists so that tests, demonstrations and load tests deliver the way they
// would in the world (MX lookup, connection, session, reply) to providers that
// defer, bounce, greylist, limit, stall and break as told. And it is a witness:
// it writes down every copy it answered 250 for, with a sum of its body, in a
// ledger.Book of its own, which can be held against the engine's and the
// source's accounts.
//
// A provider behaves by its configuration (Behaviour) and, on top, by the
// recipient's local part, of which a +suffix and digits at the end are ignored:
//
//	tempfail, permfail, full           451, 550, 452 to RCPT; with -data (tempfail-data) to the final dot
//	reply-452, reply-452-4.2.2         that reply to RCPT; data-… to the final dot. A 421 closes
//	421                                421 to RCPT, then closes
//	greylist, greylist-500ms           deferred at first, accepted after 1 s or the given time
//	slow, slow-3s, hang                replies to the final dot after 2 s, the given time, an hour
//	drop                               closes after the final dot without a reply
//	ratelimited                        the provider's rate limit reply
//	tls-required, tls-fail             530 unless in TLS; 454
//
// Limits may also hold for each sending address: connections, connect rate and
// MAILs; whoever hits them too often is blocked for a while. The statistics
// endpoint (Handler) changes all of this while it runs, and makes a provider deaf.
// A share of the domains can have mail exchangers that swallow connects. With
// Options.Watch it writes down what each address did; package watch judges that.
//
// A session goes: listener (connection limit) → fast loop or go-smtp → visit
// (what to answer, by policy) → book. The name server answers MX and A for all
// domains; real MX hosts are reached on port 25, so whoever delivers here must
// be told Sink.Port.
package sink

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/godwit-mta/godwit/internal/ledger"
	"github.com/godwit-mta/godwit/internal/watch"
)

// Deps are what a Sink needs from outside.
type Deps struct {
	Log *slog.Logger // nil discards
}

// Sink is a running simulator. Make one with New.
type Sink struct {
	opts      Options
	log       *slog.Logger
	providers []*provider
	domains   domainSet
	book      *ledger.Book // nil when only counting
	sums      bool
	queued    atomic.Int64

	dns       *nameServer
	http      *http.Server
	httpAddr  string
	watch     *watch.Writer // nil does nothing
	listeners []*ear        // of the providers, then those that swallow connects
	servers   []*smtp.Server
	stopping  chan struct{}
	stopOnce  sync.Once
	wg        sync.WaitGroup

	control sync.Mutex // of changes to behaviours

	mu    sync.Mutex
	conns map[*countedConn]struct{}
}

// New checks the options and opens the ledger file. Nothing listens before Start.
func New(o Options, d Deps) (*Sink, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o.Zone = strings.ToLower(strings.TrimSuffix(o.Zone, "."))
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sink{
		opts: o, log: d.Log, sums: !o.NoSums && !o.Count,
		stopping: make(chan struct{}), conns: map[*countedConn]struct{}{},
	}
	for i, p := range o.Providers {
		rt := newProvider(p, o.Zone, o.Seed+uint64(i)<<32)
		s.providers = append(s.providers, rt)
		if err := s.domains.add(rt); err != nil {
			return nil, fmt.Errorf("providers[%d].domains: %w", i, err)
		}
	}
	if o.Count {
		return s, nil
	}
	var err error
	s.book, err = ledger.NewBook(ledger.BookOptions{Path: o.Ledger, Forget: o.Forget})
	return s, err
}

// Start binds all addresses and begins to serve. After an error nothing is left running.
func (s *Sink) Start() error {
	err := s.start()
	if err != nil {
		s.Stop()
	}
	return err
}

func (s *Sink) start() error {
	var err error
	if s.opts.Watch != "" || s.opts.WatchHere {
		if s.watch, err = watch.New(watch.Options{Path: s.opts.Watch, Memory: s.opts.WatchHere}); err != nil {
			return err
		}
	}
	owners, err := s.listen()
	if err != nil {
		return err
	}
	if err := deafenAll(s.listeners[len(owners):]); err != nil {
		return fmt.Errorf("swallow: %w", err)
	}
	z, err := newZone(s.opts, &s.domains, s.providers)
	if err != nil {
		return err
	}
	if s.opts.DNS != "" {
		if s.dns, err = startNameServer(s.opts.DNS, z); err != nil {
			return err
		}
	}
	if s.opts.HTTP != "" {
		if err := s.startHTTP(); err != nil {
			return err
		}
	}
	for i, p := range owners {
		s.serve(s.listeners[i], p)
	}
	if s.book != nil && s.opts.Ledger != "" {
		s.wg.Go(s.flushBook)
	}
	s.log.Info("sink started", "smtp", s.listeners[0].Addr().String(), "dns", s.DNSAddr(), "http", s.httpAddr)
	return nil
}

// flushBook brings records to the file once a second.
func (s *Sink) flushBook() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.book.Flush(); err != nil {
				s.log.Error("ledger not written", "error", err)
				return
			}
		case <-s.stopping:
			return
		}
	}
}

// Stop closes all listeners and connections, waits for their goroutines and
// closes the ledger file. Records and statistics stay readable. It may be
// called more than once.
func (s *Sink) Stop() {
	s.stopOnce.Do(func() {
		close(s.stopping)
		for _, l := range s.listeners {
			l.Close()
		}
		s.mu.Lock()
		open := s.conns
		s.conns = nil
		s.mu.Unlock()
		for c := range open {
			c.Close()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for _, srv := range s.servers {
			_ = srv.Shutdown(ctx) // waits for the sessions, whose connections are closed
		}
		if s.dns != nil {
			s.dns.stop()
		}
		if s.http != nil {
			s.http.Close()
		}
		s.wg.Wait()
		if err := s.watch.Close(); err != nil {
			s.log.Error("watch record not written", "error", err)
		}
		if s.book != nil {
			if err := s.book.Close(); err != nil {
				s.log.Error("ledger not written", "error", err)
			}
		}
	})
}

// Run serves until ctx ends.
func (s *Sink) Run(ctx context.Context) error {
	if err := s.Start(); err != nil {
		return err
	}
	<-ctx.Done()
	s.Stop()
	return nil
}

// Deliveries are the recorded copies, in order; nil when only counting.
func (s *Sink) Deliveries() []ledger.Delivery {
	if s.book == nil {
		return nil
	}
	return s.book.Deliveries()
}

// Reset forgets records, counters and earlier attempts.
func (s *Sink) Reset() error {
	for _, p := range s.providers {
		p.reset()
	}
	if s.book == nil {
		return nil
	}
	return s.book.Reset()
}
