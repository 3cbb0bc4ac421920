package cluster

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/godwit-mta/godwit/internal/records"
)

func counted(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		return -1
	}
	return m.GetCounter().GetValue()
}

func TestValidate(t *testing.T) {
	good := func() Options {
		return Options{Name: "n1", Bind: "10.0.0.1:7946", KeyFile: "/key", Nodes: []Node{
			{Name: "n1", Address: "10.0.0.1:7946", Link: "10.0.0.1:7947"}, {Name: "n2", Address: "host.example:7946", Link: "[::1]:7947", Zone: "z"},
		}}
	}
	for _, c := range []struct {
		key    string // at the beginning of the error; "" for none
		change func(*Options)
	}{
		{"", func(*Options) {}},
		{"", func(o *Options) { *o = Options{} }},
		{"", func(o *Options) { *o = Options{Zone: "z", KeyFile: "/key"} }},
		{"", func(o *Options) { o.Bind, o.KeyFile = "127.0.0.1:0", "" }},
		{"", func(o *Options) { o.Bind, o.Advertise = "0.0.0.0:7946", "192.0.2.1:7946" }},
		{"", func(o *Options) { o.Nodes, o.Join = nil, Join{DNS: "members.example", File: "/f"} }},
		{"", func(o *Options) { o.Nodes = o.Nodes[:1]; o.Nodes[0].Link = "" }},
		{"name: ", func(o *Options) { o.Name = "a b" }},
		{"name: ", func(o *Options) { o.Name = strings.Repeat("n", maxName+1) }},
		{"zone: ", func(o *Options) { o.Zone = "é" }},
		{"bind: ", func(o *Options) { o.Bind = "" }},
		{"bind: ", func(o *Options) { o.Bind, o.Nodes, o.Join.File = "", nil, "/f" }},
		{"bind: ", func(o *Options) { o.Bind = "localhost:7946" }},
		{"advertise: ", func(o *Options) { o.Advertise = "0.0.0.0:1" }},
		{"advertise: ", func(o *Options) { o.Advertise = "192.0.2.1" }},
		{"key_file: ", func(o *Options) { o.KeyFile = "" }},
		{"key_file: ", func(o *Options) { o.Bind, o.Advertise, o.KeyFile = "127.0.0.1:1", "192.0.2.1:1", "" }},
		{"nodes[1].name: ", func(o *Options) { o.Nodes[1].Name = "" }},
		{"nodes[1].name: ", func(o *Options) { o.Nodes[1].Name = "n1" }},
		{"nodes[0].address: ", func(o *Options) { o.Nodes[0].Address = "host" }},
		{"nodes[1].address: ", func(o *Options) { o.Nodes[1].Address = o.Nodes[0].Address }},
		{"nodes[0].link: ", func(o *Options) { o.Nodes[0].Link = "" }},
		{"nodes[1].link: ", func(o *Options) { o.Nodes[1].Link = "host:0" }},
		{"nodes[1].zone: ", func(o *Options) { o.Nodes[1].Zone = "a/b" }},
		{"join.dns: ", func(o *Options) { o.Join.DNS = "a:b:c" }},
	} {
		o := good()
		c.change(&o)
		err := o.Validate()
		if c.key == "" && err != nil || c.key != "" && (err == nil || !strings.HasPrefix(err.Error(), c.key)) {
			t.Errorf("%q: %v", c.key, err)
		}
	}
	if err := DefaultOptions().Validate(); err != nil || DefaultOptions().Enabled() {
		t.Error(err)
	}
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	write := func(content string, mode os.FileMode) string {
		path := filepath.Join(dir, fmt.Sprint(len(content), mode))
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := NewKey()
	if key == NewKey() {
		t.Fatal("the same key twice")
	}
	one, err := New(Options{Name: "a", KeyFile: write(key+"\n", 0o600)}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	two, err := New(Options{Name: "b", KeyFile: write(key, 0o400)}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	tokens := map[string]bool{one.Token("handoff"): true, one.Token("admin"): true, one.Token(""): true, key: true}
	if len(tokens) != 4 || len(one.Token("admin")) < 40 || one.Token("admin") != two.Token("admin") {
		t.Errorf("tokens: %v", tokens)
	}
	for _, path := range []string{write(key+" ", 0o640), write(key[:40], 0o600), write("", 0o600), write(strings.Repeat("!", 44), 0o600), filepath.Join(dir, "none")} {
		_, err := New(Options{Name: "a", KeyFile: path}, Deps{})
		if err == nil || !strings.HasPrefix(err.Error(), "key_file: ") || strings.Contains(err.Error(), key[:20]) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestLeavingIsFinal: a report that was under way does not take the goodbye back.
func TestLeavingIsFinal(t *testing.T) {
	c, err := New(Options{Name: "a"}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	c.makeReport(true)
	if r, _, _ := c.makeReport(false); !r.Leaving {
		t.Error("a node that left says it is there")
	}
}

func TestMetaFits(t *testing.T) {
	m := meta{Version: wireVersion, Role: strings.Repeat("r", maxName), Zone: strings.Repeat("z", maxName), Link: strings.Repeat("h", maxHost) + ":65535"}
	if b := m.encode(); len(b) > maxMeta || parseMeta(b) != m {
		t.Errorf("%d bytes", len(b))
	}
	m.Role = strings.Repeat("r", maxMeta)
	if b := m.encode(); len(b) > maxMeta || parseMeta(b).Version != wireVersion {
		t.Errorf("%d bytes", len(b))
	}
	if got := parseMeta([]byte("not ours")); got != (meta{}) {
		t.Error(got)
	}
}

func TestMarkDrift(t *testing.T) {
	for in, want := range map[string]string{
		"a":         "",
		"a a":       "",
		"a b":       "0 1", // nobody knows which is right
		"a a b":     "2",
		"a a b b":   "0 1 2 3",
		"a a - b":   "3",
		"a p:b p:b": "",
		"p:a b p:b": "0 2",
		"a a !b":    "",
		"a !b !b":   "",
	} {
		var all []Member
		for _, word := range strings.Fields(in) {
			m := Member{Role: "mta", Status: Alive}
			if rest, ok := strings.CutPrefix(word, "!"); ok {
				m.Status, word = Dead, rest
			}
			if rest, ok := strings.CutPrefix(word, "p:"); ok {
				m.Role, word = "proxy", rest
			}
			m.ConfigDigest = strings.Trim(word, "-")
			all = append(all, m)
		}
		markDrift(all)
		var got []string
		for i, m := range all {
			if m.Drift {
				got = append(got, fmt.Sprint(i))
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %s, want %s", in, s, want)
		}
	}
}

func someComparison() comparison {
	names := []string{"s1", "s2"}
	return comparison{from: "n1", digest: records.Digest{1, 2, 3}, reports: []report{
		{Name: "n1", Epoch: 5, Seq: 6, Load: Load{Queued: 1}, Sources: &names, SourcesSeq: 2}, {Name: "n2", Epoch: 1, Seq: 1, Leaving: true},
	}}
}

func TestComparisonEncoding(t *testing.T) {
	want := someComparison()
	b := want.encode()
	if b[0] != wireVersion || b[1] != kindSync {
		t.Fatal(b[:2])
	}
	got, err := parseComparison(b[2:])
	if d := cmp.Diff(want, got, cmp.AllowUnexported(comparison{})); d != "" || err != nil {
		t.Error(d, err)
	}
	for cut := range len(b) - 2 {
		if s, err := parseComparison(b[2 : 2+cut]); err == nil && len(s.reports) == 2 {
			t.Fatalf("cut at %d: all was read", cut)
		}
	}
}

func TestRecordChunks(t *testing.T) {
	var want []records.Record
	for i := range 40 {
		want = append(want, records.Record{Key: fmt.Sprint(i), Value: make([]byte, records.MaxValue), Version: records.Version{Time: 1, Node: "n"}})
	}
	messages, got := encodeRecords(want), []records.Record(nil)
	for _, b := range messages {
		if len(b) > maxChunk+records.MaxValue+1000 {
			t.Errorf("a message of %d bytes", len(b))
		}
		recs, err := parseRecords(b[2:])
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, recs...)
	}
	if len(got) != len(want) || len(messages) < 4 {
		t.Fatalf("%d of %d records in %d messages", len(got), len(want), len(messages))
	}
	for i := range got {
		if got[i].Key != want[i].Key || len(got[i].Value) != records.MaxValue {
			t.Errorf("record %d is %s", i, got[i].Key)
		}
	}
}

// FuzzHandle: whatever arrives, nothing breaks, and only what is well-formed is believed.
func FuzzHandle(f *testing.F) {
	s := someComparison()
	f.Add(s.encode())
	f.Add(s.reports[0].encode())
	f.Add(encodeRecords([]records.Record{{Key: "k", Version: records.Version{Time: 1, Node: "n"}}})[0])
	f.Add([]byte{wireVersion, 200, 1})
	f.Add([]byte{wireVersion + 1, kindSync, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := New(Options{Name: "a", Bind: "127.0.0.1:0"}, Deps{Records: &checked{t}})
		if err != nil {
			t.Fatal(err)
		}
		c.note(&memberlist.Node{Name: "n1", Addr: net.IPv4(127, 0, 0, 1)}, true)
		_ = c.handle(b)
		if _, _, ok := cutField(b); ok && len(b) == 0 {
			t.Error("a field in nothing")
		}
		if all := c.Members(); len(all) != 2 {
			t.Errorf("%d members", len(all))
		}
	})
}

// checked is a store that looks at what it is given.
type checked struct{ t *testing.T }

func (checked) Digest() records.Digest                              { return records.Digest{} }
func (checked) Delta(records.Digest) []records.Record               { return nil }
func (checked) SubscribeLocal(func(records.Record)) (cancel func()) { return func() {} }
func (k *checked) Merge(recs []records.Record) ([]records.Record, error) {
	for _, r := range recs {
		if r.Key == "" || r.Version.Node == "" {
			k.t.Errorf("merged %+v", r)
		}
	}
	return recs, nil
}

// TestGateDeadline: a peer that takes a connection and never reads does not hold the sender.
func TestGateDeadline(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g, err := newGate(netip.MustParseAddrPort("127.0.0.1:0"), newLogger(slog.New(slog.NewTextHandler(io.Discard, nil))))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Shutdown()
	to := memberlist.Address{Addr: l.Addr().String()}
	conn, err := g.DialAddressTimeout(to, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(make([]byte, 64<<20)); !os.IsTimeout(err) {
		t.Errorf("writing to nobody: %v", err)
	}
	conn.Close()
	if len(g.conns) != 0 {
		t.Error("a closed connection is remembered")
	}
	conn, err = g.DialAddressTimeout(to, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	g.closeAll()
	if _, err := conn.Write(make([]byte, 64<<20)); err == nil {
		t.Error("writing goes on after closeAll")
	}
	if _, err := g.DialAddressTimeout(to, time.Minute); err == nil {
		t.Error("dialling goes on after closeAll")
	}
}

func TestLogLines(t *testing.T) {
	var out bytes.Buffer
	l := newLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})))
	l.Printf("[DEBUG] memberlist: quiet")
	l.Printf("[INFO] memberlist: quiet too")
	for i := range 3 * warningsPerMinute {
		l.Printf("[ERR] memberlist: loud %d", i)
	}
	text := out.String()
	if strings.Contains(text, "quiet") || strings.Count(text, "level=WARN msg=gossip text=\"loud") != warningsPerMinute {
		t.Error(text)
	}
}
