package mta

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/bounce/report"
	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/ledger"
	"github.com/godwit-mta/godwit/internal/load"
	"github.com/godwit-mta/godwit/internal/render"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/units"
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

func testOptions(t *testing.T, s *sink.Sink) Options {
	t.Helper()
	o := Options{Hostname: "mta.test", SMTP: smtpd.DefaultOptions(), HTTP: httpd.DefaultOptions(), Accept: accept.DefaultOptions(),
		Queue: queue.DefaultOptions(), DNS: dns.DefaultOptions(), Route: route.DefaultOptions(), Deliver: deliver.DefaultOptions(),
		DKIM: dkim.DefaultOptions(), Compose: compose.DefaultOptions(), Report: report.DefaultOptions(), Render: render.DefaultOptions(),
		Events: event.DefaultFileSinkOptions(), Egress: proxy.DefaultOptions(), Throttle: egress.DefaultThrottle()}
	o.SMTP.Listeners = []smtpd.Listener{{Address: "127.0.0.1:0"}}
	o.SMTP.RelayFrom = []smtpd.Network{{Network: "127.0.0.0/8"}}
	o.HTTP.Listen = nil
	o.Queue.Path = t.TempDir()
	o.Queue.Spool.SegmentSize, o.Queue.Spool.Spares, o.Queue.Spool.MinFree = 8<<20, 1, 0
	o.Queue.Retry.First = units.Duration(200 * time.Millisecond)
	o.Queue.Retry.Max = units.Duration(time.Second)
	o.DNS.Servers = []string{s.DNSAddr()}
	o.Route.Port = s.Port()
	return o
}

// TestRelay: source, engine and sink in one process; the books balance.
func TestRelay(t *testing.T) {
	so := sink.DefaultOptions()
	so.Providers[0].Behaviour.Defer = 0.1
	so.Seed = 7
	s, err := sink.New(so, sink.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	e, err := New(context.Background(), testOptions(t, s), Deps{Version: "test", Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})), Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	lo := load.DefaultOptions()
	lo.Target, lo.Mode, lo.Connections, lo.Count, lo.Size = e.SMTP().Addrs()[0].String(), load.ModeSMTP, 8, 500, 4<<10
	lo.Keep = true
	l, err := load.New(lo, load.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := l.Run(t.Context()); err != nil || !r.OK() {
		t.Fatalf("load: %+v, %v", r, err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for e.Queue().Queued() > 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond) // real sockets: there is no signal to wait for
	}
	if err := e.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if r := ledger.Reconcile(l.Acks(), s.Deliveries()); !r.OK() || len(r.Duplicates) > 0 || r.Delivered != 500 {
		t.Errorf("books: %s", r)
	}
}

// TestRestartNeeded: every section that Reload does not take is named when it changes.
func TestRestartNeeded(t *testing.T) {
	var old Options
	now := old
	if got := restartNeeded(&old, &now); len(got) != 0 {
		t.Errorf("nothing changed, got %v", got)
	}
	now.Accept.MaxReceived, now.DNS.Attempts, now.Queue.Spool.Spares = 1, 1, 1
	now.SMTP.MaxErrors = 1 // taken at once
	if got := strings.Join(restartNeeded(&old, &now), " "); got != "accept dns queue.spool" {
		t.Errorf("got %q", got)
	}
}
