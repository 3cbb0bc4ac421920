package api_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/api"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

const ada = `{"data":{"type":"profile","attributes":{"email":"Ada@Example.COM","phone_number":"+15005550006","external_id":"x1","anonymous_id":"secret","first_name":"Ada",
	"location":{"city":"Paris","latitude":48.8,"timezone":"Europe/Paris"},"properties":{"plan":"pro"}}}}`

func TestCreateProfile(t *testing.T) {
	b := setup(t)
	r := b.do("POST", "/api/profiles", ada).want(201)
	id := r.get("data.id")
	for at, want := range map[string]string{"data.type": "profile", "data.attributes.email": "ada@example.com", "data.attributes.phone_number": "+15005550006",
		"data.attributes.external_id": "x1", "data.attributes.first_name": "Ada", "data.attributes.location.city": "Paris", "data.attributes.properties.plan": "pro",
		"data.attributes.anonymous_id": "", "data.links.self": "http://example.com/api/profiles/" + id, "data.attributes.subscriptions": ""} {
		if got := r.get(at); got != want {
			t.Errorf("%s: %q, want %q", at, got, want)
		}
	}
	if b.do("GET", "/api/profiles/"+id, "").want(200).get("data.attributes.email") != "ada@example.com" {
		t.Error("the profile cannot be read")
	}
	for _, body := range []string{`{"data":{"type":"profile","attributes":{"email":"ADA@example.com","external_id":"new"}}}`, `{"data":{"type":"profile","attributes":{"phone_number":"+1 500 555 0006"}}}`} {
		r = b.do("POST", "/api/profiles", body)
		b.refuse(r, 409, "/data/attributes")
		if r.get("errors.0.code") != "duplicate_profile" || r.get("errors.0.meta.duplicate_profile_id") != id {
			t.Error(r.Body)
		}
	}
}

// TestCreateAtOnce: of many requests for one new address one makes the profile, the others get its id.
func TestCreateAtOnce(t *testing.T) {
	b := setup(t)
	b.step = 0 // all are accepted in one millisecond
	codes := make(chan int)
	for range 20 {
		go func() {
			codes <- b.do("POST", "/api/profiles", `{"data":{"type":"profile","attributes":{"email":"a@b.co","external_id":"1"}}}`).Code
		}()
	}
	got := map[int]int{}
	for range 20 {
		got[<-codes]++
	}
	if got[201] != 1 || got[409] != 19 {
		t.Error(got)
	}
}

// TestCreateElsewhere: another node makes the profile between look and leap.
func TestCreateElsewhere(t *testing.T) {
	b := setup(t)
	who := []fact.Identifier{{Kind: fact.ByEmail, Value: "a@b.co"}}
	b.world.Before = func() {
		b.world.Before = nil
		if _, err := b.world.Door.Put(t.Context(), []*fact.Intake{{Kind: fact.KindChange, Tenant: "acme", Who: who, Change: &fact.Change{}}}); err != nil {
			t.Error(err)
		}
	}
	b.refuse(b.do("POST", "/api/profiles", `{"data":{"type":"profile","attributes":{"email":"a@b.co"}}}`), 409, "/data/attributes")
}

func TestBadProfile(t *testing.T) {
	b := setup(t)
	id := b.profile("a@b.co")
	with := func(attributes string) string { return `{"data":{"type":"profile","attributes":{` + attributes + `}}}` }
	for body, source := range map[string]string{
		`{}`:                          "/data",
		`{"data":null}`:               "/data",
		`{"data":[]}`:                 "/data",
		`{"data":{"type":"profile"}}`: "/data/attributes",
		`{"data":{"type":"event","attributes":{"email":"c@d.co"}}}`:                     "/data/type",
		`{"data":{"type":"profile","id":7,"attributes":{"email":"c@d.co"}}}`:            "/data/id",
		`{"data":{"type":"profile","id":"` + id + `","attributes":{"email":"c@d.co"}}}`: "/data/id",
		`{"data":{"type":"profile","x/y":1,"attributes":{"email":"c@d.co"}}}`:           "/data/x~1y",
		`{"data":{"type":"profile","attributes":{"email":"c@d.co"}},"x":1}`:             "/x",
		with(``):                                             "/data/attributes",
		with(`"email":"nobody"`):                             "/data/attributes/email",
		with(`"email":7`):                                    "/data/attributes/email",
		with(`"phone_number":"12"`):                          "/data/attributes/phone_number",
		with(`"external_id":""`):                             "/data/attributes/external_id",
		with(`"email":"c@d.co","name":"x"`):                  "/data/attributes/name",
		with(`"email":"c@d.co","created":"x"`):               "/data/attributes/created",
		with(`"email":"c@d.co","first_name":1`):              "/data/attributes/first_name",
		with(`"email":"c@d.co","locale":"???"`):              "/data/attributes/locale",
		with(`"email":"c@d.co","location":[]`):               "/data/attributes/location",
		with(`"email":"c@d.co","location":{"planet":"x"}`):   "/data/attributes/location/planet",
		with(`"email":"c@d.co","location":{"latitude":91}`):  "/data/attributes/location/latitude",
		with(`"email":"c@d.co","location":{"timezone":"x"}`): "/data/attributes/location/timezone",
		with(`"email":"c@d.co","properties":[]`):             "/data/attributes/properties",
		`{"data":`:                                           "/data",
		`nonsense`:                                           "",
	} {
		r := b.do("POST", "/api/profiles", body)
		b.refuse(r, 400, source)
	}
	puts := b.world.Puts
	b.refuse(b.do("POST", "/api/profiles", with(`"email":"c@d.co","properties":{"deep":`+strings.Repeat("[", 30)+strings.Repeat("]", 30)+`}`)), 400, "/data/attributes/properties/deep")
	if b.world.Puts != puts {
		t.Error("a refused profile was put")
	}
}

func TestPatchProfile(t *testing.T) {
	b := setup(t)
	id := b.do("POST", "/api/profiles", ada).want(201).get("data.id")
	other := b.profile("other@example.com")
	patch := func(attributes, meta string) reply {
		return b.do("PATCH", "/api/profiles/"+id, `{"data":{"type":"profile","id":"`+id+`","attributes":{`+attributes+`}`+meta+`}}`)
	}
	r := patch(`"first_name":null,"last_name":"L","email":"new@example.com"`, "").want(200)
	if r.get("data.attributes.first_name") != "" || r.get("data.attributes.last_name") != "L" || r.get("data.attributes.email") != "new@example.com" || r.get("data.id") != id {
		t.Error(r.Body)
	}
	patch(``, `,"meta":{"patch_properties":{"append":{"a":1},"unset":["plan"]}}`).want(200)
	r = patch(`"email":"other@example.com"`, "")
	b.refuse(r, 409, "/data/attributes")
	if r.get("errors.0.meta.duplicate_profile_id") != other {
		t.Error(r.Body)
	}
	b.refuse(patch(`"email":"x"`, ""), 400, "/data/attributes/email")
	b.refuse(patch("", `,"meta":{"patch_properties":{"append":7}}`), 400, "/data/meta/patch_properties/append")
	b.refuse(b.do("PATCH", "/api/profiles/"+id, `{"data":{"type":"profile","id":"`+other+`","attributes":{}}}`), 400, "/data/id")
	for _, unknown := range []string{"x", fact.ProfileID{1}.String()} {
		b.refuse(b.do("PATCH", "/api/profiles/"+unknown, `{"data":{"type":"profile","id":"x"}}`), 404, "")
	}
}

func TestImportProfile(t *testing.T) {
	b := setup(t)
	body := `{"data":{"type":"profile","attributes":{"external_id":"1","first_name":"A"}}}`
	id := b.do("POST", "/api/profile-import", body).want(201).get("data.id")
	if r := b.do("POST", "/api/profile-import", strings.Replace(body, `"A"`, `"B"`, 1)).want(200); r.get("data.id") != id || r.get("data.attributes.first_name") != "B" {
		t.Error(r.Body)
	}
	if r := b.do("POST", "/api/profile-import", `{"data":{"type":"profile","id":"`+id+`","attributes":{"title":"T"}}}`).want(200); r.get("data.attributes.title") != "T" {
		t.Error(r.Body)
	}
	b.refuse(b.do("POST", "/api/profile-import", `{"data":{"type":"profile","id":"`+fact.ProfileID{1}.String()+`"}}`), 404, "/data/id")
	b.refuse(b.do("POST", "/api/profile-import", `{"data":{"type":"profile","attributes":{"title":"T"}}}`), 400, "/data/attributes")
	b.refuse(b.do("POST", "/api/profile-import", `{"data":{"type":"profile","attributes":{"email":"T"}}}`), 400, "/data/attributes/email")
}

// TestUnseen: a write that cannot be read in time is answered from the request.
func TestUnseen(t *testing.T) {
	b := setup(t)
	b.world.WaitErr = errors.New("late")
	r := b.do("POST", "/api/profiles", ada).want(201)
	if r.get("data.attributes.email") != "ada@example.com" || r.get("data.attributes.first_name") != "Ada" || len(r.get("data.id")) != 26 {
		t.Error(r.Body)
	}
	lagging := setup(t, func(_ *api.Options, d *api.Deps) { d.Identities = nobody{d.Identities} })
	lagging.do("POST", "/api/profiles", ada).want(503)
}

// nobody knows nobody.
type nobody struct{ api.Identities }

func (nobody) Lookup(string, fact.Identifier) (id fact.ProfileID, found bool, err error) { return }

func TestGetProfile(t *testing.T) {
	b := setup(t)
	id := b.do("POST", "/api/profiles", ada).want(201).get("data.id")
	at := "/api/profiles/" + id
	r := b.do("GET", at+"?fields[profile]=email,location.city", "").want(200)
	if r.get("data.attributes") != `{"email":"ada@example.com","location":{"city":"Paris"}}` {
		t.Error(r.Body)
	}
	r = b.do("GET", at+"?additional-fields[profile]=subscriptions", "").want(200)
	if r.get("data.attributes.subscriptions.email.marketing.consent") != "NEVER_SUBSCRIBED" {
		t.Error(r.Body)
	}
	list := b.list("L")
	b.do("POST", "/api/lists/"+list+"/relationships/profiles", `{"data":[{"type":"profile","id":"`+id+`"}]}`).want(204)
	r = b.do("GET", at+"?include=lists", "").want(200)
	if r.get("included.0.id") != list || r.get("data.relationships.lists.data.0.id") != list {
		t.Error(r.Body)
	}
	for query, parameter := range map[string]string{"include=x": "include", "fields[profile]=x": "fields[profile]", "additional-fields[profile]=email": "additional-fields[profile]",
		"sort=email": "sort", "page[size]=1": "page[size]", "x=1": "x"} {
		b.refuse(b.do("GET", at+"?"+query, ""), 400, parameter)
	}
	for _, unknown := range []string{"x", fact.ProfileID{1}.String()} {
		b.refuse(b.do("GET", "/api/profiles/"+unknown, ""), 404, "")
	}
}

func TestListProfiles(t *testing.T) {
	b := setup(t)
	var ids []string
	var made []time.Time
	for i := range 5 {
		b.pass(time.Hour)
		ids = append(ids, b.profile(fmt.Sprintf("p%d@example.com", i)))
		b.mu.Lock()
		made = append(made, b.now)
		b.mu.Unlock()
	}
	for filter, want := range map[string]string{
		`equals(email,"P1@example.com")`:                                            ids[1],
		`any(email,["p1@example.com","p3@example.com","nobody"])`:                   ids[1] + " " + ids[3],
		`equals(id,"` + ids[2] + `")`:                                               ids[2],
		`equals(id,"x")`:                                                            "",
		`equals(email,"nobody@example.com")`:                                        "",
		`or(equals(email,"p0@example.com"),equals(id,"` + ids[4] + `"))`:            ids[0] + " " + ids[4],
		`greater-than(created,` + made[2].Format(time.RFC3339Nano) + `)`:            ids[3] + " " + ids[4],
		`less-than(created,` + made[1].Add(-time.Minute).Format(time.RFC3339) + `)`: ids[0],
		`greater-than(created,` + made[0].Format(time.RFC3339Nano) + `),less-than(updated,` + made[3].Add(-time.Minute).Format(time.RFC3339Nano) + `)`: ids[1] + " " + ids[2],
		`any(email,["p1@example.com","p3@example.com"]),greater-than(created,` + made[2].Format(time.RFC3339Nano) + `)`:                                ids[3],
		`not(equals(email,"p0@example.com")),not(equals(email,"p1@example.com")),not(any(id,["` + ids[2] + `","` + ids[3] + `"]))`:                     ids[4],
		`or(less-than(created,` + made[0].Add(time.Minute).Format(time.RFC3339) + `),greater-than(created,` + made[3].Format(time.RFC3339Nano) + `))`:  ids[0] + " " + ids[4],
	} {
		for _, size := range []string{"1000", "1"} {
			got, target := []string{}, "/api/profiles?sort=created&page[size]="+size+"&filter="+url.QueryEscape(filter)
			for target != "" {
				r := b.do("GET", target, "").want(200)
				if s := r.ids(); s != "" {
					got = append(got, s)
				}
				target = strings.TrimPrefix(r.get("links.next"), "http://example.com")
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s by %s: %v, want %s", filter, size, got, want)
			}
		}
	}
	if got := b.do("GET", "/api/profiles?sort=-created", "").want(200).ids(); got != ids[4]+" "+ids[3]+" "+ids[2]+" "+ids[1]+" "+ids[0] {
		t.Error(got)
	}
	for query, parameter := range map[string]string{"filter=equals(": "filter", `filter=equals(title,"x")`: "filter", "filter=greater-than(created,soon)": "filter",
		"sort=title": "sort", "page[size]=1001": "page[size]", "page[cursor]=bm9wZQ": "page[cursor]", "page[cursor]=*": "page[cursor]"} {
		b.refuse(b.do("GET", "/api/profiles?"+query, ""), 400, parameter)
	}
}

func TestMergeProfiles(t *testing.T) {
	b := setup(t)
	a, c := b.profile("a@b.co"), b.profile("c@d.co")
	b.event("c@d.co", "Viewed", `{}`, b.now)
	merge := func(to, from string) string {
		return `{"data":{"type":"profile-merge","id":"` + to + `","relationships":{"profiles":{"data":[{"type":"profile","id":"` + from + `"}]}}}}`
	}
	if got := b.do("POST", "/api/profile-merge", merge(a, c)).want(202).get("data.id"); got != a {
		t.Error(got)
	}
	if got := b.do("GET", "/api/profiles/"+c, "").want(200).get("data.id"); got != a {
		t.Error(got)
	}
	if got := b.do("GET", `/api/events?filter=equals(profile_id,"`+c+`")`, "").want(200).get("data.0.relationships.profile.data.id"); got != a {
		t.Error(got)
	}
	unknown := fact.ProfileID{1}.String()
	const at = "/data/relationships/profiles/data"
	for body, source := range map[string]string{
		strings.Replace(merge(a, c), "profile-merge", "merge", 1):                                     "/data/type",
		`{"data":{"type":"profile-merge","id":"` + a + `","relationships":{"profiles":{"data":[]}}}}`: at,
		strings.Replace(merge(a, c), `"type":"profile",`, `"type":"list",`, 1):                        at + "/0/type",
		merge(a, a): at + "/0/id",
		merge(a, c): at + "/0/id",
		`{"data":{"type":"profile-merge","relationships":7}}`: "/data/relationships",
	} {
		b.refuse(b.do("POST", "/api/profile-merge", body), 400, source)
	}
	b.refuse(b.do("POST", "/api/profile-merge", merge(unknown, a)), 404, "/data/id")
	b.refuse(b.do("POST", "/api/profile-merge", merge(a, unknown)), 404, at+"/0/id")
}

func TestDeleteProfile(t *testing.T) {
	b := setup(t)
	body := func(data string) string {
		return `{"data":{"type":"data-privacy-deletion-job","attributes":{"profile":{"data":{"type":"profile",` + data + `}}}}}`
	}
	byID := b.profile("c@d.co")
	for name, in := range map[string]string{b.profile("a@b.co"): `"attributes":{"email":"A@b.co"}`, byID: `"id":"` + byID + `"`} {
		b.do("POST", "/api/data-privacy-deletion-jobs", body(in)).want(202)
		b.do("GET", "/api/profiles/"+name, "").want(404)
		b.do("POST", "/api/data-privacy-deletion-jobs", body(in)).want(202) // again
	}
	if after := b.profile("a@b.co"); after == byID {
		t.Error("who comes back is not somebody new")
	}
	const at = "/data/attributes/profile/data"
	for in, source := range map[string]string{
		body(`"attributes":{}`): at,
		body(`"attributes":{"email":"a@b.co","phone_number":"+15005550006"}`): at,
		body(`"attributes":{"email":"x"}`):                                    at + "/attributes/email",
		body(`"attributes":{"phone_number":"x"}`):                             at + "/attributes/phone_number",
		body(`"id":"x"`):                  at + "/id",
		body(`"attributes":{"name":"x"}`): at + "/attributes/name",
		strings.Replace(body(`"id":"x"`), `"type":"profile"`, `"type":"x"`, 1): at + "/type",
		strings.Replace(body(`"id":"x"`), "data-privacy-deletion-job", "x", 1): "/data/type",
	} {
		b.refuse(b.do("POST", "/api/data-privacy-deletion-jobs", in), 400, source)
	}
}

// TestTenants: what one tenant has the other does not see, whatever it asks.
func TestTenants(t *testing.T) {
	b := setup(t)
	id, list := b.profile("a@b.co"), b.list("L")
	b.event("a@b.co", "Viewed", `{}`, b.now)
	metric, at := b.metric("Viewed"), `/api/events?filter=equals(profile_id,"`+id+`")`
	ev := b.do("GET", at, "").want(200).get("data.0.id")
	as := []string{"Authorization", "Bearer " + keyOther}
	for _, path := range []string{"/api/profiles/" + id, "/api/lists/" + list, "/api/lists/" + list + "/profiles", "/api/lists/" + list + "/relationships/profiles",
		"/api/events/" + ev, "/api/metrics/" + metric, "/api/profiles/" + id + "/lists", "/api/profiles/" + id + "/metric-summary?metric_id=" + metric + "&windows=1d"} {
		b.do("GET", path, "").want(200)
		b.do("GET", path, "", as...).want(404)
	}
	for _, path := range []string{"/api/profiles", `/api/profiles?filter=equals(email,"a@b.co")`, `/api/profiles?filter=equals(id,"` + id + `")`, "/api/lists", "/api/metrics", "/api/events", at} {
		if got := b.do("GET", path, "", as...).want(200).get("data"); got != "[]" {
			t.Errorf("%s: %s", path, got)
		}
	}
	ref := `{"data":[{"type":"profile","id":"` + id + `"}]}`
	b.do("POST", "/api/lists/"+list+"/relationships/profiles", ref, as...).want(404)
	b.do("PATCH", "/api/profiles/"+id, `{"data":{"type":"profile","id":"`+id+`"}}`, as...).want(404)
	b.do("DELETE", "/api/lists/"+list, "", as...).want(404)
	b.do("POST", "/api/data-privacy-deletion-jobs", `{"data":{"type":"data-privacy-deletion-job","attributes":{"profile":{"data":{"type":"profile","id":"`+id+`"}}}}}`, as...).want(202)
	b.do("POST", "/api/profile-merge", `{"data":{"type":"profile-merge","id":"`+id+`","relationships":{"profiles":{"data":[{"type":"profile","id":"`+id+`"}]}}}}`, as...).want(404)
	b.do("POST", "/api/metric-aggregates", aggregate(metric, ""), as...).want(404)
	b.do("GET", "/api/profiles/"+id, "").want(200)
	if other := b.profile("a@b.co", as...); other == id {
		t.Error("two tenants have one profile")
	}
}

func aggregate(metric, more string) string {
	return `{"data":{"type":"metric-aggregate","attributes":{"metric_id":"` + metric + `","measurements":["count","sum_value","unique"],
		"filter":["greater-or-equal(datetime,2026-03-01)","less-than(datetime,2026-03-08)"]` + more + `}}}`
}
