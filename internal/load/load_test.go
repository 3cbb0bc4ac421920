package load

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/internal/ledger"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/units"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func startSink(t testing.TB, providers ...sink.Provider) *sink.Sink {
	t.Helper()
	o := sink.DefaultOptions()
	if len(providers) > 0 {
		o.Providers = providers
	}
	s, err := sink.New(o, sink.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// run injects straight into a simulator.
func run(t testing.TB, s *sink.Sink, change func(*Options)) *Report {
	t.Helper()
	o := DefaultOptions()
	o.Target, o.Sink, o.Count, o.Connections = s.Addr(s.Stats().Providers[0].Name), s.URL(), 100, 3
	change(&o)
	l, err := New(o, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func provider(mode string, b sink.Behaviour) sink.Provider {
	return sink.Provider{Name: "p", Domains: []string{"d%d.test"}, Count: 10, Mode: mode, Behaviour: b}
}

func TestSMTP(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Options)
	}{
		{"pipelined", func(*Options) {}},
		{"lock-step", func(o *Options) { o.SMTP.Pipelining = false }},
		{"several recipients", func(o *Options) { o.Recipients = 7 }},
		{"several recipients, lock-step", func(o *Options) { o.Recipients, o.SMTP.Pipelining = 7, false }},
		{"new connection every 5", func(o *Options) { o.SMTP.Messages = 5 }},
		{"STARTTLS", func(o *Options) { o.SMTP.TLS = TLSStart }},
		{"8-bit", func(o *Options) { o.EightBit = true }},
		{"one body", func(o *Options) { o.SameBody = true }},
		{"smallest", func(o *Options) { o.Size = 0 }},
		{"large", func(o *Options) { o.Size, o.Count = 3<<20, 6 }},
		{"rate", func(o *Options) { o.Rate, o.Count = 1000, 50 }},
	}
	for _, mode := range []string{sink.ModeFast, sink.ModeFull} {
		s := startSink(t, provider(mode, sink.Behaviour{TLS: sink.TLSOn}))
		for _, tt := range tests {
			t.Run(mode+"/"+tt.name, func(t *testing.T) {
				count := int64(0)
				r := run(t, s, func(o *Options) { tt.change(o); count = o.Count })
				b := r.Delivery.Books
				if !r.OK() || r.Acked != count || b.Acked != int(count) || b.Delivered != int(count) || len(b.Duplicates) != 0 || len(b.Unknown) != 0 {
					t.Errorf("%+v\n%v", r, b)
				}
				if r.AckLatency.Count == 0 || r.Delivery.FromMail.Count != count || r.Delivery.Accepted != count {
					t.Errorf("latencies are missing: %+v", r)
				}
			})
		}
	}
}

func TestRefusalsAreCounted(t *testing.T) {
	for _, pipelining := range []bool{true, false} {
		s := startSink(t, provider(sink.ModeFast, sink.Behaviour{}))
		r := run(t, s, func(o *Options) {
			o.SMTP.Pipelining = pipelining
			o.Recipients, o.Count, o.Connections = 2, 120, 2
			o.Locals = []string{"u", "permfail", "tempfail-data+"}
		})
		// Pairs in turn: (u, permfail) (tempfail-data, u) (permfail, tempfail-data).
		if r.Acked != 20 || r.Refused != 100 || r.Unknown != 0 || r.Errors["550 5.1.1"] != 40 || r.Errors["451 4.3.0"] != 40 || r.OK() {
			t.Errorf("pipelining %v: %+v", pipelining, r)
		}
		if b := r.Delivery.Books; !b.OK() || b.Delivered != 20 {
			t.Error(b)
		}
	}
}

func TestNoRecipientAccepted(t *testing.T) {
	for _, pipelining := range []bool{true, false} {
		s := startSink(t, provider(sink.ModeFast, sink.Behaviour{}))
		r := run(t, s, func(o *Options) {
			o.SMTP.Pipelining = pipelining
			o.Locals = []string{"permfail", "u"}
			o.Count, o.Connections = 10, 1
		})
		if r.Acked != 5 || r.Refused != 5 || r.Connections != 1 {
			t.Errorf("pipelining %v: %+v", pipelining, r)
		}
	}
}

func TestClosingServers(t *testing.T) {
	tests := []struct {
		name   string
		b      sink.Behaviour
		locals string
		acked  int64
		check  func(*Report) bool
	}{
		{"421 to RCPT", sink.Behaviour{}, "reply-421-4.3.2+", 0, func(r *Report) bool { return r.Refused == 20 && r.Errors["421 4.3.2"] == 20 }},
		{"421 to the dot", sink.Behaviour{}, "data-421-4.3.2+", 0, func(r *Report) bool { return r.Refused == 20 }},
		{"closed after the dot", sink.Behaviour{}, "drop", 0, func(r *Report) bool { return r.Unknown == 20 && r.Delivery.Dropped == 20 }},
		{"421 to MAIL", sink.Behaviour{MaxMessages: 4}, "u", 0, func(r *Report) bool { return r.Acked == 16 && r.Refused == 4 && r.Errors["421 4.7.0"] == 4 }},
	}
	for _, tt := range tests {
		for _, pipelining := range []bool{true, false} {
			s := startSink(t, provider(sink.ModeFast, tt.b))
			r := run(t, s, func(o *Options) {
				o.Locals, o.Count, o.Connections, o.SMTP.Pipelining = []string{tt.locals}, 20, 1, pipelining
			})
			if !tt.check(r) {
				t.Errorf("%s, pipelining %v: %+v", tt.name, pipelining, r)
			}
		}
	}
}

// TestReconnect lets the server go away and come back: what was not under way is injected in the end.
func TestReconnect(t *testing.T) {
	first := startSink(t)
	o := DefaultOptions()
	o.Target, o.Count, o.Connections, o.Rate = first.Addr("open"), 300, 2, 1500
	o.Ledger = filepath.Join(t.TempDir(), "load.ledger")
	l, err := New(o, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan *Report)
	go func() {
		r, err := l.Run(context.Background())
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	for l.live.acked.Load() < 50 {
		runtime.Gosched()
	}
	first.Stop()
	so := sink.DefaultOptions()
	so.Listen = o.Target
	second, err := sink.New(so, sink.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	defer second.Stop()
	r := <-done
	if r.Acked+r.Unknown != 300 || r.Connections < 4 {
		t.Errorf("%+v", r)
	}
	acks, _, err := ledger.ReadFile(o.Ledger)
	if err != nil || int64(len(acks)) != r.Acked {
		t.Errorf("%d acks in the ledger, %d counted, %v", len(acks), r.Acked, err)
	}
	books := ledger.Reconcile(acks, append(first.Deliveries(), second.Deliveries()...))
	if !books.OK() || int64(len(books.Unknown)) > r.Unknown || acks[0].ID == "" {
		t.Error(books)
	}
}

func TestGivesUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	for _, mode := range []string{ModeSMTP, ModeHTTP} {
		o := DefaultOptions()
		o.Mode, o.Target, o.GiveUp = mode, addr, units.Duration(20*time.Millisecond)
		if mode == ModeHTTP {
			o.Target = "http://" + addr
		}
		l, err := New(o, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := l.Run(t.Context()); err == nil || r == nil || r.ConnectErrors == 0 {
			t.Errorf("%s: %+v, %v", mode, r, err)
		}
	}
}

func TestEnds(t *testing.T) {
	s := startSink(t)
	r := run(t, s, func(o *Options) { o.Count, o.Duration, o.Rate = 0, units.Duration(200*time.Millisecond), 100 })
	if r.Acked < 1 || r.Acked > 21 {
		t.Errorf("200 ms at 100/s made %d messages", r.Acked)
	}
	ctx, cancel := context.WithCancel(t.Context())
	o := DefaultOptions()
	o.Target, o.Keep = s.Addr("open"), true
	l, err := New(o, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for l.live.acked.Load() < 10 {
			runtime.Gosched()
		}
		cancel()
	}()
	r, err = l.Run(ctx)
	if acked, _, _ := l.Counts(); err != nil || r.Acked < 10 || acked != r.Acked || int64(len(l.Acks())) != acked {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestSinkMissing(t *testing.T) {
	o := DefaultOptions()
	o.Target, o.Sink = "127.0.0.1:1", "http://127.0.0.1:1"
	l, err := New(o, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "sink") {
		t.Errorf("error %v", err)
	}
}

func TestReportForms(t *testing.T) {
	s := startSink(t, provider(sink.ModeFast, sink.Behaviour{}))
	r := run(t, s, func(o *Options) { o.Locals = []string{"u", "permfail"} })
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"accepted   50", "refused 50", "50 x 550 5.1.1", "delivered  50", "from MAIL  p50", "missing 0"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, text.String())
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b, &back); err != nil || back.Acked != 50 || back.Delivery.Books.Delivered != 50 || back.AckLatency != r.AckLatency {
		t.Errorf("%s", b)
	}
}

func TestBar(t *testing.T) {
	l := &Load{opts: DefaultOptions()}
	l.live.acked.Store(7)
	var out bytes.Buffer
	stop := l.bar(&out)
	stop()
	if l2 := (&Load{show: &out}); l2.progress() == nil {
		t.Error("no function for a writer that is no terminal")
	}
}
