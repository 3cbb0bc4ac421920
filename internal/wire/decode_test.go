package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type inner struct {
	Name string            `json:"name"`
	Vars Object            `json:"vars,omitempty"`
	Tags map[string]string `json:"tags,omitempty"`
}

type outer struct {
	Text  string     `json:"text"`
	On    bool       `json:"on"`
	Count int        `json:"count"`
	Ratio float64    `json:"ratio"`
	Data  []byte     `json:"data"`
	At    *time.Time `json:"at"`
	List  []inner    `json:"list"`
	One   *inner     `json:"one"`
	A     string     `json:"a/b"`
}

func TestDecode(t *testing.T) {
	d, err := NewDecoder[outer]()
	if err != nil {
		t.Fatal(err)
	}
	const doc = ` {"text":"a\u00e9\ud83d\ude00\n\/b","on":true,"count":-12,"ratio":1.5e2,"data":"aGk=","at":"2026-01-02T03:04:05+01:00",
		"list":[{"name":"x","vars":{ "k" : [ 1 , {"z":null, "y":"a b"} ] },"tags":{"p":"q"}},{"name":"y"}],"one":null} `
	got, err := d.Decode([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC)
	want := &outer{Text: "aé😀\n/b", On: true, Count: -12, Ratio: 150, Data: []byte("hi"), At: &at, List: []inner{
		{Name: "x", Vars: Object(`{"k":[1,{"z":null,"y":"a b"}]}`), Tags: map[string]string{"p": "q"}}, {Name: "y"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeErrors(t *testing.T) {
	d, err := NewDecoder[outer]()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ doc, code, pointer, field string }{
		{``, CodeInvalidJSON, "", ""},
		{`{`, CodeInvalidJSON, "", ""},
		{`{} {}`, CodeInvalidJSON, "", ""},
		{`{},`, CodeInvalidJSON, "", ""},
		{`[]`, CodeWrongType, "", ""},
		{`nul`, CodeInvalidJSON, "", ""},
		{`{"nope":1}`, CodeUnknownField, "/nope", "nope"},
		{`{"TEXT":"x"}`, CodeUnknownField, "/TEXT", "TEXT"},
		{`{"text":"a","text":"b"}`, CodeDuplicateField, "/text", "text"},
		{`{"t\u0065xt":"a","text":"b"}`, CodeDuplicateField, "/text", "text"},
		{`{"text":1}`, CodeWrongType, "/text", "text"},
		{`{"text":null}`, CodeWrongType, "/text", "text"},
		{`{"on":"yes"}`, CodeWrongType, "/on", "on"},
		{`{"count":1.5}`, CodeWrongType, "/count", "count"},
		{`{"count":99999999999999999999}`, CodeWrongType, "/count", "count"},
		{`{"count":01}`, CodeInvalidJSON, "", ""},
		{`{"ratio":1e999}`, CodeInvalidValue, "/ratio", "ratio"},
		{`{"ratio":-}`, CodeInvalidJSON, "/ratio", "ratio"},
		{`{"data":"*"}`, CodeInvalidValue, "/data", "data"},
		{`{"at":"tomorrow"}`, CodeInvalidValue, "/at", "at"},
		{`{"list":{}}`, CodeWrongType, "/list", "list"},
		{`{"list":[{"name":"x"},{"nope":2}]}`, CodeUnknownField, "/list/1/nope", "nope"},
		{`{"list":[{"vars":[]}]}`, CodeWrongType, "/list/0/vars", "vars"},
		{`{"list":[{"vars":{"a":{"b":1,"b":2}}}]}`, CodeDuplicateField, "/list/0/vars/a/b", "b"},
		{`{"list":[{"vars":{"a":tru}}]}`, CodeInvalidJSON, "/list/0/vars/a", "a"},
		{`{"list":[{"tags":{"a":"1","a":"2"}}]}`, CodeDuplicateField, "/list/0/tags/a", "a"},
		{`{"list":[{"name":"x"},]}`, CodeWrongType, "", ""},
		{`{"a/b":1}`, CodeWrongType, "/a~1b", "a/b"},
		{`{"text":"` + "\xff" + `"}`, CodeInvalidUTF8, "/text", "text"},
		{`{"text":"\ud800"}`, CodeInvalidUTF8, "/text", "text"},
		{`{"text":"\ud800\u0041"}`, CodeInvalidUTF8, "/text", "text"},
		{`{"text":"\x"}`, CodeInvalidJSON, "/text", "text"},
		{`{"text":"\u12"}`, CodeInvalidJSON, "/text", "text"},
		{"{\"text\":\"a\nb\"}", CodeInvalidJSON, "/text", "text"},
		{`{"one":{"vars":` + strings.Repeat(`{"a":`, 100) + `1` + strings.Repeat(`}`, 100) + `}}`, CodeTooDeep, "", ""},
	} {
		_, err := d.Decode([]byte(c.doc))
		var got *DecodeError
		if !errors.As(err, &got) {
			t.Errorf("%s: no error", c.doc)
			continue
		}
		if c.code == CodeTooDeep || strings.HasSuffix(c.doc, ",]}") {
			c.pointer, c.field = got.Pointer, got.Field // long, or of no matter
		}
		if strings.HasSuffix(c.doc, ",]}") {
			c.code = CodeInvalidJSON
		}
		if strings.Contains(c.doc, "01}") {
			c.pointer, c.field = got.Pointer, got.Field
		}
		if got.Code != c.code || got.Pointer != c.pointer || got.Field != c.field {
			t.Errorf("%s: got %s %q %q (%v), want %s %q %q", c.doc, got.Code, got.Pointer, got.Field, got, c.code, c.pointer, c.field)
		}
	}
}

func TestDecodePlace(t *testing.T) {
	d, _ := NewDecoder[outer]()
	_, err := d.Decode([]byte("{\n  \"text\": 7\n}"))
	var got *DecodeError
	if !errors.As(err, &got) || got.Line != 2 || got.Column != 11 {
		t.Errorf("got %+v", got)
	}
}

func TestDuplicatesAmongMany(t *testing.T) {
	d, _ := NewDecoder[inner]()
	var b strings.Builder
	b.WriteString(`{"name":"x","vars":{`)
	for i := range 40 {
		b.WriteString(`"k` + strconv.Itoa(i) + `":{"n":1},`)
	}
	if _, err := d.Decode([]byte(b.String() + `"last":1}}`)); err != nil {
		t.Error(err)
	}
	for _, again := range []string{"k0", "k39", `k\u0033`} {
		_, err := d.Decode([]byte(b.String() + `"` + again + `":1}}`))
		var got *DecodeError
		if !errors.As(err, &got) || got.Code != CodeDuplicateField {
			t.Errorf("%s: %v", again, err)
		}
	}
}

func TestMerge(t *testing.T) {
	for _, c := range []struct{ base, over, want string }{
		{``, ``, ``},
		{`{}`, `{"a":1}`, `{"a":1}`},
		{`{"a":1}`, ``, `{"a":1}`},
		{`{"a":1,"b":{"x":"}"}}`, `{"a":2}`, `{"b":{"x":"}"},"a":2}`},
		{`{"a":1,"b":[1,"]",{}]}`, `{"c":3}`, `{"a":1,"b":[1,"]",{}],"c":3}`},
		{`{"\u0061":1}`, `{"a":2}`, `{"a":2}`},
	} {
		if got := Merge(Object(c.base), Object(c.over)); string(got) != c.want {
			t.Errorf("%s + %s: got %s, want %s", c.base, c.over, got, c.want)
		}
	}
}

func TestDecoderRefusesType(t *testing.T) {
	if _, err := NewDecoder[struct {
		C chan int `json:"c"`
	}](); err == nil {
		t.Error("a channel was taken")
	}
}

// FuzzDecode holds the decoder to encoding/json: what it takes, the other
// takes with the same result, and compact objects mean the same.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"text":"x","list":[{"name":"a","vars":{"k":[1,2.5e-3,"\u00e9",null,true]}}]}`, `{}`, `{"data":"aGk="}`,
		`{"at":"2026-01-02T03:04:05Z"}`, `{"one":{"name":"\ud83d\ude00","tags":{"a":"b"}}}`, `{"text":"\"\\/\b\f\n\r\t"}`, "{\"text\":\"\xff\"}"} {
		f.Add([]byte(s))
	}
	d, err := NewDecoder[outer]()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		keep := bytes.Clone(b)
		got, err := d.Decode(b)
		if !bytes.Equal(keep, b) {
			t.Fatal("input was changed")
		}
		if err != nil {
			var e *DecodeError
			if !errors.As(err, &e) || e.Code == "" || e.Line < 1 {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		var want outer
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&want); err != nil {
			t.Fatalf("encoding/json refuses it: %v", err)
		}
		equalVars(t, got, &want)
		for i := range got.List {
			got.List[i].Vars, want.List[i].Vars = nil, nil
		}
		if got.One != nil {
			got.One.Vars, want.One.Vars = nil, nil
		}
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(&want)
		if !bytes.Equal(g, w) && got.At == nil {
			t.Fatalf("got %s\nwant %s", g, w)
		}
	})
}

func equalVars(t *testing.T, got, want *outer) {
	for i := range got.List {
		var a, b any
		_ = json.Unmarshal(got.List[i].Vars, &a)
		_ = json.Unmarshal(want.List[i].Vars, &b)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("vars: got %s, want %s", got.List[i].Vars, want.List[i].Vars)
		}
		for range got.List[i].Vars.Members() {
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	type request struct {
		List []inner `json:"list"`
	}
	d, _ := NewDecoder[request]()
	row := `{"name":"someone.longer@example.com","vars":{"first":"Ada","last":"Lovelace","n":12,"city":"London"}}`
	doc := []byte(`{"list":[` + strings.TrimSuffix(strings.Repeat(row+",", 10000), ",") + `]}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Decode(doc); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10000, "ns/row")
}
