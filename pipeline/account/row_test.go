package account

import (
	"bytes"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// change is what a row means: for each slot, numbers to add, ids that leave, ids that join then.
type change map[uint32]*slotChange

type slotChange struct {
	count         int64
	sum           Sum
	joins, leaves map[uint32]bool
}

// randomRow makes a row and what it means. Some have many ids.
func randomRow(t *testing.T, r *rand.Rand) ([]byte, change) {
	t.Helper()
	out, means := []byte(nil), change{}
	slots := []uint32{0, 900, 901, 3600, 90_000, 2_000_001}
	for _, slot := range slots {
		if r.IntN(3) == 0 {
			continue
		}
		c := &slotChange{count: int64(r.IntN(80) - 40), joins: map[uint32]bool{}, leaves: map[uint32]bool{}}
		if r.IntN(2) == 0 {
			c.sum = Sum{r.Int64() >> r.IntN(64), r.Uint64()}
		}
		for range r.IntN(1 + []int{3, 100, 700, 5000}[r.IntN(4)]) {
			c.joins[r.Uint32N(9000)] = true
		}
		if r.IntN(2) == 0 {
			for range r.IntN(1 + []int{3, 100, 700}[r.IntN(3)]) {
				if id := r.Uint32N(9000); !c.joins[id] {
					c.leaves[id] = true
				}
			}
		}
		x := &scratch{joins: keysOf(c.joins), leaves: keysOf(c.leaves)}
		var err error
		if out, err = appendMembers(out, slot, c.count, c.sum, true, x); err != nil {
			t.Fatal(err)
		}
		means[slot] = c
	}
	return out, means
}

func keysOf(m map[uint32]bool) (out []uint32) {
	for id := range m {
		out = append(out, id)
	}
	return out
}

// then is one change after the other.
func (c change) then(o change) change {
	out := change{}
	for slot, s := range c {
		out[slot] = s
	}
	for slot, s := range o {
		old := out[slot]
		if old == nil {
			out[slot] = s
			continue
		}
		n := &slotChange{count: old.count + s.count, sum: old.sum.Add(s.sum), joins: map[uint32]bool{}, leaves: map[uint32]bool{}}
		for id := range old.joins {
			n.joins[id] = true
		}
		for id := range old.leaves {
			n.leaves[id] = true
		}
		for id := range s.leaves {
			delete(n.joins, id)
			n.leaves[id] = true
		}
		for id := range s.joins {
			n.joins[id] = true
			delete(n.leaves, id)
		}
		out[slot] = n
	}
	return out
}

func readRow(t *testing.T, b []byte) change {
	t.Helper()
	out := change{}
	r := row{rest: b}
	last := int64(-1)
	for {
		var e entry
		if _, ok := r.next(&e); !ok {
			break
		}
		if int64(e.slot) <= last {
			t.Fatalf("slot %d behind %d", e.slot, last)
		}
		last = int64(e.slot)
		out[e.slot] = &slotChange{e.count, e.sum, idsOf(t, e.adds), idsOf(t, e.removes)}
	}
	if r.bad {
		t.Fatal("not a row")
	}
	return out
}

func idsOf(t *testing.T, s idSet) map[uint32]bool {
	m, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	out := map[uint32]bool{}
	for _, id := range m.ToArray() {
		out[id] = true
	}
	var u union
	if err := u.add(s); err != nil || u.size() != int64(len(out)) {
		t.Fatalf("%d ids counted of %d: %v", u.size(), len(out), err)
	}
	return out
}

func (c change) equal(o change) bool {
	for _, two := range [][2]change{{c, o}, {o, c}} {
		for slot, s := range two[0] {
			p := two[1][slot]
			if p == nil && (s.count != 0 || !s.sum.IsZero() || len(s.joins)+len(s.leaves) > 0) {
				return false
			}
			if p != nil && (s.count != p.count || s.sum != p.sum || !sameIDs(s.joins, p.joins) || !sameIDs(s.leaves, p.leaves)) {
				return false
			}
		}
	}
	return true
}

func sameIDs(a, b map[uint32]bool) bool {
	if len(a) != len(b) {
		return false
	}
	for id := range a {
		if !b[id] {
			return false
		}
	}
	return true
}

func TestCombineIsAssociative(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	combine := func(a, b []byte) []byte {
		out, err := Merger{}.Combine(nil, bytes.Clone(a), bytes.Clone(b))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for range 150 {
		a, meansA := randomRow(t, r)
		b, meansB := randomRow(t, r)
		c, meansC := randomRow(t, r)
		left, right := combine(combine(a, b), c), combine(a, combine(b, c))
		want := meansA.then(meansB).then(meansC)
		if got := readRow(t, left); !got.equal(want) {
			t.Fatal("(ab)c is not what it means")
		}
		if got := readRow(t, right); !got.equal(want) {
			t.Fatal("a(bc) is not what it means")
		}
		if !bytes.Equal(left, right) {
			t.Fatal("(ab)c and a(bc) mean the same and are not")
		}
	}
}

func TestListsBecomeBitmapsAndComeBack(t *testing.T) {
	var ids []uint32
	for i := range uint32(maxList + 1) {
		ids = append(ids, 70_000*i)
	}
	type entries = row
	row := func(joins, leaves []uint32) []byte {
		b, err := appendMembers(nil, 900, 0, Sum{}, true, &scratch{joins: slices.Clone(joins), leaves: slices.Clone(leaves)})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	form := func(b []byte) idSet {
		var e entry
		if _, ok := (&entries{rest: b}).next(&e); !ok {
			t.Fatal("no entry")
		}
		return e.adds
	}
	all, err := Merger{}.Combine(nil, row(ids[:maxList], nil), row(ids[maxList:], nil))
	if err != nil || !form(all).bitmap {
		t.Fatalf("%d ids are no bitmap: %v", len(ids), err)
	}
	less, err := Merger{}.Combine(nil, all, row(nil, ids[:1]))
	if err != nil || form(less).bitmap {
		t.Fatalf("%d ids are a bitmap: %v", maxList, err)
	}
}

func TestSumIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var s Sum
	want := new(big.Int)
	for range 10_000 {
		v := r.Int64() >> r.IntN(64)
		s = s.Add(SumOf(v))
		want.Add(want, big.NewInt(v))
		if s.Big().Cmp(want) != 0 {
			t.Fatalf("%v, want %v", s.Big(), want)
		}
		got, rest, ok := parseSum(append(s.append(nil), 7))
		if !ok || got != s || len(rest) != 1 {
			t.Fatalf("%v read as %v, %v %v", s, got, rest, ok)
		}
		if n := s.Neg(); n.Add(s) != (Sum{}) || s.Compare(n) != want.Sign() {
			t.Fatalf("%v and %v", s, n)
		}
	}
	for v, text := range map[int64]string{0: "0", 1: "0.000001", -1: "-0.000001", 12_500_000: "12.5", -3_000_000: "-3", 1_000_001: "1.000001"} {
		if got := SumOf(v).String(); got != text {
			t.Errorf("%d is %s, not %s", v, got, text)
		}
	}
	for _, s := range []Sum{{Hi: -1 << 63}, {Hi: 1<<63 - 1, Lo: 1<<64 - 1}} {
		if got, _, ok := parseSum(s.append(nil)); !ok || got != s {
			t.Errorf("%+v read as %+v", s, got)
		}
	}
	if got := (Sum{Hi: -1 << 63}).String(); got != "-170141183460469231731687303715884.105728" {
		t.Error(got)
	}
}

func FuzzCombine(f *testing.F) {
	r := rand.New(rand.NewPCG(7, 8))
	t := new(testing.T)
	for range 5 {
		a, _ := randomRow(t, r)
		b, _ := randomRow(t, r)
		f.Add(a, b)
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if hasBitmap(a) || hasBitmap(b) { // the library trusts what it reads
			return
		}
		out, err := Merger{}.Combine(nil, bytes.Clone(a), bytes.Clone(b))
		if err != nil {
			return
		}
		if _, err := (Merger{}).Combine(nil, out, nil); err != nil {
			t.Fatalf("%x and %x make %x, which is not a row", a, b, out)
		}
	})
}

func hasBitmap(b []byte) bool {
	r := row{rest: b}
	for {
		var e entry
		if _, ok := r.next(&e); !ok {
			return false
		}
		if e.adds.bitmap || e.removes.bitmap {
			return true
		}
	}
}

func FuzzEventValue(f *testing.F) {
	f.Add((&eventValue{at: -5, value: 7, dims: []dim{{number: 1, text: []byte("a")}, {number: 300}, {number: 2, value: 7}}}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v, again eventValue
		if !v.parse(b) {
			return
		}
		if !again.parse(v.append(nil)) || again.at != v.at || again.value != v.value || len(again.dims) != len(v.dims) {
			t.Fatalf("%+v read as %+v", v, again)
		}
	})
}
