package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/pipeline/api"
	"github.com/godwit-mta/godwit/pipeline/api/quota"
)

// stalled is a request body whose bytes do not come in time.
type stalled struct{}

func (stalled) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }
func (stalled) Close() error             { return nil }

// TestStatuses: every status that is listed can come. That none comes which is not, each answer of all tests is held to.
func TestStatuses(t *testing.T) {
	b := setup(t, func(_ *api.Options, d *api.Deps) { d.Warehouse = nil })
	p, q, list := b.profile("p@example.com"), b.profile("q@example.com"), b.list("L")
	b.event("p@example.com", "M", `{}`, b.now)
	metric := b.metric("M")
	ev := b.do("GET", `/api/events?filter=equals(profile_id,"`+p+`")`, "").want(200).ids()
	known := bodies(b, p, q, list)
	known["/api/profiles/"+p] = `{"data":{"type":"profile","id":"` + p + `"}}`
	known["/api/lists/"+list] = `{"data":{"type":"list","id":"` + list + `","attributes":{"name":"N"}}}`
	suppress := b.do("POST", "/api/profile-suppression-bulk-create-jobs", known["/api/profile-suppression-bulk-create-jobs"]).want(202).get("data.id")
	lift := b.do("POST", "/api/profile-suppression-bulk-delete-jobs", known["/api/profile-suppression-bulk-delete-jobs"]).want(202).get("data.id")
	job := b.do("POST", "/api/profile-bulk-import-jobs", known["/api/profile-bulk-import-jobs"]).want(202).get("data.id")
	ids := map[string]string{"lists": list, "events": ev, "metrics": metric, "profiles": p, "profile-bulk-import-jobs": job,
		"profile-suppression-bulk-create-jobs": suppress, "profile-suppression-bulk-delete-jobs": lift}
	routes := b.server.OpenAPI().Routes()
	routes = slices.DeleteFunc(routes, func(r string) bool { return r == "GET "+api.PathOpenAPI })
	const last = "DELETE /api/lists/{id}" // what comes after it has no list
	routes = append(slices.DeleteFunc(routes, func(r string) bool { return r == last }), last)
	for _, route := range routes {
		method, path, _ := strings.Cut(route, " ")
		good := strings.Replace(path, "{id}", ids[strings.Split(path, "/")[2]], 1)
		body := known[good]
		switch {
		case strings.HasSuffix(path, "metric-summary"):
			good += "?metric_id=" + metric + "&windows=1d"
		case route == "GET /api/events":
			good += `?filter=equals(profile_id,"` + p + `")`
		}
		if method == "GET" || route == last {
			body = ""
		}
		statuses(b, method, path, good, body)
	}
	special(b, p)
	for _, e := range routes {
		method, path, _ := strings.Cut(e, " ")
		for _, status := range b.listed(method, path) {
			if !b.seen[e][status] {
				t.Errorf("%s lists %d, which never came", e, status)
			}
		}
	}
}

// statuses provokes what an operation can answer, and at the end the good answer.
func statuses(b *bundle, method, path, good, body string) {
	join := "?"
	if strings.Contains(good, "?") {
		join = "&"
	}
	b.do(method, good+join+"wrong=1", body)
	b.do(method, good, body, "Authorization", "Bearer x")
	b.do(method, good, body, "Authorization", "Bearer "+keyReadOnly)
	b.do(method, good, body, "Authorization", "Bearer "+keyWriteOnly)
	b.do(method, strings.Replace(path, "{id}", "x", 1)+good[strings.Index(good+"?", "?"):], body)
	o := options()
	o.Limits = []quota.Rule{{Tenant: "*", Operation: "*", Burst: 1, Steady: 1}}
	for range 2 {
		if err := b.server.Reload(o); err != nil {
			b.t.Fatal(err)
		}
		b.do(method, good+"?wrong=1", body)
		b.do(method, good+"?wrong=1", body)
		o = options()
	}
	for _, err := range []error{errors.New("broken"), context.DeadlineExceeded} {
		b.world.ReadErr, b.world.AppendErr = err, err
		b.do(method, good, body)
		b.world.ReadErr = nil
		b.do(method, good, body)
		b.world.AppendErr = nil
	}
	if body != "" {
		b.do(method, good, body, "Content-Type", "text/plain")
		b.do(method, good, strings.Repeat(" ", 6<<20))
		b.do(method, good, "{")
		r := httptest.NewRequest(method, good, stalled{})
		r.ContentLength = 10
		b.send(r, body)
	}
	if method == "POST" {
		b.do(method, good, body+" ", "Idempotency-Key", good)
		b.do(method, good, body, "Idempotency-Key", good)
	}
	b.do(method, good, body)
}

// special provokes what needs more than one operation.
func special(b *bundle, p string) {
	b.do("POST", "/api/profiles", `{"data":{"type":"profile","attributes":{"email":"new5@example.com"}}}`).want(201)
	b.do("POST", "/api/profiles", `{"data":{"type":"profile","attributes":{"email":"new5@example.com"}}}`).want(409)
	b.do("PATCH", "/api/profiles/"+p, `{"data":{"type":"profile","id":"`+p+`","attributes":{"email":"new5@example.com"}}}`).want(409)
	b.do("POST", "/api/profile-import", `{"data":{"type":"profile","attributes":{"email":"new6@example.com"}}}`).want(201)
	b.do("POST", "/api/profile-import", `{"data":{"type":"profile","id":"x"}}`).want(404)
	b.do("GET", "/api/events", "").want(501)
	b.do("POST", "/api/profile-merge", `{"data":{"type":"profile-merge","id":"x","relationships":{"profiles":{"data":[{"type":"profile","id":"x"}]}}}}`).want(404)
	b.do("POST", "/api/metric-aggregates", aggregate("0000000000002", "")).want(404)
	b.event("new6@example.com", "M2", `{}`, b.now)
	b.do("POST", "/api/metric-aggregates", aggregate(b.metric("M2"), `,"by":["a","b"]`)).want(501)
}

// listed are the statuses that the document has of an operation.
func (b *bundle) listed(method, path string) (out []int) {
	var doc struct {
		Paths map[string]map[string]struct{ Responses map[string]any }
	}
	if err := json.Unmarshal(b.server.OpenAPI().JSON(), &doc); err != nil {
		b.t.Fatal(err)
	}
	for status := range doc.Paths[path][strings.ToLower(method)].Responses {
		n, err := strconv.Atoi(status)
		if err != nil {
			b.t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}
