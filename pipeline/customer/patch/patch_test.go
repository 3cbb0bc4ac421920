package patch

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestChanges(t *testing.T) {
	for _, c := range []struct {
		name, object         string
		set, add, take, drop string
		want                 string
	}{
		{name: "set and keep", object: `{"a":1,"b":2}`, set: `{"b":3,"c":4}`, want: `{"a":1,"b":3,"c":4}`},
		{name: "null takes away", object: `{"a":1,"b":2}`, set: `{"a":null,"z":null}`, want: `{"b":2}`},
		{name: "nothing there", set: ` { "a" : [ 1 , 2 ] } `, want: `{"a":[1,2]}`},
		{name: "the last of a name", set: `{"a":1,"a":2}`, want: `{"a":2}`},
		{name: "escaped names are the same", object: `{"a":1}`, set: `{"\u0061":2}`, want: `{"a":2}`},
		{name: "markup stays", set: `{"<b>":"a&b<c>"}`, want: `{"<b>":"a&b<c>"}`},
		{name: "nested is replaced", object: `{"a":{"x":1}}`, set: `{"a":{"y":2}}`, want: `{"a":{"y":2}}`},
		{name: "empty name and value", set: `{"":"","b":{},"c":[]}`, want: `{"":"","b":{},"c":[]}`},

		{name: "append to nothing", add: `{"a":1}`, want: `{"a":[1]}`},
		{name: "append to null set before", object: `{}`, add: `{"a":"x"}`, want: `{"a":["x"]}`},
		{name: "append to a value", object: `{"a":1}`, add: `{"a":"x"}`, want: `{"a":[1,"x"]}`},
		{name: "append several", object: `{"a":[1]}`, add: `{"a":[2,[3]]}`, want: `{"a":[1,2,[3]]}`},
		{name: "append what is there", object: `{"a":[1]}`, add: `{"a":1}`, want: `{"a":[1,1]}`},
		{name: "append null", object: `{"a":[1]}`, add: `{"a":null}`, want: `{"a":[1]}`},
		{name: "append after set", set: `{"a":["x"]}`, add: `{"a":"y"}`, want: `{"a":["x","y"]}`},

		{name: "unappend everywhere", object: `{"a":[1,2,1,"1"]}`, take: `{"a":1}`, want: `{"a":[2,"1"]}`},
		{name: "unappend several", object: `{"a":[1,2,3]}`, take: `{"a":[1,3,9]}`, want: `{"a":[2]}`},
		{name: "unappend the last", object: `{"a":[1]}`, take: `{"a":1}`, want: `{"a":[]}`},
		{name: "unappend from a value", object: `{"a":1}`, take: `{"a":1,"b":1}`, want: `{"a":1}`},
		{name: "unappend an escaped one", object: `{"a":["\u00e4"]}`, take: `{"a":"ä"}`, want: `{"a":[]}`},
		{name: "unappend an object", object: `{"a":[{"x":1},2]}`, take: `{"a":{"x":1}}`, want: `{"a":[2]}`},

		{name: "unset one", object: `{"a":1,"b":2}`, drop: `"a"`, want: `{"b":2}`},
		{name: "unset several", object: `{"a":1,"b":2}`, drop: `["a","b","c"]`, want: `{}`},
		{name: "unset comes last", set: `{"a":1}`, drop: `["a"]`, want: `{}`},
	} {
		o, err := Load([]byte(c.object))
		if err != nil {
			t.Fatal(c.name, err)
		}
		for _, part := range []struct {
			text string
			do   func(Object) error
		}{{c.set, func(p Object) error { o.Set(p); return nil }}, {c.add, o.Extend}, {c.take, o.Reduce}} {
			p, err := Parse([]byte(part.text))
			if err == nil {
				err = part.do(p)
			}
			if err != nil {
				t.Fatal(c.name, err)
			}
		}
		if c.drop != "" {
			if err := o.Unset([]byte(c.drop)); err != nil {
				t.Fatal(c.name, err)
			}
		}
		if got := string(o.Append(nil)); got != c.want {
			t.Errorf("%s: %s, not %s", c.name, got, c.want)
		}
	}
}

func TestListsAreBounded(t *testing.T) {
	o, _ := Load([]byte(`{"a":[` + strings.Repeat("1,", MaxList-2) + `1]}`))
	p, _ := Parse([]byte(`{"a":[2,3,4]}`))
	if err := o.Extend(p); err != nil {
		t.Fatal(err)
	}
	var got []int
	if err := json.Unmarshal(o.Get("a"), &got); err != nil || len(got) != MaxList || got[MaxList-1] != 2 {
		t.Errorf("%d values, %v", len(got), err)
	}
}

func TestBad(t *testing.T) {
	for _, text := range []string{`{`, `[]`, `null`, `1`, `{"a"}`, `{"a":1,}`, `{"a":}`, `{"a":1}{`, `{"a":1 "b":2}`, `{a:1}`, `{"a":tru}`} {
		if o, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: %s", text, o.Append(nil))
		}
	}
	var o Object
	for _, text := range []string{`{}`, `1`, `[1]`, `[`} {
		if o.Unset([]byte(text)) == nil {
			t.Error(text)
		}
	}
}

func TestPick(t *testing.T) {
	var got []string
	err := Pick([]byte(` {"a" : "x,\"}{" , "bb":[1,{"a":2}],"c":-1.5e3, "d":{}}`), []string{"c", "a", "d"}, func(n string, v []byte) { got = append(got, n+"="+string(v)) })
	if want := []string{`a="x,\"}{"`, `c=-1.5e3`, `d={}`}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q %v", got, err)
	}
}

// FuzzObject holds the reader to the standard library's.
func FuzzObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, ` { "a\u0000" : [1,{"b":"\\\""}] , "c":null}`, `{"a":1,"a":2}`, `{"a`, `{"a":"\`, `{"a":{]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		checkTight(t, text)
		_ = Pick(text, []string{"a"}, func(string, []byte) {})
		_, _ = Load(text)
		o, err := Parse(text)
		var want map[string]any
		if json.Unmarshal(text, &want) != nil || want == nil {
			if err == nil && len(text) > 0 {
				t.Fatalf("%q is taken as %s", text, o.Append(nil))
			}
			return
		}
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		var got map[string]any
		if err := json.Unmarshal(o.Append(nil), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: %v, not %v (%v)", text, got, want, err)
		}
		again, err := Load(o.Append(nil))
		if err != nil || string(again.Append(nil)) != string(o.Append(nil)) {
			t.Fatalf("%s: %v", o.Append(nil), err)
		}
	})
}
