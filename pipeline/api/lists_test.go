package api_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

func TestLists(t *testing.T) {
	b := setup(t)
	var ids []string
	for _, name := range []string{"C", "A", "B"} {
		b.pass(time.Hour)
		ids = append(ids, b.list(name))
	}
	c, a, bb := ids[0], ids[1], ids[2]
	for query, want := range map[string]string{"sort=name": a + " " + bb + " " + c, "sort=-name": c + " " + bb + " " + a, "sort=created": c + " " + a + " " + bb,
		"": c + " " + a + " " + bb, `filter=any(name,["A","B"])&sort=-created`: bb + " " + a, `filter=not(equals(id,"` + a + `"))`: c + " " + bb,
		"filter=greater-than(created,2026-03-04T06:30:00Z)&sort=updated": a + " " + bb} {
		for _, size := range []string{"1000", "1"} {
			var got []string
			target := "/api/lists?page[size]=" + size + "&" + query
			for target != "" {
				r := b.do("GET", target, "").want(200)
				got = append(got, r.ids())
				target = strings.TrimPrefix(r.get("links.next"), "http://example.com")
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s by %s: %v, want %s", query, size, got, want)
			}
		}
	}
	r := b.do("PATCH", "/api/lists/"+a, `{"data":{"type":"list","id":"`+a+`","attributes":{"name":"New","opt_in_process":"double_opt_in"}}}`).want(200)
	if r.get("data.attributes.name") != "New" || r.get("data.attributes.opt_in_process") != "double_opt_in" || r.get("data.attributes.created") == r.get("data.attributes.updated") {
		t.Error(r.Body)
	}
	if got := b.do("GET", "/api/lists/"+a+"?fields[list]=name", "").want(200).get("data.attributes"); got != `{"name":"New"}` {
		t.Error(got)
	}
	b.do("DELETE", "/api/lists/"+a, "").want(204)
	b.do("GET", "/api/lists/"+a, "").want(404)
	b.do("DELETE", "/api/lists/"+a, "").want(404)
}

func TestBadList(t *testing.T) {
	b := setup(t)
	id := b.list("L")
	for body, source := range map[string]string{
		`{"data":{"type":"x","attributes":{"name":"N"}}}`:                                   "/data/type",
		`{"data":{"type":"list","attributes":{}}}`:                                          "/data/attributes/name",
		`{"data":{"type":"list","attributes":{"name":" "}}}`:                                "/data/attributes/name",
		`{"data":{"type":"list","attributes":{"name":7}}}`:                                  "/data/attributes/name",
		`{"data":{"type":"list","id":"x","attributes":{"name":"N"}}}`:                       "/data/id",
		`{"data":{"type":"list","attributes":{"name":"N","opt_in_process":"x"}}}`:           "/data/attributes/opt_in_process",
		`{"data":{"type":"list","attributes":{"name":"N","created":"x"}}}`:                  "/data/attributes/created",
		`{"data":{"type":"list","attributes":{"name":"N"},"relationships":{}}}`:             "/data/relationships",
		`{"data":{"type":"list","attributes":{"name":"` + strings.Repeat("x", 256) + `"}}}`: "/data/attributes/name",
	} {
		b.refuse(b.do("POST", "/api/lists", body), 400, source)
	}
	b.refuse(b.do("PATCH", "/api/lists/"+id, `{"data":{"type":"list","attributes":{"name":"N"}}}`), 400, "/data/id")
	b.do("PATCH", "/api/lists/x", `{"data":{"type":"list","id":"x","attributes":{"name":"N"}}}`).want(404)
	for query, parameter := range map[string]string{"sort=x": "sort", "filter=equals(x,1)": "filter", "filter=greater-than(created,x)": "filter", "page[size]=0": "page[size]"} {
		b.refuse(b.do("GET", "/api/lists?"+query, ""), 400, parameter)
	}
}

func TestMembers(t *testing.T) {
	b := setup(t)
	list := b.list("L")
	at := "/api/lists/" + list
	var ids []string
	for i := range 3 {
		b.pass(time.Hour)
		id := b.profile(fmt.Sprintf("p%d@example.com", i))
		ids = append(ids, id)
		b.do("POST", at+"/relationships/profiles", `{"data":[{"type":"profile","id":"`+id+`"}]}`).want(204)
	}
	for query, want := range map[string]string{"": strings.Join(ids, " "), "&sort=-joined_group_at": ids[2] + " " + ids[1] + " " + ids[0],
		`&filter=equals(email,"p1@example.com")`: ids[1], `&filter=any(email,["p2@example.com","p0@example.com","x@example.com"])`: ids[0] + " " + ids[2],
		"&filter=" + url.QueryEscape("greater-than(joined_group_at,2026-03-04T07:00:00Z)"):      ids[1] + " " + ids[2],
		"&filter=" + url.QueryEscape("not(greater-than(joined_group_at,2026-03-04T07:00:00Z))"): ids[0]} {
		for _, size := range []string{"1000", "1"} {
			for _, path := range []string{"/profiles", "/relationships/profiles"} {
				if size == "1" && strings.Contains(query, "email") {
					continue // those who are named are on one page
				}
				var got []string
				target := at + path + "?page[size]=" + size + query
				for target != "" {
					r := b.do("GET", target, "").want(200)
					if s := r.ids(); s != "" {
						got = append(got, s)
					}
					target = strings.TrimPrefix(r.get("links.next"), "http://example.com")
				}
				if strings.Join(got, " ") != want {
					t.Errorf("%s %s by %s: %v, want %s", path, query, size, got, want)
				}
			}
		}
	}
	if got := b.do("GET", at+"/profiles?fields[profile]=joined_group_at", "").want(200).get("data.0.attributes.joined_group_at"); !strings.HasPrefix(got, "2026-03-04T06") {
		t.Error(got)
	}
	if got := b.do("GET", at+"?additional-fields[list]=profile_count", "").want(200).get("data.attributes.profile_count"); got != "3" {
		t.Error(got)
	}
	for _, path := range []string{"/lists", "/relationships/lists"} {
		if got := b.do("GET", "/api/profiles/"+ids[0]+path, "").want(200).ids(); got != list {
			t.Error(got)
		}
		b.do("GET", "/api/profiles/x"+path, "").want(404)
	}
	b.do("DELETE", at+"/relationships/profiles", `{"data":[{"type":"profile","id":"`+ids[1]+`"}]}`).want(204)
	if got := b.do("GET", at+"/relationships/profiles", "").want(200).ids(); got != ids[0]+" "+ids[2] {
		t.Error(got)
	}
	unknown := fact.ProfileID{1}.String()
	for _, method := range []string{"POST", "DELETE"} {
		for body, source := range map[string]string{`{"data":[]}`: "/data", `{"data":[{"type":"list","id":"x"}]}`: "/data/0/type", `{"data":[{"type":"profile","id":7}]}`: "/data/0/id",
			`{"data":{"type":"profile"}}`: "/data", `{"data":[` + strings.Repeat(`{"type":"profile","id":"x"},`, 1000) + `{"type":"profile","id":"x"}]}`: "/data"} {
			b.refuse(b.do(method, at+"/relationships/profiles", body), 400, source)
		}
		b.refuse(b.do(method, at+"/relationships/profiles", `{"data":[{"type":"profile","id":"`+ids[0]+`"},{"type":"profile","id":"`+unknown+`"}]}`), 404, "/data/1/id")
		b.do(method, "/api/lists/x/relationships/profiles", `{"data":[{"type":"profile","id":"`+ids[0]+`"}]}`).want(404)
	}
	b.do("GET", "/api/lists/x/profiles", "").want(404)
	b.do("GET", "/api/lists/x/relationships/profiles", "").want(404)
	b.refuse(b.do("GET", at+"/profiles?sort=email", ""), 400, "sort")
	b.do("DELETE", at, "").want(204)
	if got := b.do("GET", "/api/profiles/"+ids[0]+"/lists", "").want(200).get("data"); got != "[]" {
		t.Error("a deleted list is shown:", got)
	}
}

func TestSubscribe(t *testing.T) {
	b := setup(t)
	list := b.list("L")
	subscribe := func(kind, profiles, more string) reply {
		return b.do("POST", "/api/profile-subscription-bulk-"+kind+"-jobs", `{"data":{"type":"profile-subscription-bulk-`+kind+`-job","attributes":{"custom_source":"Desk","profiles":{"data":[`+profiles+`]}`+more+`}}`)
	}
	related := `},"relationships":{"list":{"data":{"type":"list","id":"` + list + `"}}}`
	subscribe("create", `{"type":"profile","attributes":{"email":"a@b.co","phone_number":"+15005550006","subscriptions":{"email":{"marketing":{"consent":"SUBSCRIBED"}},
		"sms":{"marketing":{"consent":"SUBSCRIBED"},"transactional":{"consent":"SUBSCRIBED"}}}}},{"type":"profile","attributes":{"email":"c@d.co"}}`, related).want(202)
	show := func(email string) reply {
		return b.do("GET", `/api/profiles?additional-fields[profile]=subscriptions&filter=equals(email,"`+email+`")`, "").want(200)
	}
	r := show("a@b.co")
	for at, want := range map[string]string{"email.marketing.consent": "SUBSCRIBED", "email.marketing.method_detail": "Desk", "email.marketing.can_receive_email_marketing": "true",
		"sms.marketing.consent": "SUBSCRIBED", "sms.transactional.consent": "SUBSCRIBED"} {
		if got := r.get("data.0.attributes.subscriptions." + at); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
	if got := len(strings.Fields(b.do("GET", "/api/lists/"+list+"/profiles", "").want(200).ids())); got != 2 {
		t.Errorf("%d members", got)
	}
	subscribe("delete", `{"type":"profile","attributes":{"email":"c@d.co","subscriptions":{"email":{"marketing":{"consent":"UNSUBSCRIBED"}}}}}`, "}").want(202)
	if got := show("c@d.co").get("data.0.attributes.subscriptions.email.marketing.consent"); got != "UNSUBSCRIBED" {
		t.Error(got)
	}
	subscribe("create", `{"type":"profile","attributes":{"email":"c@d.co","subscriptions":{"email":{"marketing":{"consent":"SUBSCRIBED","consented_at":"2020-01-01T00:00:00Z"}}}}}`, `,"historical_import":true}`).want(202)
	if got := show("c@d.co").get("data.0.attributes.subscriptions.email.marketing.consent_timestamp"); got != "2020-01-01T00:00:00Z" {
		t.Error(got)
	}
	const at = "/data/attributes/profiles/data"
	person := func(attributes string) string { return `{"type":"profile","attributes":{` + attributes + `}}` }
	for profiles, source := range map[string]string{
		``: at, `{"type":"x","attributes":{"email":"a@b.co"}}`: at + "/0/type", person(`"email":"x"`): at + "/0/attributes/email", person(``): at + "/0/attributes",
		person(`"email":"a@b.co"`) + `,` + person(`"phone_number":"x"`):                                                                   at + "/1/attributes/phone_number",
		person(`"external_id":"x"`):                                                                                                       at + "/0/attributes/subscriptions",
		person(`"email":"a@b.co","subscriptions":{}`):                                                                                     at + "/0/attributes/subscriptions",
		person(`"email":"a@b.co","subscriptions":{"push":{}}`):                                                                            at + "/0/attributes/subscriptions/push",
		person(`"email":"a@b.co","subscriptions":{"email":{}}`):                                                                           at + "/0/attributes/subscriptions/email",
		person(`"email":"a@b.co","subscriptions":{"email":{"transactional":{"consent":"SUBSCRIBED"}}}`):                                   at + "/0/attributes/subscriptions/email/transactional",
		person(`"email":"a@b.co","subscriptions":{"email":{"marketing":{"consent":"UNSUBSCRIBED"}}}`):                                     at + "/0/attributes/subscriptions/email/marketing/consent",
		person(`"email":"a@b.co","subscriptions":{"email":{"marketing":{"consent":"SUBSCRIBED","consented_at":"2020-01-01T00:00:00Z"}}}`): at + "/0/attributes/subscriptions/email/marketing/consented_at",
		person(`"email":"a@b.co","subscriptions":{"email":{"marketing":{"consent":"SUBSCRIBED","consented_at":"soon"}}}`):                 at + "/0/attributes/subscriptions/email/marketing/consented_at",
		strings.Repeat(person(`"email":"a@b.co"`)+",", 1000) + person(`"email":"a@b.co"`):                                                 at,
	} {
		b.refuse(subscribe("create", profiles, "}"), 400, source)
	}
	for _, when := range []string{"", `,"consented_at":"2030-01-01T00:00:00Z"`} {
		b.refuse(subscribe("create", person(`"email":"a@b.co","subscriptions":{"email":{"marketing":{"consent":"SUBSCRIBED"`+when+`}}}`), `,"historical_import":true}`), 400,
			at+"/0/attributes/subscriptions/email/marketing/consented_at")
	}
	b.refuse(subscribe("create", person(`"email":"a@b.co"`), `},"relationships":{"list":{"data":{"type":"list","id":"x"}}}`), 400, "/data/relationships/list/data/id")
	b.refuse(subscribe("create", person(`"email":"a@b.co"`), `},"relationships":{"list":{"data":{"type":"segment","id":"x"}}}`), 400, "/data/relationships/list/data/type")
	b.refuse(b.do("POST", "/api/profile-subscription-bulk-create-jobs", `{"data":{"type":"x","attributes":{"profiles":{"data":[]}}}}`), 400, "/data/type")
}

func TestSuppress(t *testing.T) {
	b := setup(t)
	list := b.list("L")
	id := b.profile("member@example.com")
	b.do("POST", "/api/lists/"+list+"/relationships/profiles", `{"data":[{"type":"profile","id":"`+id+`"}]}`).want(204)
	suppress := func(kind, data string) reply {
		return b.do("POST", "/api/profile-suppression-bulk-"+kind+"-jobs", `{"data":{"type":"profile-suppression-bulk-`+kind+`-job"`+data+`}}`)
	}
	person := `,"attributes":{"profiles":{"data":[{"type":"profile","attributes":{"email":"a@b.co"}},{"type":"profile","attributes":{"email":"A@b.co"}}]}}`
	related := `,"relationships":{"list":{"data":{"type":"list","id":"` + list + `"}}}`
	reason := func(email string) string {
		return b.do("GET", `/api/profiles?additional-fields[profile]=subscriptions&filter=equals(email,"`+email+`")`, "").want(200).get("data.0.attributes.subscriptions.email.marketing.suppression.0.reason")
	}
	for email, data := range map[string]string{"a@b.co": person, "member@example.com": related} {
		r := suppress("create", data).want(202)
		if r.get("data.attributes.total_count") != "1" || reason(email) != "USER_SUPPRESSED" {
			t.Error(r.Body, reason(email))
		}
		if got := b.do("GET", "/api/profile-suppression-bulk-create-jobs/"+r.get("data.id"), "").want(200); got.get("data.attributes.status") != "complete" {
			t.Error(got.Body)
		}
		job := suppress("delete", data).want(202).get("data.id")
		if got := reason(email); got != "" {
			t.Error(got)
		}
		b.do("GET", "/api/profile-suppression-bulk-delete-jobs/"+job, "").want(200)
	}
	if got := len(strings.Fields(b.do("GET", `/api/profile-suppression-bulk-create-jobs?filter=equals(status,"complete")`, "").want(200).ids())); got != 2 {
		t.Error(got)
	}
	if got := b.do("GET", `/api/profile-suppression-bulk-delete-jobs?filter=equals(status,"queued")`, "").want(200).ids(); got != "" {
		t.Error(got)
	}
	b.do("GET", "/api/profile-suppression-bulk-create-jobs/x", "").want(404)
	b.do("GET", "/api/profile-suppression-bulk-delete-jobs/x", "").want(404)
	const at = "/data/attributes/profiles/data"
	for data, source := range map[string]string{"": "/data", person + related: "/data", `,"attributes":{"profiles":{"data":[]}}`: at,
		`,"attributes":{"profiles":{"data":[{"type":"x","attributes":{"email":"a@b.co"}}]}}`:  at + "/0/type",
		`,"attributes":{"profiles":{"data":[{"type":"profile","attributes":{"email":"x"}}]}}`: at + "/0/attributes/email",
		`,"relationships":{"list":{"data":{"type":"list","id":"x"}}}`:                         "/data/relationships/list/data/id",
		`,"attributes":{"profiles":{"data":[{"type":"profile","attributes":{"phone":"x"}}]}}`: at + "/0/attributes/phone"} {
		for _, kind := range []string{"create", "delete"} {
			b.refuse(suppress(kind, data), 400, source)
		}
	}
	b.refuse(b.do("POST", "/api/profile-suppression-bulk-create-jobs", `{"data":{"type":"x"}}`), 400, "/data/type")
}

func imported(profiles, more string) string {
	return `{"data":{"type":"profile-bulk-import-job","attributes":{"profiles":{"data":[` + profiles + `]}}` + more + `}}`
}

func TestImportJob(t *testing.T) {
	b := setup(t)
	list := b.list("L")
	known := b.profile("known@example.com")
	var profiles []string
	for i := range 400 {
		profiles = append(profiles, fmt.Sprintf(`{"type":"profile","attributes":{"email":"p%d@example.com"}}`, i))
		if i%2 == 0 {
			profiles = append(profiles, fmt.Sprintf(`{"type":"profile","attributes":{"email":"bad %d"}}`, i))
		}
	}
	profiles = append(profiles, `{"type":"profile","id":"`+known+`","attributes":{"title":"T"}}`, `{"type":"profile","attributes":{"title":"T"}}`,
		`{"type":"x","attributes":{"email":"c@d.co"}}`, `{"type":"profile","id":"`+fact.ProfileID{1}.String()+`"}`)
	r := b.do("POST", "/api/profile-bulk-import-jobs", imported(strings.Join(profiles, ","), `,"relationships":{"lists":{"data":[{"type":"list","id":"`+list+`"}]}}`)).want(202)
	if r.get("data.attributes.total_count") != "604" || r.get("data.attributes.completed_count") != "401" || r.get("data.attributes.failed_count") != "203" ||
		r.get("data.relationships.lists.data.0.id") != list {
		t.Error(r.Body)
	}
	at := "/api/profile-bulk-import-jobs/" + r.get("data.id")
	if got := b.do("GET", at, "").want(200).get("data.attributes.failed_count"); got != "203" {
		t.Error(got)
	}
	if got := b.do("GET", "/api/profile-bulk-import-jobs?fields[profile-bulk-import-job]=status", "").want(200).get("data.0.attributes"); got != `{"status":"complete"}` {
		t.Error(got)
	}
	if got := len(strings.Fields(b.do("GET", "/api/lists/"+list+"/relationships/profiles?page[size]=1000", "").want(200).ids())); got != 401 {
		t.Errorf("%d members", got)
	}
	if got := b.do("GET", "/api/profiles/"+known, "").want(200).get("data.attributes.title"); got != "T" {
		t.Error(got)
	}
	for _, size := range []string{"1000", "7", "100"} {
		var pointers []string
		for target := at + "/import-errors?page[size]=" + size; target != ""; {
			r = b.do("GET", target, "").want(200)
			for i := range len(strings.Fields(r.ids())) {
				pointers = append(pointers, r.get(fmt.Sprintf("data.%d.attributes.source.pointer", i)))
			}
			target = strings.TrimPrefix(r.get("links.next"), "http://example.com")
		}
		if len(pointers) != 203 || pointers[0] != "/data/attributes/profiles/data/1/attributes/email" || pointers[202] != "/data/attributes/profiles/data/603/id" ||
			pointers[200] != "/data/attributes/profiles/data/601/attributes" || pointers[201] != "/data/attributes/profiles/data/602/type" {
			t.Error(size, len(pointers), pointers)
		}
	}
	if chunks, err := b.world.Objects("acme", "import-error", "", 1000); err != nil || len(chunks.Objects) != 3 {
		t.Error("the errors are not in pieces:", err)
	}
	if got := b.do("GET", at+"/import-errors", "").want(200).get("data.0.attributes.original_payload.attributes.email"); got != "bad 0" {
		t.Error(got)
	}
	b.do("GET", "/api/profile-bulk-import-jobs/x", "").want(404)
	b.do("GET", "/api/profile-bulk-import-jobs/x/import-errors", "").want(404)
	b.refuse(b.do("GET", at+"/import-errors?page[cursor]=bm9wZQ", ""), 400, "page[cursor]")
	b.refuse(b.do("GET", "/api/profile-bulk-import-jobs?page[size]=0", ""), 400, "page[size]")
	const profilesAt = "/data/attributes/profiles/data"
	for body, source := range map[string]string{imported("", ""): profilesAt, imported("7", ""): profilesAt + "/0", `{"data":{"type":"x"}}`: "/data/type",
		imported(profiles[0], `,"relationships":{"lists":{"data":[{"type":"list","id":"x"}]}}`): "/data/relationships/lists/data/0/id",
		imported(profiles[0], `,"relationships":{"lists":{"data":[{"type":"x","id":"x"}]}}`):    "/data/relationships/lists/data/0/type",
		imported(strings.Repeat(profiles[0]+",", 10_000)+profiles[0], ""):                       profilesAt} {
		b.refuse(b.do("POST", "/api/profile-bulk-import-jobs", body), 400, source)
	}
}
