package grant

import (
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-mta/godwit/throttle"
)

// The estimate is never below the true offset and never above what the fastest
// heartbeat of the last 16 seconds (the shortest the window can be) showed.
func TestOffsetIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var o offset
		truth := time.Duration(rapid.Int64Range(-1e15, 1e15).Draw(t, "offset"))
		type arrival struct{ now, delay time.Duration }
		var all []arrival
		now := time.Duration(1e16)
		for range rapid.IntRange(1, 200).Draw(t, "n") {
			now += time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "pause"))
			delay := time.Duration(rapid.Int64Range(0, int64(300*time.Millisecond)).Draw(t, "delay"))
			o.sample(now-delay-truth, now)
			all = append(all, arrival{now, delay})
			least := delay
			for _, a := range all {
				if now-a.now <= (buckets-1)*bucketLength {
					least = min(least, a.delay)
				}
			}
			e, ok := o.estimate()
			if !ok || e < truth || e > truth+least {
				t.Fatalf("estimate %v, truth %v, least delay %v", e, truth, least)
			}
			if got := o.local(now - truth); got < now || got > now+least {
				t.Fatalf("an instant of now is %v from now", got-now)
			}
		}
	})
}

// The estimate follows a longer delay within the window of 20 s.
func TestOffsetFollows(t *testing.T) {
	var o offset
	for now := time.Duration(0); now < 10*time.Second; now += BeatEvery {
		o.sample(now-time.Millisecond, now)
	}
	for now := 10 * time.Second; now < 31*time.Second; now += BeatEvery {
		o.sample(now-50*time.Millisecond, now)
	}
	if e, _ := o.estimate(); e != 50*time.Millisecond || o.falls != 0 {
		t.Errorf("estimate %v after %d falls", e, o.falls)
	}
	o.sample(31*time.Second-time.Millisecond, 31*time.Second)
	if e, _ := o.estimate(); e != time.Millisecond || o.falls != 1 || !o.settling(31*time.Second) {
		t.Errorf("estimate %v after %d falls, settling %v", e, o.falls, o.settling(31*time.Second))
	}
	if o.settling(31*time.Second + settleTime) {
		t.Error("settling for too long")
	}
}

// A fall in small steps is a fall.
func TestOffsetSeesSlowFalls(t *testing.T) {
	var o offset
	now := time.Duration(0)
	for ; now < 10*time.Second; now += BeatEvery {
		o.sample(now-100*time.Millisecond, now)
	}
	for d := 100 * time.Millisecond; d > 50*time.Millisecond; d -= time.Millisecond {
		now += 10 * time.Microsecond
		o.sample(now-d, now)
	}
	if !o.settling(now) || o.falls != 1 {
		t.Errorf("settling %v, falls %d", o.settling(now), o.falls)
	}
}

// The key table against a model: a key keeps its number until it is forgotten, numbers
// are never used twice, and keys with wants are not forgotten.
func TestKeyTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := newKeyTable(maxKeys)
		model := map[throttle.Key]uint64{}
		everUsed := map[uint64]throttle.Key{}
		now := time.Duration(0)
		forget := func(e *entry) {
			if !e.idle() {
				t.Fatalf("forgot %v, which is wanted", e.key)
			}
			if now-e.used < keyIdle {
				t.Fatalf("forgot %v after %v", e.key, now-e.used)
			}
			delete(model, e.key)
		}
		for range rapid.IntRange(1, 200).Draw(t, "n") {
			now += time.Duration(rapid.Int64Range(0, int64(keyIdle/4)).Draw(t, "pause"))
			k := throttle.Key{Site: rapid.StringMatching("[a-p]").Draw(t, "site")}
			e := table.get(&k, now, forget)
			if num, ok := model[k]; ok && num != e.num {
				t.Fatalf("%v had number %d, has %d", k, num, e.num)
			}
			if was, ok := everUsed[e.num]; ok && (was != k || model[k] != e.num) {
				t.Fatalf("number %d used twice", e.num)
			}
			model[k], everUsed[e.num] = e.num, k
			e.wants[0].want.N = rapid.IntRange(0, 1).Draw(t, "wanted")
			if len(table.byKey) != len(model) || len(table.byNum) != len(model) {
				t.Fatalf("%d keys, %d numbers, want %d", len(table.byKey), len(table.byNum), len(model))
			}
			seen := 0
			for e := table.ring.next; e != &table.ring; e = e.next {
				seen++
				if table.byNum[e.num] != e {
					t.Fatalf("%v is in the ring and not in the table", e.key)
				}
			}
			if seen != len(model) {
				t.Fatalf("%d keys in the ring, want %d", seen, len(model))
			}
		}
	})
}

func TestKeyTableIsBounded(t *testing.T) {
	const most = 100
	table := newKeyTable(most)
	forgotten := 0
	forget := func(*entry) { forgotten++ }
	key := func(i int) *throttle.Key { return &throttle.Key{Site: strconv.Itoa(i)} }
	for i := range most {
		table.get(key(i), 0, forget).wants[0].want.N = 1
	}
	if e := table.get(key(most), 1, forget); e != nil || forgotten != 0 {
		t.Fatalf("room for one more although all are wanted; %d forgotten", forgotten)
	}
	for _, e := range table.byKey {
		e.wants[0].want.N = 0
	}
	if e := table.get(key(most), 2, forget); e == nil || forgotten == 0 || len(table.byKey) > most {
		t.Errorf("no room although none is wanted; %d forgotten", forgotten)
	}
}
