package load

import (
	"bytes"
	"crypto/sha256"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

func TestTemplateMessages(t *testing.T) {
	o := DefaultOptions()
	o.Headers, o.Stream = []string{"X-Test: yes"}, "s1"
	base := newTemplate(o, "run.1", time.Now())
	a, b := base.clone(), base.clone()
	idA, sumA := a.set(7, false)
	idB, sumB := b.set(123456789012, false)
	if idA != "run.1-000000000007" || idB != "run.1-123456789012" || sumA == sumB {
		t.Errorf("%s %s, or equal sums", idA, idB)
	}
	if bytes.Count(a.wire, []byte(idA)) < 6 || bytes.Contains(a.wire, []byte(placeholder)) || bytes.Contains(a.wire, []byte(idB)) {
		t.Error("the id is not in all its places")
	}
	if n := len(a.plain); n != int(o.Size) {
		t.Errorf("%d bytes, want %d", n, o.Size)
	}
	header, body, _ := bytes.Cut(a.plain, []byte("\r\n\r\n"))
	for _, want := range []string{"X-Load-Id: " + idA, "Message-ID: <" + idA + "@source.test>", "X-Test: yes", "X-Godwit-Stream: s1"} {
		if !bytes.Contains(header, []byte(want)) {
			t.Errorf("%q is missing in the header", want)
		}
	}
	full := sha256.Sum256(body)
	if !bytes.Equal(full[:16], sumA[:]) {
		t.Error("the sum is not that of the body")
	}
	unstuffed := bytes.TrimSuffix(bytes.ReplaceAll(a.wire, []byte("\r\n.."), []byte("\r\n.")), []byte("\r\n.\r\n"))
	if !bytes.Equal(append(unstuffed, "\r\n"...), a.plain) {
		t.Error("wire and plain are not the same message")
	}
	if !bytes.Contains(a.plain, []byte("\r\n.\r\n")) {
		t.Error("no line with a lone dot")
	}
}

func TestTemplateSizes(t *testing.T) {
	o := DefaultOptions()
	o.Size = 0
	smallest := len(newTemplate(o, "run", time.Now()).plain)
	for size := smallest; size < smallest+5000; size += 7 {
		o.Size = units.Size(size)
		if got := len(newTemplate(o, "run", time.Now()).plain); got < size || got > size+60 {
			t.Errorf("%d bytes, want %d", got, size)
		}
	}
}

func TestSameBodyAndNoSums(t *testing.T) {
	o := DefaultOptions()
	o.SameBody = true
	a := newTemplate(o, "r", time.Now()).clone()
	_, first := a.set(1, false)
	_, second := a.set(2, true)
	if first != second || first.IsZero() {
		t.Error("same bodies have the same sum")
	}
	o.SameBody, o.NoSums = false, true
	b := newTemplate(o, "r", time.Now()).clone()
	if _, sum := b.set(1, false); !sum.IsZero() {
		t.Error("a sum though none was wanted")
	}
}

func TestTargets(t *testing.T) {
	o := DefaultOptions()
	o.Domains, o.DomainCount = []string{"d%d.test=3", "big.test=4"}, 2
	o.Locals = []string{"u=9", "tempfail"}
	tg, err := newTargets(o)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	const n = 20000
	for i := range int64(n) {
		a := string(tg.address(nil, i))
		if a != string(tg.address(nil, i)) {
			t.Fatal("the same number has two addresses")
		}
		local, domain, _ := strings.Cut(a, "@")
		count[domain]++
		count[strings.TrimRight(local, "0123456789")]++
	}
	for name, share := range map[string]float64{"d0.test": 0.3, "d1.test": 0.3, "big.test": 0.4, "u": 0.9, "tempfail": 0.1} {
		if got := float64(count[name]) / n; math.Abs(got-share) > 0.02 {
			t.Errorf("%s has a share of %.3f, want %.3f", name, got, share)
		}
	}
	o = DefaultOptions()
	tg, _ = newTargets(o)
	if a := string(tg.address(nil, 13)); a != "u13@d3.test" {
		t.Errorf("equal weights are not taken in turn: %s", a)
	}
}

func TestHistogram(t *testing.T) {
	for b := 1; b < buckets; b++ {
		if lo, hi := upperEnd(b-1), upperEnd(b); hi <= lo && hi > 0 {
			t.Fatalf("bucket %d ends at %d, the one before at %d", b, hi, lo)
		}
		if up := upperEnd(b); up > 0 && (bucketOf(up) != b || up < math.MaxInt64 && bucketOf(up+1) != b+1) {
			t.Fatalf("bucket %d ends at %d, which is in %d", b, up, bucketOf(up))
		}
	}
	var h, other histogram
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Millisecond)
	}
	other.add(-time.Second) // a clock that was set back
	h.merge(&other)
	l := h.latency()
	near := func(got, want float64) bool { return math.Abs(got-want) <= want/50 }
	if l.Count != 1001 || !near(l.P50, 500) || !near(l.P90, 900) || !near(l.P99, 990) || l.Max != 1000 {
		t.Errorf("%+v", l)
	}
	if (&histogram{}).latency() != (Latency{}) {
		t.Error("an empty histogram has values")
	}
}

func TestPace(t *testing.T) {
	o := DefaultOptions()
	o.Count, o.Recipients = 10, 4
	p := newPace(o, time.Now())
	var got []int
	for {
		_, copies := p.next(t.Context())
		if copies == 0 {
			break
		}
		got = append(got, copies)
	}
	if len(got) != 3 || got[2] != 2 {
		t.Errorf("copies %v, want 4 4 2", got)
	}
}

func TestReplies(t *testing.T) {
	tests := []struct {
		line string
		code int
		more bool
		text string
		bad  bool
	}{
		{"250 2.0.0 Ok\r\n", 250, false, "2.0.0 Ok", false},
		{"250-SIZE\r\n", 250, true, "SIZE", false},
		{"354\r\n", 354, false, "", false},
		{"25x Ok\r\n", 0, false, "", true},
		{"\r\n", 0, false, "", true},
	}
	for _, tt := range tests {
		code, more, text, err := cutReply([]byte(tt.line))
		if (err != nil) != tt.bad || !tt.bad && (code != tt.code || more != tt.more || string(text) != tt.text) {
			t.Errorf("%q: %d %v %q %v", tt.line, code, more, text, err)
		}
	}
	if id := queuedAs([]byte("2.0.0 Ok: queued as 0189-77 in 3 ms")); id != "0189-77" {
		t.Error(id)
	}
	if id := queuedAs([]byte("2.0.0 Ok")); id != "" {
		t.Error(id)
	}
	for text, want := range map[string]string{"4.3.1 full": "452 4.3.1", "no code": "452", "": "452", "1.2.3.4 x": "452"} {
		if got := codeOf(452, []byte(text)); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("250 2.0.0 Ok: queued as X\r\n"))
	f.Add([]byte("250-\r\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		code, _, text, err := cutReply(line)
		if err == nil && (code < 0 || code > 999) {
			t.Error(code)
		}
		queuedAs(text)
		codeOf(code, text)
	})
}

func TestValidate(t *testing.T) {
	tests := []struct {
		want   string
		change func(*Options)
	}{
		{"", func(*Options) {}},
		{"", func(o *Options) { o.Mode, o.Target = ModeHTTP, "http://127.0.0.1:1" }},
		{"target: ", func(o *Options) { o.Target = "localhost" }},
		{"target: ", func(o *Options) { o.Mode = ModeHTTP }},
		{"mode: ", func(o *Options) { o.Mode = "lmtp" }},
		{"connections: ", func(o *Options) { o.Connections = 0 }},
		{"rate: ", func(o *Options) { o.Rate = math.NaN() }},
		{"count: ", func(o *Options) { o.Count = -1 }},
		{"duration: ", func(o *Options) { o.Duration = -1 }},
		{"recipients: ", func(o *Options) { o.Recipients = 0 }},
		{"timeout: ", func(o *Options) { o.Timeout = 0 }},
		{"give_up: ", func(o *Options) { o.GiveUp = 0 }},
		{"size: ", func(o *Options) { o.Size = -1 }},
		{"from: ", func(o *Options) { o.From = "a" }},
		{"domain_count: ", func(o *Options) { o.DomainCount = -1 }},
		{"domains: ", func(o *Options) { o.Domains = nil }},
		{"domains: ", func(o *Options) { o.Domains = []string{"%s.test"} }},
		{"domains: ", func(o *Options) { o.Domains = []string{"a.test=0"} }},
		{"domains: ", func(o *Options) { o.Domains = []string{"a@b"} }},
		{"locals: ", func(o *Options) { o.Locals = nil }},
		{"locals: ", func(o *Options) { o.Locals = []string{"u=x"} }},
		{"run: ", func(o *Options) { o.Run = "a-b" }},
		{"wait: ", func(o *Options) { o.Wait = 0 }},
		{"headers: ", func(o *Options) { o.Headers = []string{"X"} }},
		{"headers: ", func(o *Options) { o.Stream = "a\r\nb" }},
		{"smtp.tls: ", func(o *Options) { o.SMTP.TLS = "on" }},
		{"smtp.messages: ", func(o *Options) { o.SMTP.Messages = -1 }},
		{"smtp.hello: ", func(o *Options) { o.SMTP.Hello = "" }},
		{"http.content: ", func(o *Options) { o.HTTP.Content = "x" }},
		{"http.substitute: ", func(o *Options) { o.HTTP.Substitute = true }},
	}
	for _, tt := range tests {
		o := DefaultOptions()
		o.Target = "127.0.0.1:25"
		tt.change(&o)
		err := o.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}
