package records

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func drawRecord(t *rapid.T) Record {
	r := Record{
		Key:     rapid.StringN(1, 20, MaxKey).Draw(t, "key"),
		Value:   rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value"),
		Version: Version{Time: rapid.Uint64().Draw(t, "time"), Node: rapid.StringN(1, 10, MaxNode).Draw(t, "node")},
		Deleted: rapid.Bool().Draw(t, "deleted"),
	}
	if ms := rapid.Int64Range(0, maxMilli).Draw(t, "expires"); ms != 0 {
		r.Expires = time.UnixMilli(ms)
	}
	return r
}

var sameRecord = cmp.Comparer(func(a, b Record) bool {
	return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && a.Version == b.Version && a.Deleted == b.Deleted && a.Expires.Equal(b.Expires)
})

func TestEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Custom(drawRecord), 1, 5).Draw(t, "records")
		var b []byte
		for i := range want {
			b = want[i].Append(b)
		}
		whole := bytes.Clone(b)
		var got []Record
		for len(b) > 0 {
			r, rest, err := Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			got, b = append(got, r), rest
		}
		if d := cmp.Diff(want, got, sameRecord); d != "" {
			t.Fatal(d)
		}
		cut := rapid.IntRange(0, len(want[0].Append(nil))-1).Draw(t, "cut")
		if _, _, err := Decode(whole[:cut]); err == nil {
			t.Fatal("a record that is cut off was read")
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	good := Record{Key: "k", Value: []byte("v"), Version: Version{Time: 1, Node: "n"}}
	for name, change := range map[string]func(r *Record){
		"no key":      func(r *Record) { r.Key = "" },
		"long key":    func(r *Record) { r.Key = strings.Repeat("k", MaxKey+1) },
		"no node":     func(r *Record) { r.Version.Node = "" },
		"long value":  func(r *Record) { r.Value = make([]byte, MaxValue+1) },
		"late expiry": func(r *Record) { r.Expires = time.UnixMilli(maxMilli + 1) },
	} {
		r := good
		change(&r)
		if _, _, err := Decode(r.Append(nil)); err == nil {
			t.Error(name)
		}
	}
	b := good.Append(nil)
	b[0] = 2
	if _, _, err := Decode(b); err == nil {
		t.Error("unknown flag")
	}
}

func FuzzDecode(f *testing.F) {
	r := Record{Key: "key", Value: []byte("value"), Version: Version{Time: 1 << 40, Node: "n1"}, Expires: time.UnixMilli(5)}
	f.Add(r.Append(nil))
	f.Add(make([]byte, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, rest, err := Decode(b)
		if err != nil {
			return
		}
		again, none, err := Decode(r.Append(nil))
		if err != nil || len(none) > 0 || !cmp.Equal(r, again, sameRecord) {
			t.Fatalf("%+v became %+v: %v", r, again, err)
		}
		if len(rest) >= len(b) {
			t.Fatal("nothing was read")
		}
	})
}

// TestSupersedesIsTotal: of two different records of a key exactly one wins, and winning is transitive.
func TestSupersedesIsTotal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		few := rapid.Custom(func(t *rapid.T) Record {
			r := Record{
				Key: "k", Value: rapid.SliceOfN(rapid.ByteRange(0, 1), 0, 1).Draw(t, "value"),
				Version: Version{Time: rapid.Uint64Range(0, 1).Draw(t, "time"), Node: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "node")},
				Deleted: rapid.Bool().Draw(t, "deleted"),
			}
			if rapid.Bool().Draw(t, "expires") {
				r.Expires = time.UnixMilli(1)
			}
			return r
		})
		a, b, c := few.Draw(t, "a"), few.Draw(t, "b"), few.Draw(t, "c")
		equal := cmp.Equal(a, b, sameRecord)
		if wins, loses := a.supersedes(&b), b.supersedes(&a); wins == loses && !equal || equal && wins {
			t.Fatalf("%v %v", wins, loses)
		}
		if a.supersedes(&b) && b.supersedes(&c) && !a.supersedes(&c) {
			t.Fatal("not transitive")
		}
	})
}

func TestDigestEncoding(t *testing.T) {
	var d Digest
	d.toggle(&Record{Key: "a", Version: Version{Time: 1, Node: "n"}})
	d.toggle(&Record{Key: "b", Version: Version{Time: 2, Node: "n"}})
	b := d.Append(nil)
	if got, err := ParseDigest(b); err != nil || got != d || len(b) != DigestSize {
		t.Fatal(err)
	}
	if _, err := ParseDigest(b[1:]); err == nil {
		t.Fatal("a digest that is cut off was read")
	}
	before := d
	d.toggle(&Record{Key: "a", Version: Version{Time: 1, Node: "n"}})
	d.toggle(&Record{Key: "a", Version: Version{Time: 1, Node: "m"}})
	if d == before {
		t.Fatal("the digest does not see who wrote")
	}
}
