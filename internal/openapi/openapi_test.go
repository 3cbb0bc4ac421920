package openapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

type leaf struct {
	Kind string `json:"kind" enum:"a,b" doc:"One of two."`
	N    int    `json:"n,omitempty" min:"1" max:"9"`
}

type tree struct {
	ID     string            `json:"id" format:"uuid"`
	At     time.Time         `json:"at,omitzero"`
	Leaves []leaf            `json:"leaves,omitempty" min:"1" max:"2"`
	Tags   map[string]string `json:"tags,omitempty"`
	Data   []byte            `json:"data,omitempty"`
	Next   *tree             `json:"next,omitempty"`
	Ratio  float64           `json:"ratio,omitempty"`
	On     *bool             `json:"on,omitempty"`
}

type failure struct {
	Code string `json:"code"`
}

func build(t *testing.T, ops ...Operation) *Document {
	t.Helper()
	d, err := Build(Info{Title: "T", Version: "1", Error: failure{}, Auth: "key"}, ops)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func sample() Operation {
	return Operation{Method: "POST", Path: "/t/{id}", ID: "t", Params: []Param{{Name: "id", In: "path"}}, Request: tree{},
		Responses: append(Statuses(422), Response{Status: 200, Body: tree{}}, Response{Status: 204})}
}

func TestBuildIsJSON(t *testing.T) {
	d := build(t, sample())
	var doc map[string]any
	if err := json.Unmarshal(d.JSON(), &doc); err != nil || doc["openapi"] != "3.1.0" {
		t.Fatal(err)
	}
	for _, want := range []string{`"$ref": "#/components/schemas/leaf"`, `"description": "One of two."`, `"bearer"`, `"operationId": "t"`} {
		if !strings.Contains(string(d.JSON()), want) {
			t.Errorf("%s is missing", want)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	type odd struct {
		C chan int `json:"c"`
	}
	type nameless struct{ X int }
	for name, change := range map[string]func(*Operation){
		"no responses":    func(o *Operation) { o.Responses = nil },
		"path parameter":  func(o *Operation) { o.Params = nil },
		"channel":         func(o *Operation) { o.Request = odd{} },
		"field's name":    func(o *Operation) { o.Request = nameless{} },
		"struct's name":   func(o *Operation) { o.Request = struct{}{} },
		"broken response": func(o *Operation) { o.Responses[1].Body = odd{} },
	} {
		o := sample()
		change(&o)
		if _, err := Build(Info{Error: failure{}}, []Operation{o}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Build(Info{Error: failure{}}, []Operation{sample(), sample()}); err == nil {
		t.Error("the same operation twice")
	}
}

func TestCheck(t *testing.T) {
	d := build(t, sample())
	h := http.Header{"Content-Type": {"application/json; charset=utf-8"}}
	const id = `"id":"01890a5d-ac96-774b-bcce-b302099a8057"`
	for body, ok := range map[string]bool{
		`{` + id + `}`: true,
		`{` + id + `,"at":"2026-01-02T03:04:05Z","leaves":[{"kind":"a","n":3}],"tags":{"x":"y"},"data":"aGk=","next":{` + id + `},"ratio":1.5,"on":true}`: true,
		`{` + id + `,"ratio":2}`:               true,
		`{}`:                                   false,
		`[]`:                                   false,
		`{` + id + `,"x":1}`:                   false,
		`{"id":"nonsense"}`:                    false,
		`{"id":7}`:                             false,
		`{` + id + `,"at":"soon"}`:             false,
		`{` + id + `,"leaves":[]}`:             false,
		`{` + id + `,"leaves":[{"kind":"c"}]}`: false,
		`{` + id + `,"leaves":[{"kind":"a","n":10}]}`:  false,
		`{` + id + `,"leaves":[{"kind":"a","n":0}]}`:   false,
		`{` + id + `,"leaves":[{"kind":"a","n":1.5}]}`: false,
		`{` + id + `,"leaves":{}}`:                     false,
		`{` + id + `,"tags":{"x":1}}`:                  false,
		`{` + id + `,"data":"*"}`:                      false,
		`{` + id + `,"on":"true"}`:                     false,
		`{` + id + `,"next":{}}`:                       false,
		`{` + id + `,"next":null}`:                     false,
		`{` + id + `,"leaves":[{"kind":"a"},{},{}]}`:   false,
		`no JSON`: false,
	} {
		if err := d.CheckRequest("POST", "/t/{id}", h, []byte(body)); (err == nil) != ok {
			t.Errorf("%s: %v", body, err)
		}
	}
	for _, c := range []struct {
		method, path string
		status       int
		kind, body   string
		ok           bool
	}{
		{"POST", "/t/{id}", 200, "application/json", `{` + id + `}`, true},
		{"POST", "/t/{id}", 204, "", "", true},
		{"POST", "/t/{id}", 204, "", "x", false},
		{"POST", "/t/{id}", 422, "application/json", `{"code":"c"}`, true},
		{"POST", "/t/{id}", 422, "application/json", `{}`, false},
		{"POST", "/t/{id}", 422, "text/plain", `no`, false},
		{"POST", "/t/{id}", 500, "application/json", `{"code":"c"}`, false},
		{"GET", "/t/{id}", 200, "application/json", `{}`, false},
	} {
		h := http.Header{"Content-Type": {c.kind}}
		if err := d.CheckResponse(c.method, c.path, c.status, h, []byte(c.body)); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
