package api_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/api"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

func TestEvents(t *testing.T) {
	b := setup(t)
	b.event("a@b.co", "Placed Order", `{"$value":12.5,"Item":"x"}`, b.now.Add(-time.Hour))
	b.event("a@b.co", "Viewed", `{}`, b.now.Add(-2*time.Hour))
	b.event("c@d.co", "Viewed", `{}`, b.now.Add(-3*time.Hour))
	order, viewed := b.metric("Placed Order"), b.metric("Viewed")
	a := b.do("GET", `/api/profiles?filter=equals(email,"a@b.co")`, "").want(200).get("data.0.id")
	of := `equals(profile_id,"` + a + `")`
	for filter, want := range map[string]string{
		of: order + " " + viewed,
		of + `,equals(metric_id,"` + viewed + `")`:                                                viewed,
		of + `,any(metric_id,["` + viewed + `","` + order + `"])`:                                 order + " " + viewed,
		of + `,greater-than(datetime,` + b.now.Add(-90*time.Minute).Format(time.RFC3339) + `)`:    order,
		of + `,less-than(timestamp,` + fmt.Sprint(b.now.Add(-90*time.Minute).Unix()) + `)`:        viewed,
		of + `,or(equals(metric_id,"` + order + `"),less-than(datetime,2020-01-01)),has(profile)`: order,
		of + `,not(equals(metric_id,"` + order + `"))`:                                            viewed,
		"": order + " " + viewed + " " + viewed, // from the warehouse
		`or(` + of + `,equals(metric_id,"` + viewed + `"))`: order + " " + viewed + " " + viewed,
	} {
		for _, size := range []string{"1000", "1"} {
			var got []string
			target := "/api/events?page[size]=" + size
			if filter != "" {
				target += "&filter=" + url.QueryEscape(filter)
			}
			for target != "" {
				r := b.do("GET", target, "").want(200)
				for i := range 3 {
					if m := r.get(fmt.Sprintf("data.%d.relationships.metric.data.id", i)); m != "" {
						got = append(got, m)
					}
				}
				target = strings.TrimPrefix(r.get("links.next"), "http://example.com")
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s by %s: %v, want %s", filter, size, got, want)
			}
		}
	}
	r := b.do("GET", "/api/events?include=profile,metric&sort=datetime&fields[profile]=email&fields[event]=event_properties&filter="+url.QueryEscape(of), "").want(200)
	if r.get("data.1.attributes.event_properties.Item") != "x" || r.get("data.1.attributes.datetime") != "" || r.get("included.0.attributes.email") != "a@b.co" ||
		r.get("included.1.attributes.name")+r.get("included.2.attributes.name") != "ViewedPlaced Order" || r.get("included.3") != "" {
		t.Error(r.Body)
	}
	id := r.get("data.1.id")
	r = b.do("GET", "/api/events/"+id+"?include=metric", "").want(200)
	if r.get("data.attributes.timestamp") == "" || r.get("included.0.id") != order || len(r.get("data.attributes.uuid")) != 36 {
		t.Error(r.Body)
	}
	b.do("GET", "/api/events/x", "").want(404)
	b.do("GET", "/api/events/"+strings.Repeat("0", len(id)), "").want(404)
	for query, parameter := range map[string]string{`filter=equals(metric_id,"x")`: "filter", `filter=equals(profile_id,"x")`: "filter", "filter=greater-than(timestamp,2026-01-01)": "filter",
		"filter=less-than(datetime,x)": "filter", "filter=equals(name,1)": "filter", "sort=name": "sort", "include=attributions": "include", "page[size]=1001": "page[size]"} {
		b.refuse(b.do("GET", "/api/events?"+query, ""), 400, parameter)
	}
	if got := b.do("GET", `/api/events?filter=equals(profile_id,"`+fact.ProfileID{1}.String()+`")`, "").want(200).get("data"); got != "[]" {
		t.Error(got)
	}
}

func TestEventsWithoutWarehouse(t *testing.T) {
	b := setup(t, func(_ *api.Options, d *api.Deps) { d.Warehouse = nil })
	b.refuse(b.do("GET", "/api/events", ""), 501, "filter")
	b.event("a@b.co", "Viewed", `{}`, b.now)
	b.refuse(b.do("POST", "/api/metric-aggregates", aggregate(b.metric("Viewed"), `,"by":["a","b"]`)), 501, "/data/attributes")
}

func TestBadEvent(t *testing.T) {
	b := setup(t)
	good := event("a@b.co", "M", `{}`, b.now)
	const at = "/data/attributes"
	for body, source := range map[string]string{
		`{}`:                        "/data",
		`{"data":{"type":"event"}}`: at,
		strings.Replace(good, `"type":"event"`, `"type":"x"`, 1):        "/data/type",
		strings.Replace(good, `"name":"M"`, `"name":""`, 1):             at + "/metric/data/attributes/name",
		strings.Replace(good, `"a@b.co"`, `"nobody"`, 1):                at + "/profile/data/attributes/email",
		strings.Replace(good, `"properties":{}`, `"properties":[]`, 1):  at + "/properties",
		strings.Replace(good, `"properties":{}`, `"value":"x"`, 1):      at + "/value",
		strings.Replace(good, `"properties":{}`, `"unique_id":""`, 1):   at + "/unique_id",
		strings.Replace(good, `"properties":{}`, `"backfill":"yes"`, 1): at + "/backfill",
		strings.Replace(good, `"time":"2026`, `"time":"soon`, 1):        at + "/time",
	} {
		b.refuse(b.do("POST", "/api/events", body), 400, source)
	}
	if b.world.Puts > 0 {
		t.Error("a bad event was put")
	}
}

func bulk(items ...string) string {
	return `{"data":{"type":"event-bulk-create-job","attributes":{"events-bulk-create":{"data":[` + strings.Join(items, ",") + `]}}}}`
}

func item(email string, names ...string) string {
	var events []string
	for i, name := range names {
		events = append(events, fmt.Sprintf(`{"type":"event","attributes":{"unique_id":"%s%d","metric":{"data":{"type":"metric","attributes":{"name":%q}}}}}`, name, i, name))
	}
	return fmt.Sprintf(`{"type":"event-bulk-create","attributes":{"profile":{"data":{"type":"profile","attributes":{"email":%q}}},"events":{"data":[%s]}}}`, email, strings.Join(events, ","))
}

func TestBulkEvents(t *testing.T) {
	b := setup(t)
	r := b.do("POST", "/api/event-bulk-create-jobs", bulk(item("a@b.co", "M", "M"), item("nobody", "M"), item("c@d.co", "M", ""))).want(202)
	if r.get("data.attributes.total_count") != "5" || r.get("data.attributes.completed_count") != "3" || r.get("data.attributes.failed_count") != "2" {
		t.Error(r.Body)
	}
	const at = "/data/attributes/events-bulk-create/data/"
	for i, pointer := range []string{at + "1/attributes/profile/data/attributes/email", at + "2/attributes/events/data/1/attributes/metric/data/attributes/name"} {
		if got := r.get(fmt.Sprintf("data.attributes.errors.%d.source.pointer", i)); got != pointer {
			t.Errorf("%d: %s", i, got)
		}
	}
	if got := len(strings.Fields(b.do("GET", "/api/events", "").want(200).ids())); got != 3 {
		t.Errorf("%d events", got)
	}
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprint("M", i)
	}
	b.refuse(b.do("POST", "/api/event-bulk-create-jobs", bulk(item("a@b.co", many...))), 400, "/data/attributes/events-bulk-create/data")
	b.refuse(b.do("POST", "/api/event-bulk-create-jobs", `{"data":{"type":"event-bulk-create-job"}}`), 400, "/data/attributes")
}

func TestMetrics(t *testing.T) {
	b := setup(t)
	for _, name := range []string{"B", "A", "C"} {
		b.event("a@b.co", name, `{}`, b.now)
	}
	r := b.do("GET", "/api/metrics?page[size]=2", "").want(200)
	if r.get("data.0.attributes.name")+r.get("data.1.attributes.name") != "AB" || r.get("data.0.attributes.integration.name") != "api" {
		t.Error(r.Body)
	}
	if r = b.do("GET", strings.TrimPrefix(r.get("links.next"), "http://example.com"), "").want(200); r.get("data.0.attributes.name") != "C" || r.get("links.next") != "" {
		t.Error(r.Body)
	}
	id := r.get("data.0.id")
	if got := b.do("GET", "/api/metrics/"+id+"?fields[metric]=name", "").want(200).get("data.attributes"); got != `{"name":"C"}` {
		t.Error(got)
	}
	if got := b.do("GET", `/api/metrics?filter=equals(integration.name,"shop")`, "").want(200).get("data"); got != "[]" {
		t.Error(got)
	}
	b.do("GET", "/api/metrics/x", "").want(404)
	b.do("GET", "/api/metrics/"+fact.MetricID(1).String(), "").want(404)
	b.refuse(b.do("GET", `/api/metrics?filter=equals(id,"x")`, ""), 400, "filter")
}

func TestAggregates(t *testing.T) {
	b := setup(t)
	day := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	b.event("a@b.co", "Order", `{"$value":1.25,"Shop":"x"}`, day)
	b.event("a@b.co", "Order", `{"$value":2,"Shop":"y"}`, day.Add(time.Hour))
	b.event("c@d.co", "Order", `{"$value":-0.000001,"Shop":"x"}`, day.Add(24*time.Hour))
	id := b.metric("Order")
	r := b.do("POST", "/api/metric-aggregates", aggregate(id, "")).want(200)
	for at, want := range map[string]string{"dates.0": "2026-03-01T00:00:00Z", "dates.6": "2026-03-07T00:00:00Z", "dates.7": "", "data.0.dimensions": "[]",
		"data.0.measurements.count": "[0,2,1,0,0,0,0]", "data.0.measurements.sum_value": "[0,3.25,-0.000001,0,0,0,0]", "data.0.measurements.unique": "[0,1,1,0,0,0,0]"} {
		if got := r.get("data.attributes." + at); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
	r = b.do("POST", "/api/metric-aggregates", aggregate(id, `,"by":["Shop"],"page_size":1,"interval":"day","timezone":"Europe/Paris","sort":"-count","return_fields":["x"]`)).want(200)
	if r.get("data.attributes.data.0.dimensions") != `["x"]` || !strings.HasSuffix(r.get("data.attributes.dates.0"), "+01:00") {
		t.Error(r.Body)
	}
	next := r.get("links.next")
	r = b.do("POST", "/api/metric-aggregates", aggregate(id, `,"by":["Shop"],"page_size":1,"timezone":"Europe/Paris","page_cursor":"`+next+`"`)).want(200)
	if r.get("data.attributes.data.0.dimensions") != `["y"]` || r.get("links.next") != "" {
		t.Error(r.Body)
	}
	if r = b.do("POST", "/api/metric-aggregates", aggregate(id, `,"by":["Shop","Item"]`), "Authorization", "Bearer "+keyReadOnly).want(200); r.get("data.attributes.data.0.dimensions.1") != "" {
		t.Error(r.Body)
	}
	b.refuse(b.do("POST", "/api/metric-aggregates", aggregate(fact.MetricID(1).String(), "")), 404, "/data/attributes/metric_id")
}

func TestBadAggregates(t *testing.T) {
	b := setup(t)
	b.event("a@b.co", "M", `{}`, b.now)
	id := b.metric("M")
	const at = "/data/attributes"
	for more, source := range map[string]string{
		`,"interval":"year"`: at + "/interval", `,"timezone":"Mars"`: at + "/timezone", `,"timezone":"Local"`: at + "/timezone", `,"by":[""]`: at + "/by/0",
		`,"by":["a","a"]`: at + "/by/1", `,"by":7`: at + "/by", `,"sort":"x"`: at + "/sort", `,"page_size":0`: at + "/page_size", `,"page_size":1001`: at + "/page_size",
		`,"page_cursor":"*"`: at + "/page_cursor", `,"page_cursor":"bm9wZQ"`: at + "/page_cursor", `,"x":1`: at + "/x", `,"by":["1","2","3","4","5","6","7","8","9"]`: at + "/by",
	} {
		b.refuse(b.do("POST", "/api/metric-aggregates", aggregate(id, more)), 400, source)
	}
	good := aggregate(id, "")
	for old, c := range map[string][2]string{
		`"type":"metric-aggregate"`: {`"type":"x"`, "/data/type"}, `"` + id + `"`: {`"x"`, at + "/metric_id"}, `["count","sum_value","unique"]`: {`[]`, at + "/measurements"},
		`"sum_value"`: {`"median"`, at + "/measurements/1"}, `"unique"`: {`"count"`, at + "/measurements/2"},
		`"greater-or-equal(datetime,2026-03-01)"`: {`"has(x)"`, at + "/filter/0"}, `"less-than(datetime,2026-03-08)"`: {`"less-than(datetime,soon)"`, at + "/filter/1"},
		`less-than(datetime`: {`less-or-equal(datetime`, at + "/filter/1"}, `2026-03-08`: {`2025-03-08`, at + "/filter"}, `"greater-or-equal(datetime,2026-03-01)",`: {"", at + "/filter"},
		`,"less-than(datetime,2026-03-08)"`: {"", at + "/filter"}, `"filter":[`: {`"filter":["or(equals(a,1),equals(b,2))",`, at + "/filter/0"},
		`"filter": [`: {"", ""},
	} {
		if strings.Contains(good, old) {
			b.refuse(b.do("POST", "/api/metric-aggregates", strings.Replace(good, old, c[0], 1)), 400, c[1])
		}
	}
	b.refuse(b.do("POST", "/api/metric-aggregates", strings.Replace(good, `"filter":[`, `"filter":["equals(a,1)","equals(a,2)",`, 1)), 400, at+"/filter/1")
	b.refuse(b.do("POST", "/api/metric-aggregates", strings.Replace(good, `"filter":[`, `"filter":["greater-than(a,1)",`, 1)), 400, at+"/filter/0")
	b.refuse(b.do("POST", "/api/metric-aggregates", strings.Replace(good, `"filter":[`, `"filter":["has(a),not(has(b))",`, 1)), 400, at+"/filter/0")
}

func TestSummary(t *testing.T) {
	b := setup(t)
	for _, ago := range []time.Duration{time.Hour, 25 * time.Hour, 50 * time.Hour, 1000 * time.Hour} {
		b.event("a@b.co", "M", `{"$value":1.5}`, b.now.Add(-ago))
	}
	id, metric := b.do("GET", "/api/profiles", "").want(200).ids(), b.metric("M")
	at := "/api/profiles/" + id + "/metric-summary?metric_id=" + metric
	r := b.do("GET", at+"&windows=1d,2h,7d,60m,10s,52w", "").want(200)
	for path, want := range map[string]string{"0.window": "1d", "0.count": "1", "0.sum_value": "1.5", "1.count": "1", "2.count": "3", "2.sum_value": "4.5", "4.count": "0", "4.first": "", "5.count": "4"} {
		if got := r.get("data.attributes.windows." + path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if first, last := r.get("data.attributes.windows.2.first"), r.get("data.attributes.windows.2.last"); first >= last {
		t.Error(first, last)
	}
	for query, parameter := range map[string]string{"&windows=": "windows", "&windows=1y": "windows", "&windows=0d": "windows", "&windows=d": "windows", "&windows=99999999999w": "windows",
		"&windows=" + strings.Repeat("1d,", 16) + "1d": "windows", "x&windows=1d": "metric_id", "&windows=1d&x=1": "x"} {
		b.refuse(b.do("GET", at+query, ""), 400, parameter)
	}
	b.do("GET", "/api/profiles/x/metric-summary?metric_id="+metric+"&windows=1d", "").want(404)
}

// TestDoorFails: what the log cannot take is not acknowledged.
func TestDoorFails(t *testing.T) {
	b := setup(t)
	b.world.AppendErr = context.DeadlineExceeded
	if r := b.do("POST", "/api/events", event("a@b.co", "M", `{}`, b.now)).want(503); r.Header().Get("Retry-After") != "5" {
		t.Error(r.Header())
	}
	b.world.AppendErr = fmt.Errorf("disk gone: secret path")
	if r := b.do("POST", "/api/events", event("a@b.co", "M", `{}`, b.now)).want(500); strings.Contains(r.Body.String(), "secret") {
		t.Error(r.Body)
	}
}
