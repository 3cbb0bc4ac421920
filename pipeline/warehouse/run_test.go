package warehouse

import (
	"context"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/units"
)

func TestFewFactsWaitShort(t *testing.T) {
	const window = 4 * time.Second
	for _, c := range []struct {
		facts int
		want  time.Duration
	}{{1, 201 * time.Millisecond}, {500, 600 * time.Millisecond}, {2500, 2200 * time.Millisecond}, {5000, window}, {1_000_000, window}} {
		if got := collectFor(window, c.facts); got < c.want-time.Millisecond || got > c.want {
			t.Errorf("%d facts wait %v, not %v", c.facts, got, c.want)
		}
	}
	if got := collectFor(time.Millisecond, 1); got != time.Millisecond {
		t.Errorf("a short window: %v", got)
	}
}

// crashy is a sink whose last batches a crash would take back.
type crashy struct {
	Sink
	safe []Offset
}

func (c *crashy) Safe() []Offset { return c.safe }

// held notes what the log was told to keep.
type held struct {
	stream.Log
	at map[int32]int64
}

// Hold implements stream.Log.
func (h *held) Hold(_ context.Context, _ string, _ stream.Topic, partition int32, offset int64) error {
	h.at[partition] = offset
	return nil
}

func TestLogKeepsWhatACrashTakesBack(t *testing.T) {
	sink, log := new(crashy), &held{at: map[int32]int64{}}
	c, err := NewConsumer(sink, nil, log, DefaultOptions(), Deps{Sources: 1})
	if err != nil {
		t.Fatal(err)
	}
	r := newRun(c, &State{Offsets: []Offset{{Partition: 0, Next: 5}, {Partition: 1, Next: 7}}}, nil)
	r.parts[0].stored, r.parts[1].stored = 100, 200
	hold := func(want map[int32]int64) {
		t.Helper()
		clear(log.at)
		if err := r.hold(t.Context()); err != nil || !maps.Equal(log.at, want) {
			t.Errorf("held %v, want %v; %v", log.at, want, err)
		}
	}
	hold(map[int32]int64{})
	sink.safe = []Offset{{Partition: 0, Next: 50}, {Partition: 1, Next: 7}}
	hold(map[int32]int64{0: 50, 1: 7})
	sink.safe = []Offset{{Partition: 0, Next: 50}, {Partition: 1, Next: 200}}
	hold(map[int32]int64{1: 200})
}

func TestBatchesGiveWayForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			yield       time.Duration
			least, most time.Duration
		}{{time.Hour, 3 * time.Second, 3100 * time.Millisecond}, {time.Second, time.Second, 1100 * time.Millisecond}, {0, 0, 0}} {
			o := DefaultOptions()
			o.Yield = units.Duration(c.yield)
			free := time.Now().Add(3 * time.Second)
			w, err := NewConsumer(new(crashy), nil, nil, o, Deps{Sources: 1, Behind: func() bool { return time.Now().Before(free) }})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			newRun(w, &State{}, nil).giveWay(t.Context())
			if took := time.Since(began); took < c.least || took > c.most {
				t.Errorf("yield %v: it waited %v", c.yield, took)
			}
		}
	})
}
