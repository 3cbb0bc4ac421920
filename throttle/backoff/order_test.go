package backoff_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/backoff"
	"github.com/godwit-mta/godwit/throttle/rules"
)

func TestGive(t *testing.T) {
	until := start.Add(time.Hour)
	for want, c := range map[string]struct {
		action rules.Action
		scope  throttle.Key
		stream string
		limits throttle.Limits
		until  time.Time
	}{
		"":                     {rules.Suspend, throttle.Key{Source: "s"}, "", throttle.Limits{}, time.Time{}},
		"must name a source":   {rules.Suspend, throttle.Key{}, "", throttle.Limits{}, until},
		"must not name a ten":  {rules.Suspend, throttle.Key{Source: "s", Tenant: "t"}, "", throttle.Limits{}, until},
		"a pool or a domain":   {rules.Suspend, throttle.Key{Domain: "d"}, "", throttle.Limits{}, until},
		"must name a tenant a": {rules.SuspendTenant, throttle.Key{Provider: "p"}, "", throttle.Limits{}, until},
		"goes with the action": {rules.SuspendTenant, throttle.Key{Tenant: "t"}, "x", throttle.Limits{}, until},
		"these need them":      {rules.Slow, throttle.Key{Source: "s"}, "", throttle.Limits{}, until},
		"go with the actions":  {rules.Suspend, throttle.Key{Source: "s"}, "", throttle.Limits{Connections: 1}, until},
		"not known":            {"stop", throttle.Key{Source: "s"}, "", throttle.Limits{}, until},
		"only a rule":          {rules.Bounce, throttle.Key{Source: "s"}, "", throttle.Limits{}, until},
		"must be after now":    {rules.Suspend, throttle.Key{Source: "s"}, "", throttle.Limits{}, start},
	} {
		o, err := backoff.Give(c.action, c.scope, c.stream, "by hand", "n1", c.limits, start, c.until)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v: %v, want %q", c, err, want)
		}
		if err == nil && (o.String() != "suspend source=s, until lifted: by hand" || o.ID == "") {
			t.Errorf("%s", o)
		}
	}
}

func TestStoredForm(t *testing.T) {
	e, _ := newEngine(t, backoff.DefaultOptions(), nil)
	o := e.Feed(start, attempt("slow down"))[0]
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"version":1,"id":"` + o.ID + `","action":"slow","scope":{"source":"s1","provider":"p"},"limits":{"message_rate":"10/min"},` +
		`"messages_per_connection":2,"created":"2026-03-01T12:00:00Z","until":"2026-03-01T12:30:00Z","rule":"p/slow","reason":"421 4.7.0 slow down","node":"n1"}`
	if string(data) != want {
		t.Errorf("stored as\n%s\nwant\n%s", data, want)
	}
	var back backoff.Order
	if err := json.Unmarshal(data, &back); err != nil || back != o {
		t.Errorf("read back %+v (%v), want %+v", back, err, o)
	}
	for _, bad := range []string{`{}`, `[]`, strings.Replace(want, `"version":1`, `"version":2`, 1), strings.Replace(want, `"slow"`, `"fly"`, 1),
		strings.Replace(want, `{"source":"s1","provider":"p"}`, `{}`, 1)} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}

func FuzzOrder(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"x","action":"slow","scope":{"source":"s1","provider":"p"},"limits":{"message_rate":"10/min"},"created":"2026-03-01T12:00:00Z"}`))
	f.Add([]byte(`{"version":1,"id":"x","action":"suspend_stream","scope":{"tenant":"t","stream":"s"},"created":"2026-03-01T12:00:00+02:00","until":"2026-03-02T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var o, again backoff.Order
		if json.Unmarshal(data, &o) != nil {
			return
		}
		s := backoff.NewOrders()
		s.Put(o)
		s.Expire(o.Until)
		out, err := json.Marshal(o)
		if err != nil {
			t.Skip() // a year beyond 9999 after conversion to UTC
		}
		if err := json.Unmarshal(out, &again); err != nil || again.String() != o.String() {
			t.Fatalf("%s became %s (%v)", o, again, err)
		}
	})
}
