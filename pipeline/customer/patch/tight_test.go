package patch

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// checkTight holds tight to what compacting says: what it takes is JSON without white space, and read as the slower way reads it.
func checkTight(t *testing.T, text []byte) {
	t.Helper()
	o, ok := tight(text)
	if !ok {
		return
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil || !bytes.Equal(b.Bytes(), text) {
		t.Fatalf("%q is taken as it is; compact it is %q, %v", text, b.Bytes(), err)
	}
	var want Object
	err := each(text, '{', func(name, value []byte) error {
		m := Member{name: name, Value: value}
		err := m.setName(string(name))
		want.set(m)
		return err
	})
	if err != nil || string(o.Append(nil)) != string(want.Append(nil)) || len(o) != len(want) {
		t.Fatalf("%q: %s, not %s (%v)", text, o.Append(nil), want.Append(nil), err)
	}
	for i := range o {
		if o[i].Name != want[i].Name {
			t.Fatalf("%q: the name %q, not %q", text, o[i].Name, want[i].Name)
		}
		checkPlain(t, o[i].Value)
	}
}

func checkPlain(t *testing.T, value []byte) {
	t.Helper()
	plain, ok := Plain(value)
	var s string
	if err := json.Unmarshal(value, &s); ok && (err != nil || s != string(plain)) {
		t.Fatalf("%s is %q, not %q (%v)", value, plain, s, err)
	}
}

func TestTight(t *testing.T) {
	yes := []string{`{}`, `{"a":1}`, `{"a":-0.5e+10,"b":"x","c":[1,2,[]],"d":{"e":{}},"f":null,"g":true,"h":false}`, `{"\u00e4\"":"\\"}`, `{"a":1,"a":2}`, `{"ä":"ö"}`, `{"":0}`}
	no := []string{``, `{`, `[]`, `1`, `{"a":1 }`, ` {}`, `{"a": 1}`, `{"a":01}`, `{"a":1.}`, `{"a":.5}`, `{"a":1e}`, `{"a":+1}`, `{"a":-}`, `{"a":tru}`, `{"a":nul1}`, `{"a"}`, `{"a":}`, `{,}`,
		`{"a":1,}`, `{"a":[1,]}`, `{"a":{"b"}}`, `{"a":{"b":1,}}`, `{"a":"` + "\n" + `"}`, `{"a":"\x"}`, `{"a":"\u12g4"}`, `{"a":"\u12`, `{"a":"\`, `{"a":"x}`, `{"a":1}{`, `{"a":[}]}`, `{}}`,
		`{"a":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`}
	for _, text := range yes {
		if _, ok := tight([]byte(text)); !ok {
			t.Errorf("%s is not taken as it is", text)
		}
		checkTight(t, []byte(text))
	}
	for _, text := range no {
		if o, ok := tight([]byte(text)); ok {
			t.Errorf("%s is taken as %s", text, o.Append(nil))
		}
	}
	if o, err := Parse([]byte(no[len(no)-1])); err != nil || len(o) != 1 {
		t.Errorf("what is nested deeply: %v", err)
	}
}

func TestSettled(t *testing.T) {
	for text, want := range map[string]bool{`{"a":1}`: true, `{"a":1,"b":{"c":null}}`: true, `{}`: false, `{"a":null}`: false, `{"a":1,"a":1}`: false, `{"a":1,"\u0061":2}`: false,
		`{ "a":1}`: false, `[1]`: false, `1`: false, ``: false} {
		if Settled([]byte(text)) != want {
			t.Errorf("%s is settled: %v", text, !want)
		}
	}
}

func TestPlain(t *testing.T) {
	for _, v := range []string{`""`, `"a b"`, `"äö"`} {
		if s, ok := Plain([]byte(v)); !ok || `"`+string(s)+`"` != v {
			t.Errorf("%s: %q, %v", v, s, ok)
		}
	}
	for _, v := range []string{``, `"`, `1`, `null`, `{}`, `"\n"`, `"ä\n"`, "\"\xff\"", "\"ä\xff\""} {
		if s, ok := Plain([]byte(v)); ok {
			t.Errorf("%s: %q", v, s)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	text := []byte(`{"email":"p123456@crowd.test","external_id":"x123456","first_name":"First123456","last_name":"Last","location":{"country":"Germany","city":"Berlin"}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
