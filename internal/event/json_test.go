package event

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/godwit-mta/godwit/internal/mail"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite golden files")

func testID(n byte) mail.ID {
	return mail.ID{1, 0x9a, 2, 3, 4, 5, 0x70, 7, 0x80, 9, 10, 11, 12, 13, 14, n}
}

// fullEvent has every field set.
func fullEvent() Event {
	at := time.Date(2026, 11, 21, 1, 2, 3, 4005006, time.UTC)
	return Event{
		ID: DeriveID(testID(1), 2, Deferred), Kind: Deferred, Time: at, Message: testID(1), Batch: testID(2),
		Tenant: "acme", Stream: "winter", Pool: "bulk", Tags: []mail.Tag{{Name: "b", Value: "1"}, {Name: "a", Value: "ü"}},
		ReversePath: "b+x@send.example", Recipient: "ann@example.com", Domain: "example.com", Size: 10240,
		Protocol: "smtp", Peer: "192.0.2.1:4242", AuthID: "acme-key", Attempt: 2, Site: "mx.example.com", Provider: "example",
		Source: "out-1", Host: "mx1.example.com", Address: "198.51.100.7:25", TLS: "TLS1.3 AES", Session: testID(3),
		Took: 123456 * time.Microsecond, Outcome: "deferred", Class: "smtp", Code: 451, Enhanced: "4.7.1",
		Reply: "try \"later\"\\", Command: "RCPT", NextTry: at.Add(time.Minute), Reason: "why", Filter: "tenant=acme",
		Until: at.Add(time.Hour), Limit: "10/min", Rule: "example/slow", GapEvents: 7,
	}
}

func TestEncodingEqualsFieldTable(t *testing.T) {
	e := fullEvent()
	v := reflect.ValueOf(e)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Fatalf("fullEvent leaves %s empty", v.Type().Field(i).Name)
		}
	}
	d := json.NewDecoder(bytes.NewReader(AppendJSON(nil, &e)))
	var names []string
	for depth := 0; ; {
		tok, err := d.Token()
		if err != nil {
			break
		}
		switch s, isText := tok.(string); {
		case tok == json.Delim('{'):
			depth++
		case tok == json.Delim('}'):
			depth--
		case isText && depth == 1:
			names = append(names, s)
			var skip json.RawMessage
			if err := d.Decode(&skip); err != nil {
				t.Fatal(err)
			}
		}
	}
	var want []string
	for _, f := range Fields() {
		want = append(want, f.Name)
	}
	if !reflect.DeepEqual(names, want) {
		t.Errorf("written %v\ndocumented %v", names, want)
	}
	if v.NumField() != len(want) {
		t.Errorf("%d fields in Event, %d documented", v.NumField(), len(want))
	}
}

func TestGoldenLine(t *testing.T) {
	e := fullEvent()
	const want = `{"id":"019a0203-0405-7007-8009-0a0b0c0d0e01.2.deferred","kind":"deferred","time":"2026-11-21T01:02:03.004005006Z","message":"019a0203-0405-7007-8009-0a0b0c0d0e01","batch":"019a0203-0405-7007-8009-0a0b0c0d0e02","tenant":"acme","stream":"winter","pool":"bulk","tags":{"b":"1","a":"ü"},"reverse_path":"b+x@send.example","recipient":"ann@example.com","domain":"example.com","size":10240,"protocol":"smtp","peer":"192.0.2.1:4242","auth":"acme-key","attempt":2,"site":"mx.example.com","provider":"example","source":"out-1","host":"mx1.example.com","address":"198.51.100.7:25","tls":"TLS1.3 AES","session":"019a0203-0405-7007-8009-0a0b0c0d0e03","took_ms":123.456,"outcome":"deferred","class":"smtp","code":451,"enhanced":"4.7.1","reply":"try \"later\"\\","command":"RCPT","next_try":"2026-11-21T01:03:03.004005006Z","reason":"why","filter":"tenant=acme","until":"2026-11-21T02:02:03.004005006Z","limit":"10/min","rule":"example/slow","gap_events":7}`
	if got := string(AppendJSON(nil, &e)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := string(AppendJSON(nil, &Event{})); got != "{}" {
		t.Errorf("empty event: %s", got)
	}
}

func TestDoc(t *testing.T) {
	const path = "../../docs/formats/events.md"
	if *update {
		if err := os.WriteFile(path, []byte(Doc()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != Doc() {
		t.Errorf("%s differs from the code; run: go test ./internal/event -run TestDoc -update (%v)", path, err)
	}
	codes := map[byte]Kind{}
	for _, k := range Kinds() {
		c := kindCode(k.Kind)
		if c == 0 || codes[c] != "" {
			t.Errorf("kind %s has no code of its own", k.Kind)
		}
		codes[c] = k.Kind
	}
}

// anyEvent draws an event with valid UTF-8 and times that RFC 3339 can hold.
func anyEvent() *rapid.Generator[Event] {
	return rapid.Custom(func(t *rapid.T) Event {
		text := func(name string) string { return rapid.String().Draw(t, name) }
		when := func(name string) time.Time {
			if rapid.Bool().Draw(t, name+" set") {
				return time.Unix(rapid.Int64Range(-62135596799, 253402300799).Draw(t, name), rapid.Int64Range(0, 999_999_999).Draw(t, name+" ns")).UTC()
			}
			return time.Time{}
		}
		id := func(name string) (m mail.ID) {
			copy(m[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, name))
			return m
		}
		var tags []mail.Tag
		for range rapid.IntRange(0, 3).Draw(t, "tags") {
			tags = append(tags, mail.Tag{Name: text("tag"), Value: text("value")})
		}
		return Event{
			ID: text("id"), Kind: Kind(text("kind")), Time: when("time"), Message: id("message"), Batch: id("batch"),
			Tenant: text("tenant"), Stream: text("stream"), Pool: text("pool"), Tags: tags, ReversePath: text("reverse"),
			Recipient: text("recipient"), Domain: text("domain"), Size: rapid.Int64().Draw(t, "size"), Protocol: text("protocol"),
			Peer: text("peer"), AuthID: text("auth"), Attempt: rapid.Int().Draw(t, "attempt"), Site: text("site"),
			Provider: text("provider"), Source: text("source"), Host: text("host"), Address: text("address"), TLS: text("tls"),
			Session: id("session"), Took: time.Duration(rapid.Int64Range(-1e12, 1e12).Draw(t, "took")) * time.Microsecond,
			Outcome: text("outcome"), Class: text("class"), Code: rapid.Int().Draw(t, "code"), Enhanced: text("enhanced"),
			Reply: text("reply"), Command: text("command"), NextTry: when("next"), Reason: text("reason"), Filter: text("filter"),
			Until: when("until"), Limit: text("limit"), Rule: text("rule"), GapEvents: rapid.Int64().Draw(t, "gap"),
		}
	})
}

func TestJSONRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyEvent().Draw(t, "event")
		line, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Event
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
	})
}

func FuzzAppendJSON(f *testing.F) {
	f.Add("plain", "q\"\\\n\r\t\x00\x7f", "\xff\xfe bad \xe2\x80", int64(5))
	f.Add("\u2028\u2029", "\U0001F426", "<script>&", int64(-1))
	f.Fuzz(func(t *testing.T, a, b, c string, n int64) {
		e := Event{ID: a, Reply: b, Reason: c, Tags: []mail.Tag{{Name: b, Value: c}}, Time: time.Unix(n, n), Took: time.Duration(n), Size: n}
		line := AppendJSON(nil, &e)
		if !json.Valid(line) || !utf8.Valid(line) || bytes.ContainsAny(line, "\n\r") {
			t.Fatalf("not one line of JSON: %q", line)
		}
		var back Event
		if err := json.Unmarshal(line, &back); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if want := strings.ToValidUTF8(b, ""); utf8.ValidString(b) && back.Reply != want {
			t.Fatalf("reply %q became %q", b, back.Reply)
		}
		if again := AppendJSON(nil, &back); !bytes.Equal(again, line) {
			t.Fatalf("%s\nbecame %s", line, again)
		}
	})
}

func FuzzUnmarshalJSON(f *testing.F) {
	e := fullEvent()
	f.Add(AppendJSON(nil, &e))
	f.Add([]byte(`{"tags":[1],"took_ms":1e300}`))
	f.Add([]byte(`{"tags":{"a":null},"time":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Event
		if json.Unmarshal(b, &e) == nil && !json.Valid(AppendJSON(nil, &e)) {
			t.Fatalf("read from %s, written as invalid JSON", b)
		}
	})
}

func FuzzRecord(f *testing.F) {
	var c codec
	c.encode(3, []Event{fullEvent(), {Kind: Gap}})
	f.Add(append(append(append([]byte{}, c.head...), "abc"...), c.block...))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err != nil {
			return
		}
		n := 0
		r.each(func(e entryRef) { n++ })
		if n != r.events {
			t.Fatalf("%d events, directory says %d", n, r.events)
		}
		if lines, err := r.lines(nil); err == nil && len(lines) != r.size {
			t.Fatalf("%d bytes of lines, want %d", len(lines), r.size)
		}
	})
}

func TestDeriveID(t *testing.T) {
	a, b := DeriveID(testID(1), 1, Delivered), DeriveID(testID(1), 2, Delivered)
	if a == b || a != DeriveID(testID(1), 1, Delivered) || a == DeriveID(testID(2), 1, Delivered) || a == DeriveID(testID(1), 1, Deferred) {
		t.Errorf("%s %s", a, b)
	}
}

func BenchmarkEncode(b *testing.B) {
	var ids mail.IDs
	events := make([]Event, 100)
	for i := range events {
		e := fullEvent()
		e.Kind, e.Message, e.Batch, e.Session = Delivered, ids.New(e.Time), ids.New(e.Time), ids.New(e.Time)
		e.ID = DeriveID(e.Message, 1, e.Kind)
		e.Time = e.Time.Add(time.Duration(i*i) * time.Microsecond)
		e.Took += time.Duration(i*317) * time.Microsecond
		e.Recipient = strings.Repeat(string(rune('a'+i%26)), i%20) + "@example.com"
		e.Reply = "2.0.0 OK queued as " + e.Batch.String()[:12]
		e.NextTry, e.Until, e.Reason, e.Filter, e.GapEvents, e.Protocol, e.Peer, e.AuthID = time.Time{}, time.Time{}, "", "", 0, "", "", ""
		events[i] = e
	}
	var c codec
	b.ReportAllocs()
	for b.Loop() {
		c.encode(0, events)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/event")
	b.ReportMetric(float64(len(c.lines))/100, "B/event")
	b.ReportMetric(float64(len(c.lines))/float64(len(c.block)), "ratio")
}
