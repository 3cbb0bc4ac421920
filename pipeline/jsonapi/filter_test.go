package jsonapi

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseFilter(t *testing.T) {
	for in, want := range map[string]string{
		`equals(email,"a@b.c")`: `equals(email,"a@b.c")`,
		`equals(id,"x"),greater-than(created,2026-01-02T00:00:00Z)`: `and(equals(id,"x"),greater-than(created,2026-01-02T00:00:00Z))`,
		`any(id,["a", "b"])`:                                   `any(id,["a","b"])`,
		`any(id,"a")`:                                          `any(id,["a"])`,
		`equals(name,["a","b"])`:                               `equals(name,["a","b"])`,
		`or(has(profile),not(equals(metric_id,"m")))`:          `or(has(profile),not(equals(metric_id,"m")))`,
		` equals( Bounce Type , 'it\'s "x"' ) `:                `equals(Bounce Type,"it's \"x\"")`,
		`equals($attributed_flow,"a\"b\\c\u00e4")`:             `equals($attributed_flow,"a\"b\\cä")`,
		`less-or-equal(count,-1.5)`:                            `less-or-equal(count,-1.5)`,
		`equals(is_active,true)`:                               `equals(is_active,true)`,
		`and(has(a),has(b)),has(c)`:                            `and(and(has(a),has(b)),has(c))`,
		`contains-any(subject,["x"]),starts-with(name,"a,b)")`: `and(contains-any(subject,["x"]),starts-with(name,"a,b)"))`,
	} {
		f, err := ParseFilter(in)
		if err != nil || f.String() != want {
			t.Errorf("%s: %v %v, want %s", in, f, err, want)
			continue
		}
		if again, err := ParseFilter(f.String()); err != nil || !reflect.DeepEqual(again, f) {
			t.Errorf("%s: read again: %v %v", in, again, err)
		}
	}
}

func TestParseFilterRefuses(t *testing.T) {
	for in, want := range map[string]string{
		``:                                   "operators",
		`equal(a,"b")`:                       "operators",
		`equals`:                             "want (",
		`equals(`:                            "name of a field",
		`equals()`:                           "name of a field",
		`equals(a)`:                          "want , and a value",
		`equals(a,)`:                         "want a value",
		`equals(a,"b`:                        "does not end",
		`equals(a,"b"`:                       "want )",
		`equals(a,"b"))`:                     "want , or the end",
		`equals(a,"b")x`:                     "want , or the end",
		`equals(a,"b"),`:                     "operators",
		`equals(a,"\x")`:                     "escape",
		`any(a,[])`:                          "want a value",
		`any(a,["b")`:                        "want , or ]",
		`starts-with(a,["b"])`:               "want a value",
		`not(has(a),has(b))`:                 "not takes one term",
		`or()`:                               "operators",
		"equals(a,\xff)":                     "UTF-8",
		"equals(a,\"\xff\")":                 "UTF-8",
		strings.Repeat("not(", 9) + "has(a)": "nesting",
		strings.Repeat("has(a),", 200) + "has(a)":              "terms",
		`any(a,[` + strings.Repeat("1,", 1000) + `1])`:         "values",
		`equals(a,"` + strings.Repeat("x", maxFilter+1) + `")`: "longer",
	} {
		if f, err := ParseFilter(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v %v, want %s", in, f, err, want)
		}
	}
}

func TestFilterMatch(t *testing.T) {
	truth := map[string]bool{"t": true}
	leaf := func(f *Filter) bool { return truth[f.Field] }
	for in, want := range map[string]bool{
		`has(t)`: true, `has(f)`: false, `has(t),has(f)`: false, `or(has(t),has(f))`: true, `not(has(f))`: true,
		`not(or(has(f),has(f))),has(t)`: true, `or(and(has(t),has(f)),has(f))`: false,
	} {
		f, err := ParseFilter(in)
		if err != nil || f.Match(leaf) != want {
			t.Errorf("%s: %v %v", in, f.Match(leaf), err)
		}
	}
	if !(*Filter)(nil).Match(leaf) {
		t.Error("no filter holds for all")
	}
}

func TestFilterCheck(t *testing.T) {
	allow := Allow{"id": {Equals, Any}}
	for in, want := range map[string]string{`equals(id,"a")`: "", `or(any(id,["a"]),not(equals(id,"b")))`: "",
		`has(id)`: "does not take has", `not(equals(name,"b"))`: `"name" cannot`} {
		f, err := ParseFilter(in)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Check(allow); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestValueTime(t *testing.T) {
	want := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	for _, in := range []string{"2026-01-02T03:04:00Z", "2026-01-02T03:04:00.000Z", "2026-01-02T05:04:00+02:00", "2026-01-02T05:04:00 02:00", "2026-01-02T03:04:00", "2026-01-02T03:04"} {
		if got, err := (Value{Text: in}).Time(); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v %v", in, got, err)
		}
	}
	for _, in := range []string{"", "now", "2026-13-01", "1767322800"} {
		if got, err := (Value{Text: in}).Time(); err == nil {
			t.Errorf("%s: %v", in, got)
		}
	}
}

// FuzzParseFilter: whatever is read is written in a form that reads as the same.
func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{`equals(email,"a@b.c")`, `any(id,["a","b"]),or(has(x),not(less-than(created,2026-01-02)))`, `equals(Bounce Type,'it\'s')`, "equals(a,\"\\u0000\\\\\")"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		one, err := ParseFilter(in)
		if err != nil {
			return
		}
		two, err := ParseFilter(one.String())
		if err != nil || !reflect.DeepEqual(one, two) {
			t.Fatalf("%q became %q: %v", in, one, err)
		}
		for leaf := range one.Leaves {
			_, _ = leaf.Values, one.Match(func(*Filter) bool { return true })
		}
	})
}
