package sink

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/watch"
)

func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Post(url, "", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// hangs tells whether a connect neither succeeds nor fails for a while.
func hangs(t *testing.T, addr string) bool {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
	if err == nil {
		c.Close()
		return false
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("connect: %v", err)
	}
	return true
}

func TestControl(t *testing.T) {
	s := start(t, Provider{Name: "a", Mode: ModeFast, Behaviour: Behaviour{TLS: TLSOn}}, Provider{Name: "b", Listen: "127.0.0.5:0"})
	url := s.URL() + "/providers/"
	for _, tt := range []struct {
		path, body string
		code       int
		says       string
	}{
		{"a/behaviour", "source_rate = '1/h'\nblock_after = 2", 204, ""},
		{"b/behaviour", "", 204, ""},
		{"c/behaviour", "", 404, `no provider of that name: "c"`},
		{"a/behaviour", "sauce_rate = '1/h'", 400, "strict mode"},
		{"a/behaviour", "bounce = 2.0", 400, "behaviour.bounce: must be between 0 and 1"},
		{"a/behaviour", "tls = 'off'", 400, "tls: cannot change"},
		{"a/behaviour", "max_size = 1", 400, "max_size: cannot change"},
		{"b/behaviour", "without = ['DSN']", 400, "without: cannot change"},
		{"*/behaviour", "defer = 1.0\ntexts = 'gmx'", 204, ""},
		{"a/block?source=127.0.0.9&for=1h", "", 204, ""},
		{"a/block?source=127.0.0.9&for=-1h", "", 400, "for: "},
		{"a/block?source=me", "", 400, "source: "},
		{"c/block?source=127.0.0.9", "", 404, ""},
		{"c/unblock", "", 404, ""},
		{"a/unblock?source=x", "", 400, "source: "},
		{"c/deaf", "", 404, ""},
		{"c/hear", "", 404, ""},
		{"a/hear", "", 204, ""},
	} {
		if code, said := post(t, url+tt.path, tt.body); code != tt.code || !strings.Contains(said, tt.says) {
			t.Errorf("%s with %q: %d %q, want %d %q", tt.path, tt.body, code, said, tt.code, tt.says)
		}
	}
	b := s.providers[0].behaviour()
	if b.Defer != 1 || b.SourceRate != rate(1, time.Hour) || b.BlockAfter != 2 || b.Bounce != 0 || b.TLS != TLSOn {
		t.Errorf("in force: %+v", b)
	}
	if code, _ := get(t, s.URL()+"/watch"); code != http.StatusNotFound {
		t.Error("a watch record where none is kept")
	}
}

// TestChangeReachesOpenConnections: what is put in force holds for the next command.
func TestChangeReachesOpenConnections(t *testing.T) {
	bothModes(t, func(t *testing.T, mode string) {
		s := start(t, Provider{Name: "a", Mode: mode})
		c := dialFrom(t, "127.0.0.2", s.Addr("a"))
		c.script(hello + transaction("u@x.test", "250", "250"))
		if err := s.Change("a", func(b *Behaviour) error { b.Defer = 1; return nil }); err != nil {
			t.Fatal(err)
		}
		c.script(transaction("u@x.test", "451 4.3.0", "") + "> RSET\n< 250\n")
		if err := s.Block(AllProviders, netip.MustParseAddr("127.0.0.2"), time.Hour); err != nil {
			t.Fatal(err)
		}
		c.script("> MAIL FROM:<a@s.test>\n< 550 5.7.1 Unfortunately, messages from 127.0.0.2 weren't sent\n")
		if err := s.Unblock("a"); err != nil {
			t.Fatal(err)
		}
		c.script("> MAIL FROM:<a@s.test>\n< 250\n")
		if st := s.Stats().Sources[0]; st.Blocks != 1 || st.Denied != 1 || st.BlockedUntil != nil || st.Accepted != 1 || st.Deferred != 1 {
			t.Errorf("%+v", st)
		}
		if err := s.Change("a", func(*Behaviour) error { return io.EOF }); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}

// TestDeaf: connects hang while a provider is deaf, open connections go on, and afterwards all is as before.
func TestDeaf(t *testing.T) {
	bothModes(t, func(t *testing.T, mode string) {
		o := DefaultOptions()
		o.WatchHere = true
		o.Providers = []Provider{{Name: "a", Mode: mode}, {Name: "b", Mode: mode, Listen: "127.0.0.5:0"}}
		s := startWith(t, o)
		open := dial(t, s.Addr("a"))
		open.script(hello)
		for range 2 {
			if code, said := post(t, s.URL()+"/providers/a/deaf", ""); code != 204 {
				t.Fatal(said)
			}
			if !hangs(t, s.Addr("a")) {
				t.Error("a connect did not hang")
			}
			dial(t, s.Addr("b")).script("< 220") // the other provider is not
			open.script(transaction("u@x.test", "250", "250"))
			if code, said := post(t, s.URL()+"/providers/a/hear", ""); code != 204 {
				t.Fatal(said)
			}
			dial(t, s.Addr("a")).script(hello + "> QUIT\n< 221\n< closed")
		}
		r, err := s.Watched()
		if err != nil {
			t.Fatal(err)
		}
		a := 0
		for _, c := range r.Conns {
			if r.Providers[c.Provider] == "a" {
				a++
			}
		}
		if st := s.Stats(); a != 3 || st.Providers[0].Connections != 3 {
			t.Errorf("%d connections on record, %d counted: those that keep it deaf must not be among them", a, st.Providers[0].Connections)
		}
	})
}

func TestDeafSinkStops(t *testing.T) {
	s := start(t)
	if err := s.Deafen(AllProviders); err != nil {
		t.Fatal(err)
	}
	s.Stop() // TestMain tells if anything is left running
}

// TestSwallowedConnectsHang goes the way of a client: MX, A, connect.
func TestSwallowedConnectsHang(t *testing.T) {
	s := start(t, Provider{Name: "many", Domains: []string{"s%d.test"}, Count: 40, OwnMX: true, Mode: ModeFast, Swallow: 0.05})
	_, port, err := net.SplitHostPort(s.Addr("many"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range swallowers {
		wg.Go(func() {
			if addr := net.JoinHostPort(swallowAddress(n).String(), port); !hangs(t, addr) {
				t.Errorf("%s lets connects in", addr)
			}
		})
	}
	wg.Wait()
}

// TestWatch: what the sink sees is on record, with the verdicts, and a connection ends there before the peer sees it close.
func TestWatch(t *testing.T) {
	bothModes(t, func(t *testing.T, mode string) {
		o := DefaultOptions()
		o.Watch = filepath.Join(t.TempDir(), "watch")
		o.Providers = []Provider{{Name: "a", Mode: mode, Behaviour: Behaviour{SourceRate: rate(2, time.Hour), SourceConnections: 1, BlockAfter: 2}}}
		s := startWith(t, o)
		a := dialFrom(t, "127.0.0.2", s.Addr("a"))
		a.script(hello + strings.Repeat("> MAIL FROM:<a@s.test>\n< 250\n> RSET\n< 250\n", 2) + "> MAIL FROM:<a@s.test>\n< 451\n")
		dialFrom(t, "127.0.0.2", s.Addr("a")).script("< 421\n< closed")
		a.script("> MAIL FROM:<a@s.test>\n< 550\n> QUIT\n< 221\n< closed")
		for range 20 {
			dialFrom(t, "127.0.0.3", s.Addr("a")).script(hello + "> QUIT\n< 221\n< closed")
		}
		s.Mark("note")
		_, served := get(t, s.URL()+"/watch")
		live, err := watch.Read(strings.NewReader(served))
		if err != nil || live.Complete || len(live.Mails) != 4 {
			t.Fatalf("%+v %v", live, err)
		}
		s.Stop()
		r, err := watch.ReadFile(o.Watch)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range r.Mails {
			got = append(got, m.Verdict.String())
		}
		if text := strings.Join(got, " "); text != "accepted accepted limited blocked" {
			t.Errorf("MAILs %s", text)
		}
		if r.Conns[1].Verdict != watch.Limited || len(r.Conns) != 22 || len(r.Marks) != 1 || !r.Complete {
			t.Errorf("connections %+v, marks %v", r.Conns, r.Marks)
		}
		rep := watch.Analyse(r, watch.Query{Limits: map[string]watch.Limit{"127.0.0.3 a": {Connections: 1}}})
		if f := rep.Faults(); len(f) != 0 {
			var text bytes.Buffer
			_ = rep.WriteText(&text)
			t.Errorf("%v\n%s", f, text.String())
		}
		if g := rep.Groups[0]; g.Open.N != 2 || g.Not != 2 || g.PerConn != 4 {
			t.Errorf("%+v: a connection that is turned away counts too", g)
		}
	})
}
