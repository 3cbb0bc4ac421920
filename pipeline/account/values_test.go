package account

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// colors has the rows of a dimension in all states, by what their keys have: a text or a number.
func (w *world) colors() (texts map[string]int, numbers int) {
	texts = map[string]int{}
	for _, p := range w.parts {
		err := p.store.Scan([]byte{prefixRow}, nil, func(key, _ []byte) bool {
			k, ok := parseRowKey(key)
			switch {
			case !ok:
				w.t.Errorf("key %x", key)
			case k.dim != 0 && k.number != 0:
				numbers++
			case k.dim != 0:
				texts[string(k.text)]++
			}
			return true
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return texts, numbers
}

func (w *world) commitAll(restart bool) {
	for _, p := range w.parts {
		w.commit(p)
		if restart {
			w.crash(p, true)
		}
	}
}

// opened puts an event into the log for each of n people: of one day, so that all are of one row.
func (w *world) opened(n int, uid, color string) fact.MetricID {
	m := fact.DeriveMetric("utc", "api", "Opened")
	for i := range n {
		p := fact.DeriveProfile("utc", fact.Identifier{Kind: fact.ByEmail, Value: fmt.Sprint(i)}, fact.ProfileID{})
		w.send(0, &fact.Fact{Kind: fact.KindEvent, Tenant: "utc", Profile: p, Event: &fact.Event{Metric: m, Service: "api", Name: "Opened",
			Time: morning, UID: uid, Dims: []fact.Dim{{Name: "Color", Value: color}}}})
	}
	w.drain()
	return m
}

func TestValuesThatComeOftenGetANumber(t *testing.T) {
	w := newWorld(t, 1)
	w.opened(60, "a", "red") // 20 for each partition
	m := w.opened(1, "b", "blue")
	given := 0
	for _, p := range w.parts {
		given += int(p.proc.numbers.value) - 1
	}
	if given != partitions {
		t.Fatalf("%d numbers were given", given)
	}
	q := day(m, "utc")
	check := func(when string, red, people int64) {
		t.Helper()
		for _, values := range []map[string][]string{nil, {"Color": {"red"}}} {
			for _, by := range [][]string{nil, {"Color"}} {
				if q.By, q.Values = by, values; by == nil && values == nil {
					continue
				}
				got, err := w.reader().Query(context.Background(), q)
				if err != nil {
					t.Fatal(err)
				}
				last := got.Rows[len(got.Rows)-1] // blue comes before
				if last.Count[0] != red || last.Unique[0] != people || len(got.Rows) != 1 && values != nil {
					t.Errorf("%s, by %v, values %v: %+v", when, by, values, got.Rows)
				}
			}
		}
	}
	check("before the commit", 60, 60)
	w.commitAll(false)
	check("after the commit", 60, 60)
	texts, numbers := w.colors()
	if texts["red"] == 0 || texts["blue"] != 1 || numbers == 0 {
		t.Errorf("rows of texts %v, of numbers %d", texts, numbers)
	}
	w.commitAll(true)
	w.opened(60, "c", "red") // some by text again, then by the number that is in the state
	check("after a restart", 120, 60)
	w.commitAll(true)
	check("after another one", 120, 60)
	for _, p := range w.parts {
		if p.proc.numbers.value != 2 {
			t.Errorf("numbers %+v: a value got a second one", p.proc.numbers)
		}
	}
}

// Who leaves goes out of the row that an event was counted in, whatever the value goes by at that time.
func TestEventsLeaveTheRowsThatTheyWereCountedIn(t *testing.T) {
	for _, restart := range []bool{false, true} {
		w, a, b := pair(t, 12, true) // the first ones count by their text, the others by a number
		w.commitAll(restart)
		w.merge(a, b)
		w.settle()
		w.checkAll(fmt.Sprint("restart ", restart))
		w.commitAll(true)
		w.checkAll("later")
	}
}

func TestValuesAreForgottenAndFoundAgain(t *testing.T) {
	w := newWorld(t, 1)
	for round := range 3 {
		for i := range 200 {
			w.opened(1, fmt.Sprint(round, "/", i), fmt.Sprint("Color ", i))
			if i%10 == 0 {
				w.commitAll(false)
			}
		}
		w.opened(3, fmt.Sprint("x", round), "Color 7")
		w.opened(3, fmt.Sprint("y", round), "Color 7")
		w.opened(3, fmt.Sprint("z", round), "Color 7")
	}
	q := day(fact.DeriveMetric("utc", "api", "Opened"), "utc")
	q.By, q.Size = []string{"Color"}, 1000
	got, err := w.reader().Query(context.Background(), q)
	if err != nil || len(got.Rows) != 200 {
		t.Fatalf("%d rows, %v", len(got.Rows), err)
	}
	for _, r := range got.Rows {
		want := int64(3)
		if r.Dimensions[0] == "Color 7" {
			want = 30
		}
		if r.Count[0] != want {
			t.Errorf("%v: %d, want %d", r.Dimensions, r.Count[0], want)
		}
	}
}

// Logs have transfers that the version before made.
func TestTransfersOfTheOldVersionAreRead(t *testing.T) {
	w := newWorld(t, 1)
	m := w.opened(1, "a", "red")
	who := fact.DeriveProfile("utc", fact.Identifier{Kind: fact.ByEmail, Value: "0"}, fact.ProfileID{})
	data := binary.BigEndian.AppendUint64([]byte{oldTransferVersion}, uint64(m))
	data = binary.AppendVarint(data, morning.UnixMilli())
	data = appendBytes(appendBytes(data, "api"), "Opened")
	data = binary.AppendUvarint(data, 2)
	for _, uid := range []string{"a", "b"} { // the first one is there already
		data = binary.BigEndian.AppendUint64(data, hashUID([]byte(uid)))
		data = append(data, "12345678"...)
		data = binary.AppendVarint(data, morning.Unix())
		data = binary.AppendVarint(data, 2_500_000)
		data = binary.AppendUvarint(data, 1)
		data = appendBytes(appendBytes(data, "Color"), "red")
	}
	f := &fact.Fact{Kind: fact.KindTransfer, Tenant: "utc", Profile: who, Transfer: &fact.Transfer{Level: fact.StageAccount, Data: data, Last: true}}
	f.From = fact.Origin{Stage: fact.StageAccount, Partition: 1, Offset: 1, N: 1, Generation: 1}
	w.put(stream.Message{Partition: who.Partition(partitions), Data: f.Append(nil)})
	w.drain()
	got, err := w.reader().Query(context.Background(), day(m, "utc"))
	if err != nil || got.Rows[0].Count[0] != 2 || got.Rows[0].Sum[0] != SumOf(2_500_000) || got.Rows[0].Unique[0] != 1 {
		t.Errorf("%+v %v", got, err)
	}
}

func TestAmountsAreShort(t *testing.T) {
	for v, n := range map[int64]int{0: 1, 10_000: 1, -199_990_000: 3, 1: 2, 12_345: 4, 1<<63 - 1: 11, -1 << 63: 11, (1<<63 - 1) / hundredth * hundredth: 8} {
		b := appendAmount(nil, v)
		p := parser{b: b}
		if got := p.amount(); got != v || p.bad || len(p.b) > 0 || len(b) != n {
			t.Errorf("%d read as %d, of %d bytes, not %d", v, got, len(b), n)
		}
	}
	p := parser{b: binary.AppendVarint(nil, 1<<62)}
	if p.amount(); !p.bad {
		t.Error("an amount that is too large is read")
	}
}

func TestOneWindowHasAProfilesEventsInOrder(t *testing.T) {
	w := newWindow(1)
	for i := range uint64(1000) {
		k := eventKey{profile: uint32(i % 7), metric: 1, uid: i}
		w.note(&k, k.hash(), 0)
		if i%100 != 50 {
			continue
		}
		var got []uint64
		w.eventsOf(3, func(e *eventRow) { got = append(got, e.uid) })
		if want := (i + 4) / 7; uint64(len(got)) != want || got[0] != (want-1)*7+3 {
			t.Fatalf("after %d: %v", i, got)
		}
	}
	w.reset(2)
	w.eventsOf(3, func(*eventRow) { t.Error("an event of the window before") })
}

// Many values and hours of one metric: the tables of a window grow.
func TestWindowFindsWhatItHas(t *testing.T) {
	w := newWindow(1)
	b := bucket{month: 24_000}
	for i := range uint32(20_000) {
		b.slot = 900 * (1 + i%3)
		w.add(seriesID{metric: 1 + i%5, value: ref(i % 5000), month: b.month}, 1, b, int64(i), i, 1)
	}
	if len(w.series) != 5000 {
		t.Fatalf("%d series", len(w.series))
	}
	for i := range uint32(5000) {
		s := w.find(seriesID{metric: 1 + i%5, value: ref(i), month: b.month})
		if s == nil || s.events != 4 {
			t.Fatalf("series %d: %+v", i, s)
		}
	}
	if w.find(seriesID{metric: 2, value: 0, month: b.month}) != nil {
		t.Error("a series that is not there is found")
	}
}
