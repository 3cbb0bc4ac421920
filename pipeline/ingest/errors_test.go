package ingest

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// few are limits that a test can reach.
func few(o *Options) {
	o.MaxPayload, o.MaxProperties, o.MaxField, o.MaxArray, o.MaxNesting, o.MaxEvents = 4<<10, 3, 40, 4, 2, 6
}

const (
	metricOK  = `"metric":{"data":{"type":"metric","attributes":{"name":"M"}}}`
	profileOK = `"profile":{"data":{"type":"profile","attributes":{"email":"a@b.example"}}}`
)

// ofProfile makes an event document of the inside of a profile resource.
func ofProfile(inside string) string {
	return `{"data":{"type":"event","attributes":{` + metricOK + `,"profile":{"data":{"type":"profile",` + inside + `}}}}}`
}

func ofMetric(metric string) string {
	return `{"data":{"type":"event","attributes":{"metric":` + metric + `,` + profileOK + `}}}`
}

const who = `"email":"a@b.example",`

// badEvents are documents with the pointers of the errors that they get.
var badEvents = []struct{ body, pointers string }{
	{`{}`, "/data"},
	{`[]`, ""},
	{`{"data":5}`, "/data"},
	{`{"data":{"type":"event"}}`, "/data/attributes"},
	{`{"data":{"type":"profile","attributes":{` + metricOK + `,` + profileOK + `}}}`, "/data/type"},
	{`{"data":{"type":1,"attributes":{` + metricOK + `,` + profileOK + `}}}`, "/data/type"},
	{`{"data":{"type":"event","attributes":null}}`, "/data/attributes"},
	{`{"data":{"type":"event","attributes":{}}}`, "/data/attributes/metric /data/attributes/profile"},
	{`{"data":{"type":"event","attributes":{` + profileOK + `}}}`, "/data/attributes/metric"},
	{`{"data":{"type":"event","attributes":{` + metricOK + `}}}`, "/data/attributes/profile"},
	{event(`"uniqueid":"x"`), "/data/attributes/uniqueid"},
	{event(`"a/b~c":"x"`), "/data/attributes/a~1b~0c"},

	{event(`"time":5`), "/data/attributes/time"},
	{event(`"time":"yesterday"`), "/data/attributes/time"},
	{event(`"time":"2026-02-30T00:00:00Z"`), "/data/attributes/time"},
	{event(`"time":"1969-12-31T00:00:00Z"`), "/data/attributes/time"},
	{event(`"time":"2029-01-01T00:00:00Z"`), "/data/attributes/time"},
	{event(`"value":"5"`), "/data/attributes/value"},
	{event(`"value":1e30`), "/data/attributes/value"},
	{event(`"value":{}`), "/data/attributes/value"},
	{event(`"value_currency":"EURO"`), "/data/attributes/value_currency"},
	{event(`"value_currency":5`), "/data/attributes/value_currency"},
	{event(`"unique_id":""`), "/data/attributes/unique_id"},
	{event(`"unique_id":5`), "/data/attributes/unique_id"},
	{event(`"unique_id":"` + strings.Repeat("x", 256) + `"`), "/data/attributes/unique_id"},
	{event(`"backfill":"yes"`), "/data/attributes/backfill"},
	{event(`"time":5,"value":"5","unique_id":""`), "/data/attributes/time /data/attributes/value /data/attributes/unique_id"},

	{event(`"properties":5`), "/data/attributes/properties"},
	{event(`"properties":{"a":1,"b":2,"c":3,"d":4}`), "/data/attributes/properties"},
	{event(`"properties":{"a":"` + strings.Repeat("x", 39) + `"}`), "/data/attributes/properties/a"},
	{event(`"properties":{"a":[1,2,3,4,5]}`), "/data/attributes/properties/a"},
	{event(`"properties":{"a":{"b":[[]]}}`), "/data/attributes/properties/a"},
	{event(`"properties":{"$value":1e30}`), "/data/attributes/properties/$value"},
	{event(`"properties":{"` + strings.Repeat("n", 256) + `":1}`), "/data/attributes/properties/" + strings.Repeat("n", 100) + "…"},

	{ofMetric(`5`), "/data/attributes/metric"},
	{ofMetric(`{}`), "/data/attributes/metric/data"},
	{ofMetric(`{"data":[]}`), "/data/attributes/metric/data"},
	{ofMetric(`{"data":{"type":"event","attributes":{"name":"M"}}}`), "/data/attributes/metric/data/type"},
	{ofMetric(`{"data":{}}`), "/data/attributes/metric/data/attributes/name"},
	{ofMetric(`{"data":{"attributes":{"name":""}}}`), "/data/attributes/metric/data/attributes/name"},
	{ofMetric(`{"data":{"attributes":{"name":null}}}`), "/data/attributes/metric/data/attributes/name"},
	{ofMetric(`{"data":{"attributes":{"name":5}}}`), "/data/attributes/metric/data/attributes/name"},
	{ofMetric(`{"data":{"attributes":{"name":"` + strings.Repeat("ä", 129) + `"}}}`), "/data/attributes/metric/data/attributes/name"},
	{ofMetric(`{"data":{"attributes":{"name":"M","service":""}}}`), "/data/attributes/metric/data/attributes/service"},
	{ofMetric(`{"data":{"attributes":7}}`), "/data/attributes/metric/data/attributes"},

	{`{"data":{"type":"event","attributes":{` + metricOK + `,"profile":null}}}`, "/data/attributes/profile"},
	{`{"data":{"type":"event","attributes":{` + metricOK + `,"profile":{"data":null}}}}`, "/data/attributes/profile/data"},
	{`{"data":{"type":"event","attributes":{` + metricOK + `,"profile":{}}}}`, "/data/attributes/profile/data"},
	{ofProfile(`"attributes":{}`), "/data/attributes/profile/data/attributes"},
	{ofProfile(`"attributes":{"_kx":"abc"}`), "/data/attributes/profile/data/attributes"},
	{ofProfile(`"attributes":5`), "/data/attributes/profile/data/attributes"},
	{ofProfile(`"id":"x","attributes":{}`), "/data/attributes/profile/data/id"},
	{ofProfile(`"id":7,"attributes":{}`), "/data/attributes/profile/data/id"},
	{ofProfile(`"attributes":{"email":"nobody"}`), "/data/attributes/profile/data/attributes/email"},
	{ofProfile(`"attributes":{"email":5}`), "/data/attributes/profile/data/attributes/email"},
	{ofProfile(`"attributes":{"email":"a@b@c"}`), "/data/attributes/profile/data/attributes/email"},
	{ofProfile(`"attributes":{"phone_number":"123"}`), "/data/attributes/profile/data/attributes/phone_number"},
	{ofProfile(`"attributes":{"external_id":""}`), "/data/attributes/profile/data/attributes/external_id"},
	{ofProfile(`"attributes":{"anonymous_id":"a\u0000"}`), "/data/attributes/profile/data/attributes/anonymous_id"},
	{ofProfile(`"attributes":{` + who + `"first_name":5}`), "/data/attributes/profile/data/attributes/first_name"},
	{ofProfile(`"attributes":{` + who + `"last_name":{}}`), "/data/attributes/profile/data/attributes/last_name"},
	{ofProfile(`"attributes":{` + who + `"organization":"` + strings.Repeat("x", 99) + `"}`), "/data/attributes/profile/data/attributes/organization"},
	{ofProfile(`"attributes":{` + who + `"title":true}`), "/data/attributes/profile/data/attributes/title"},
	{ofProfile(`"attributes":{` + who + `"locale":"not a tag"}`), "/data/attributes/profile/data/attributes/locale"},
	{ofProfile(`"attributes":{` + who + `"image":"javascript:x"}`), "/data/attributes/profile/data/attributes/image"},
	{ofProfile(`"attributes":{` + who + `"nickname":"x"}`), "/data/attributes/profile/data/attributes/nickname"},
	{ofProfile(`"attributes":{` + who + `"created":"2020-01-01T00:00:00Z"}`), "/data/attributes/profile/data/attributes/created"},
	{ofProfile(`"attributes":{` + who + `"subscriptions":{}}`), "/data/attributes/profile/data/attributes/subscriptions"},
	{ofProfile(`"attributes":{` + who + `"location":"Berlin"}`), "/data/attributes/profile/data/attributes/location"},
	{ofProfile(`"attributes":{` + who + `"location":{"planet":"Mars"}}`), "/data/attributes/profile/data/attributes/location/planet"},
	{ofProfile(`"attributes":{` + who + `"location":{"city":5}}`), "/data/attributes/profile/data/attributes/location/city"},
	{ofProfile(`"attributes":{` + who + `"location":{"latitude":91}}`), "/data/attributes/profile/data/attributes/location/latitude"},
	{ofProfile(`"attributes":{` + who + `"location":{"longitude":"far"}}`), "/data/attributes/profile/data/attributes/location/longitude"},
	{ofProfile(`"attributes":{` + who + `"location":{"timezone":"Mars/Base"}}`), "/data/attributes/profile/data/attributes/location/timezone"},
	{ofProfile(`"attributes":{` + who + `"location":{"ip":"1.2.3"}}`), "/data/attributes/profile/data/attributes/location/ip"},
	{ofProfile(`"attributes":{` + who + `"properties":[]}`), "/data/attributes/profile/data/attributes/properties"},
	{ofProfile(`"attributes":{` + who + `"properties":{"a":[1,2,3,4,5]}}`), "/data/attributes/profile/data/attributes/properties/a"},
	{ofProfile(`"attributes":{"email":"a@b.example"},"meta":5`), "/data/attributes/profile/data/meta"},
	{ofProfile(`"attributes":{"email":"a@b.example"},"meta":{"patch_properties":5}`), "/data/attributes/profile/data/meta/patch_properties"},
	{ofProfile(`"attributes":{"email":"a@b.example"},"meta":{"patch_properties":{"append":5}}`), "/data/attributes/profile/data/meta/patch_properties/append"},
	{ofProfile(`"attributes":{"email":"a@b.example"},"meta":{"patch_properties":{"unset":5}}`), "/data/attributes/profile/data/meta/patch_properties/unset"},
	{ofProfile(`"attributes":{"email":"a@b.example"},"meta":{"patch_properties":{"unset":["a",5]}}`), "/data/attributes/profile/data/meta/patch_properties/unset/1"},
	{ofProfile(`"attributes":{"email":"a@b.example"},"meta":{"patch_properties":{"delete":5}}`), "/data/attributes/profile/data/meta/patch_properties/delete"},
}

func TestEventErrors(t *testing.T) {
	for _, c := range badEvents {
		w := newWorld(t, few, nil)
		_, err := w.Event(context.Background(), "acme", []byte(c.body), "")
		if err == nil {
			t.Errorf("%s: taken", c.body)
			continue
		}
		if got := strings.Join(pointers(t, err), " "); got != c.pointers {
			t.Errorf("%s: errors at %s, want %s", c.body, got, c.pointers)
		}
		if len(w.all(t)) > 0 {
			t.Errorf("%s: left a record", c.body)
		}
	}
}

func TestMalformed(t *testing.T) {
	w := newWorld(t, few, nil)
	for _, body := range []string{
		``, ` `, `{`, `{"data":`, `{"data":{}} x`, `{"data":{"type":"event",}}`, `{'data':1}`, "{\"data\":\"\xff\"}", event(`"properties":{"a":01}`),
		event(`"properties":{"a":"` + "\n" + `"}`), event(`"properties":{"a":"\x"}`), strings.Repeat("[", 1000), event(`"properties":{"a":[1,]}`), event(`"value":1.`),
	} {
		_, err := w.Event(context.Background(), "acme", []byte(body), "")
		errs, ok := err.(jsonapi.Errors)
		if !ok || len(errs) != 1 || errs[0].Code != "malformed" || errs[0].Status != http.StatusBadRequest {
			t.Errorf("%s: %v", body, err)
		}
		if _, _, err := w.Bulk(context.Background(), "acme", []byte(body), ""); err == nil {
			t.Errorf("%s: bulk took it", body)
		}
	}
	_, err := w.Event(context.Background(), "acme", make([]byte, 4<<10+1), "")
	if errs, ok := err.(jsonapi.Errors); !ok || errs[0].Status != http.StatusRequestEntityTooLarge || errs[0].Error() != TooLarge(units.Size(4<<10)).Error() {
		t.Error(err)
	}
}

// item makes an item of a bulk job with n events.
func item(n int, more string) string {
	return `{"type":"event-bulk-create","attributes":{"events":{"data":[` +
		strings.TrimSuffix(strings.Repeat(`{"type":"event","attributes":{"unique_id":"u",`+metricOK+`}},`, n), ",") + `]}` + more + `,` + profileOK + `}}`
}

func job(items ...string) string {
	return `{"data":{"type":"event-bulk-create-job","attributes":{"events-bulk-create":{"data":[` + strings.Join(items, ",") + `]}}}}`
}

func TestBulk(t *testing.T) {
	w := newWorld(t, few, nil)
	bad := func(events string) string {
		return `{"type":"event-bulk-create","attributes":{` + profileOK + `,"events":` + events + `}}`
	}
	const good = `{"type":"event","attributes":{` + metricOK + `}}`
	body := job(
		item(1, ``),
		`{"attributes":{"profile":{"data":{"attributes":{"email":"x"}}},"events":{"data":[`+good+`,`+good+`]}}}`,
		bad(`{"data":[{"type":"event","attributes":{"time":1,`+metricOK+`}},`+good+`]}`),
		bad(`5`),
	)
	at, report, err := w.Bulk(context.Background(), "acme", []byte(body), "s")
	if err != nil {
		t.Fatal(err)
	}
	const base = "/data/attributes/events-bulk-create/data/"
	got := ""
	for _, r := range report.Refused {
		got += fmt.Sprintln(r.Item, r.Event, r.Events, pointers(t, r.Errors))
	}
	want := "1 -1 2 [" + base + "1/attributes/profile/data/attributes/email]\n" +
		"2 0 1 [" + base + "2/attributes/events/data/0/attributes/time]\n" +
		"3 -1 1 [" + base + "3/attributes/events]\n"
	if got != want || report.Events != 6 || report.Accepted != 2 || len(at) != 1 {
		t.Errorf("%+v %v\n%s", report, at, got)
	}
	all := w.all(t)
	if len(all) != 2 || all[0].Event.UID != "u" || all[1].Event.UID != seedOf("s")+"2.1" {
		t.Error(all)
	}
}

func TestBulkOfAWholeKind(t *testing.T) {
	w := newWorld(t, few, nil)
	with := strings.Replace(item(3, `,"backfill":true`), `"email"`, `"first_name":"Ann","email"`, 1)
	if _, report, err := w.Bulk(context.Background(), "acme", []byte(job(with)), ""); err != nil || report.Accepted != 3 || len(report.Refused) > 0 {
		t.Fatal(report, err)
	}
	for i, in := range w.all(t) {
		if !in.Event.Backfill || (in.Change != nil) != (i == 0) {
			t.Errorf("%d: %+v %+v", i, in.Event, in.Change)
		}
	}
}

// badJobs are documents of jobs that are refused as a whole, and items, with pointers.
var badJobs = []struct{ body, pointers string }{
	{`{}`, "/data"},
	{`{"data":[]}`, "/data"},
	{`{"data":{"type":"x","attributes":{"events-bulk-create":{"data":[]}}}}`, "/data/type"},
	{`{"data":{}}`, "/data/attributes"},
	{`{"data":{"attributes":5}}`, "/data/attributes"},
	{`{"data":{"attributes":{}}}`, "/data/attributes/events-bulk-create"},
	{`{"data":{"attributes":{"events-bulk-create":[]}}}`, "/data/attributes/events-bulk-create"},
	{`{"data":{"attributes":{"events-bulk-create":{}}}}`, "/data/attributes/events-bulk-create/data"},
	{`{"data":{"attributes":{"events-bulk-create":{"data":{}}}}}`, "/data/attributes/events-bulk-create/data"},
	{job(item(3, ``), item(4, ``)), "/data/attributes/events-bulk-create/data"},
}

var badItems = []struct{ item, pointers string }{
	{`5`, "0"},
	{`{}`, "0/attributes/profile"},
	{`{"type":"event","attributes":{` + profileOK + `,"events":{"data":[]}}}`, "0/type"},
	{`{"attributes":[]}`, "0/attributes"},
	{`{"attributes":{` + profileOK + `}}`, "0/attributes/events"},
	{`{"attributes":{` + profileOK + `,"events":{}}}`, "0/attributes/events/data"},
	{`{"attributes":{` + profileOK + `,"events":{"data":{}}}}`, "0/attributes/events/data"},
	{`{"attributes":{` + profileOK + `,"events":{"data":[7]}}}`, "0/attributes/events/data/0"},
	{`{"attributes":{` + profileOK + `,"events":{"data":[{}]}}}`, "0/attributes/events/data/0/attributes"},
	{`{"attributes":{` + profileOK + `,"events":{"data":[{"attributes":{` + metricOK + `,` + profileOK + `}}]}}}`, "0/attributes/events/data/0/attributes/profile"},
	{`{"attributes":{"profile":{},"events":{"data":[]}}}`, "0/attributes/profile/data"},
	{`{"attributes":{"profile":{"data":{}},"events":{"data":[]}}}`, "0/attributes/profile/data/attributes"},
	{`{"attributes":{` + profileOK + `,"events":{"data":[]},"x":1}}`, "0/attributes/x"},
	{`{"attributes":{` + profileOK + `,"events":{"data":[]},"backfill":1}}`, "0/attributes/backfill"},
}

func TestBulkErrors(t *testing.T) {
	w := newWorld(t, few, nil)
	for _, c := range badJobs {
		_, _, err := w.Bulk(context.Background(), "acme", []byte(c.body), "")
		if err == nil {
			t.Errorf("%s: taken", c.body)
		} else if got := strings.Join(pointers(t, err), " "); got != c.pointers {
			t.Errorf("%s: errors at %s, want %s", c.body, got, c.pointers)
		}
	}
	for _, c := range badItems {
		_, report, err := w.Bulk(context.Background(), "acme", []byte(job(c.item)), "")
		if err != nil || len(report.Refused) != 1 {
			t.Errorf("%s: %v %v", c.item, report, err)
			continue
		}
		got := strings.ReplaceAll(strings.Join(pointers(t, report.Refused[0].Errors), " "), "/data/attributes/events-bulk-create/data/", "")
		if got != c.pointers || report.Accepted != 0 {
			t.Errorf("%s: errors at %s, want %s", c.item, got, c.pointers)
		}
	}
	if len(w.all(t)) > 0 {
		t.Error("records were left")
	}
}

func TestProfileChange(t *testing.T) {
	o := DefaultOptions()
	who, c, errs := o.ProfileChange("acme", []byte(` {"phone_number":null,"email":"A@b.example","last_name":null,"title":"Dr","locale":"de_at","location":{"city":null,"longitude":-1.5},"properties":{"a":null}} `),
		[]byte(`{"patch_properties":{"unset":["x","y"],"unappend":{"b":1}},"patch_identifiers":true}`), "/data")
	if errs != nil || fmt.Sprint(who) != "[{email a@b.example}]" ||
		string(c.Attributes) != `{"email":"a@b.example","phone_number":null,"last_name":null,"title":"Dr","locale":"de-AT","location":{"city":null,"longitude":-1.5}}` ||
		string(c.Properties) != `{"a":null}` || string(c.Unset) != `["x","y"]` || string(c.Unappend) != `{"b":1}` || c.Append != nil {
		t.Errorf("%v %v %+v\n%s", who, errs, c, c.Attributes)
	}
	if who, c, errs = o.ProfileChange("acme", []byte(`{}`), nil, "/data"); errs != nil || len(who) > 0 || !reflect.DeepEqual(*c, fact.Change{Attributes: c.Attributes}) || len(c.Attributes) > 0 {
		t.Error(who, c, errs)
	}
	_, c, errs = o.ProfileChange("acme", []byte(`{"email":"x","title":5}`), []byte(`{"patch_properties":1}`), "/data/attributes/profiles/data/3")
	if got := pointers(t, errs); c != nil || fmt.Sprint(got) != "[/data/attributes/profiles/data/3/attributes/email /data/attributes/profiles/data/3/attributes/title /data/attributes/profiles/data/3/meta/patch_properties]" {
		t.Error(got)
	}
	_, _, errs = o.ProfileChange("acme", []byte(`{"email":`), nil, "/data")
	if got := pointers(t, errs); fmt.Sprint(got) != "[/data/attributes]" {
		t.Error(got)
	}
}
