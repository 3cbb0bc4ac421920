package mapping

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestPath(t *testing.T) {
	var v any
	if err := json.Unmarshal([]byte(`{"a":{"b":[1,{"c d":"x"}]},"a.b":2,"n":null,"$x":3}`), &v); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, want, name string
	}{
		{"$.a.b[0]", "1", "b"}, {`$.a.b[1]["c d"]`, `"x"`, "c d"}, {"a.b", "2", "a.b"}, {`$["a.b"]`, "2", "a.b"}, {`$["$x"]`, "3", "$x"},
		{"$.n", "", "n"}, {"$.a.b[2]", "", "b"}, {"$.a[0]", "", "a"}, {"$.a.b.c", "", "c"}, {"nothing", "", "nothing"}, {"$.a.b[0].c", "", "c"},
	} {
		p, err := ParsePath(c.path)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if found, ok := p.Get(v); ok {
			b, _ := json.Marshal(found)
			got = string(b)
		}
		if got != c.want || p.Name() != c.name || p.String() != c.path {
			t.Errorf("%s: %s %s", c.path, got, p.Name())
		}
	}
	for _, s := range []string{"", "$.", "$..a", "$a", "$[", "$[x]", "$[-1]", `$["a`, `$["a"`, `$["a"x`, "$.a[1", "$[99999999999]"} {
		if _, err := ParsePath(s); err == nil {
			t.Errorf("%s is a path", s)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add(`$.a["b"][1]`)
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePath(s)
		if err == nil {
			p.Get(map[string]any{"a": []any{1}})
			_ = p.Name()
		}
	})
}

func TestTime(t *testing.T) {
	for _, c := range []struct{ format, zone, in, want string }{
		{"", "", "2026-01-02", "2026-01-02"},
		{"", "Europe/Berlin", "2026-01-02 03:04:05", "2026-01-02T02:04:05.000Z"},
		{"", "Europe/Berlin", "2026-07-02T03:04:05Z", "2026-07-02T03:04:05.000Z"},
		{"unix", "", "1767225600", "2026-01-01T00:00:00.000Z"},
		{"unix_ms", "", "1767225600123", "2026-01-01T00:00:00.123Z"},
		{"02.01.2006 15:04", "Asia/Kolkata", "01.01.2026 05:30", "2026-01-01T00:00:00.000Z"},
	} {
		m, err := New(Event{Profile: Profile{Email: "e"}, Metric: "m", Time: "t", TimeFormat: c.format, TimeZone: c.zone})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := m.time(c.in); err != nil || got != c.want {
			t.Errorf("%+v: %s %v", c, got, err)
		}
		if c.format != "" || c.zone != "" {
			if got, err := m.time("later"); err == nil {
				t.Errorf("%+v: %s", c, got)
			}
		}
	}
}

func TestWhere(t *testing.T) {
	m, err := New(Event{Profile: Profile{ID: "$.i", Email: "$.e", Attributes: map[string]string{"location.city": "$.c", "title": "$.t"}}, MetricFrom: "$.m", Time: "$.w", UniqueID: "$.u"})
	if err != nil {
		t.Fatal(err)
	}
	const base = "/data/attributes/events-bulk-create/data/3/attributes"
	for pointer, want := range map[string]string{
		base + "/profile/data/attributes/email":                           "$.e",
		base + "/profile/data/id":                                         "$.i",
		base + "/profile/data/attributes/location/city":                   "$.c",
		base + "/profile/data/attributes/title":                           "$.t",
		base + "/events/data/0/attributes/time":                           "$.w",
		base + "/events/data/0/attributes/unique_id":                      "$.u",
		base + "/events/data/0/attributes/metric/data/attributes/name":    "$.m",
		base + "/events/data/0/attributes/properties/big":                 "big",
		base + "/events/data/0/attributes/metric/data/attributes/service": "",
	} {
		if got := m.Where(pointer); got != want {
			t.Errorf("%s: %q, want %q", pointer, got, want)
		}
	}
}

func TestItem(t *testing.T) {
	m, err := New(Event{Profile: Profile{External: "id", Properties: map[string]string{"vip": "$.v"}}, MetricFrom: "what", Value: "sum", Properties: []string{"$.x.y", "z"}})
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(strings.NewReader(`{"id":12345678901234567890,"v":true,"what":"A<B","sum":1.10,"x":{"y":[1]}}`))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	got, err := m.Item(v, nil, "u1")
	want := `{"attributes":{"events":{"data":[{"attributes":{"metric":{"data":{"attributes":{"name":"A<B"},"type":"metric"}},"properties":{"y":[1]},"unique_id":"u1","value":1.10},"type":"event"}]},` +
		`"profile":{"data":{"attributes":{"external_id":"12345678901234567890","properties":{"vip":true}},"type":"profile"}}},"type":"event-bulk-create"}`
	if err != nil || string(got) != want {
		t.Errorf("%s %v", got, err)
	}
	for _, bad := range []string{`{"id":"a"}`, `{"id":"a","what":"M","sum":"1,5"}`, `{"id":"a","what":"M","sum":"true"}`, `{"id":{},"what":"M"}`} {
		var v any
		if err := json.Unmarshal([]byte(bad), &v); err != nil {
			t.Fatal(err)
		}
		if doc, err := m.Item(v, nil, ""); err == nil {
			t.Errorf("%s: %s", bad, doc)
		}
	}
	if !m.Uses("id") || !m.Uses("v") || m.Uses("x") {
		t.Error("Uses is wrong")
	}
}
