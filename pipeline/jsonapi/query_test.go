package jsonapi

import (
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

func spec() Spec {
	return Spec{Filters: Allow{"id": {Equals}}, Sorts: []string{"created"}, Include: []string{"metric"}, Size: 20, MaxSize: 1000,
		Fields: map[string][]string{"profile": {"email", "created"}}, Additional: map[string][]string{"profile": {"subscriptions"}}, Extra: []string{"metric_id"}}
}

func TestParseQuery(t *testing.T) {
	values, err := url.ParseQuery(`filter=equals(id,"x")&sort=-created&include=metric&page[size]=1000&page[cursor]=` + EncodeCursor("ab/c") +
		`&fields[profile]=email,subscriptions&additional-fields[profile]=subscriptions&metric_id=1`)
	if err != nil {
		t.Fatal(err)
	}
	q, err := ParseQuery(values, spec())
	if err != nil {
		t.Fatal(err)
	}
	want := Query{Filter: &Filter{Op: Equals, Field: "id", Values: []Value{{"x", true}}}, Sort: "created", Descending: true, Cursor: "ab/c", Size: 1000,
		Include: []string{"metric"}, Fields: map[string][]string{"profile": {"email", "subscriptions"}}, Additional: map[string][]string{"profile": {"subscriptions"}}}
	if !reflect.DeepEqual(q, want) {
		t.Errorf("%+v", q)
	}
	if q, err := ParseQuery(nil, spec()); err != nil || q.Size != 20 {
		t.Error(q, err)
	}
}

func TestParseQueryRefuses(t *testing.T) {
	for in, parameter := range map[string]string{
		"filter=equals(": "filter", `filter=has(id)`: "filter", "sort=name": "sort", "sort=": "sort", "include=x": "include", "include=": "include",
		"page[size]=0": "page[size]", "page[size]=1001": "page[size]", "page[size]=x": "page[size]", "page[cursor]=*": "page[cursor]", "page[cursor]=": "page[cursor]",
		"fields[profile]=x": "fields[profile]", "fields[metric]=name": "fields[metric]", "additional-fields[profile]=email": "additional-fields[profile]",
		"page[limit]=1": "page[limit]", "x=1": "x", "sort=created&sort=created": "sort", "fields[profile=email": "fields[profile",
	} {
		values, err := url.ParseQuery(in)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseQuery(values, spec())
		if errs := Of(err); len(errs) != 1 || errs[0].Parameter != parameter || errs[0].Status != 400 {
			t.Errorf("%s: %v", in, err)
		}
	}
	for _, in := range []string{"page[size]=1", "sort=created", "include=metric", "filter=has(id)"} {
		values, _ := url.ParseQuery(in)
		if _, err := ParseQuery(values, Spec{}); err == nil {
			t.Errorf("%s: taken by an operation without it", in)
		}
	}
}

func TestWriteErrors(t *testing.T) {
	w := httptest.NewRecorder()
	WriteErrors(w, Errors{Invalid("/data/id", "is wrong"), BadParameter("sort", "is wrong"), {Status: 409, Code: "duplicate_profile", Meta: map[string]string{"duplicate_profile_id": "x"}}})
	body := w.Body.String()
	for _, want := range []string{`"source":{"pointer":"/data/id"}`, `"source":{"parameter":"sort"}`, `"source":{},"meta":{"duplicate_profile_id":"x"}`, `"code":"invalid"`} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is missing in %s", want, body)
		}
	}
	if w.Code != 400 || w.Header().Get("Content-Type") != MediaType {
		t.Error(w.Code, w.Header())
	}
	if Escape("a/b~c") != "a~1b~0c" {
		t.Error("Escape")
	}
}
