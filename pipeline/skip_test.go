package pipeline

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// stuck waits until a consumer is stuck at a record, and returns which.
func (c *city) stuck(consumer string, partition int32) int64 {
	c.Helper()
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(10 * time.Millisecond) {
		if at, is := c.p.StuckAt(consumer, partition); is {
			return at
		}
	}
	c.Fatalf("%s is not stuck", consumer)
	return 0
}

// TestSkip: a record that cannot be applied is skipped by exactly the consumer and at exactly the offset that an operator names, also after
// all state is made anew; the recount knows of it.
func TestSkip(t *testing.T) {
	c := newCity(t, "")
	c.put(c.event("a1", "mail:a@mail.test"))
	where := c.profile("mail:a@mail.test").Partition(c.p.facts.Partitions())
	// Others come with the bad one, so it must be found among them.
	good := fact.Fact{Kind: fact.KindTransfer, Transfer: &fact.Transfer{Level: fact.StageIntake}}
	data := good.Append(nil)
	offsets, err := c.p.facts.Append(t.Context(), []stream.Message{{Partition: where, Data: data}, {Partition: where, Data: []byte("no fact")}, {Partition: where, Data: data}})
	c.must(err)
	bad := offsets[1]
	if at := c.stuck(consumerAccount, where); at != bad {
		t.Fatalf("stuck at %d, not at %d", at, bad)
	}
	other := (where + 1) % c.p.facts.Partitions()
	for name, try := range map[string]struct {
		consumer  string
		partition int32
		offset    int64
	}{
		"another offset": {consumerAccount, where, offsets[0]}, "another partition": {consumerAccount, other, bad}, "no partition": {consumerAccount, 99, bad},
		"a consumer that goes on": {consumerCustomer, where, bad}, "no consumer": {"nobody", where, bad}, "the warehouse": {consumerWarehouse, where, bad},
	} {
		if err := c.p.SkipRecord(t.Context(), try.consumer, int(try.partition), try.offset); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(c.p.Skipped()) != 0 {
		t.Fatal("what was refused is remembered")
	}
	c.must(c.p.SkipRecord(t.Context(), consumerAccount, int(where), bad))
	c.put(c.event("a2", "mail:a@mail.test"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c.must(c.p.account.Wait(ctx, where, bad)) // it goes on
	if _, is := c.p.StuckAt(consumerAccount, where); is {
		t.Error("it is still stuck")
	}
	before := c.picture()
	c.replay()
	if got := c.picture(); got != before {
		t.Errorf("a replay ends otherwise:\n%s\n%s", before, got)
	}
	if all := c.p.Skipped(); len(all) != 1 || all[0].Offset != bad || all[0].Consumer != consumerAccount || all[0].Why == "" {
		t.Errorf("skipped: %+v", all)
	}
	c.stop()
	p, err := New(t.Context(), c.o, Deps{Fatal: func(err error) { t.Error(err) }})
	c.must(err)
	r, err := p.Recount(t.Context(), nil, 1, func(float64) {})
	c.must(errors.Join(err, p.Stop(context.Background())))
	if !r.OK() || r.Skipped != 1 || r.Distinct != 2 {
		t.Errorf("recount: %+v", r)
	}
	// Without the list nothing says what is missing from the state on purpose.
	c.must(os.WriteFile(filepath.Join(c.o.Path, skippedName), []byte("{"), 0o600))
	if p, err := New(t.Context(), c.o, Deps{}); err == nil {
		_ = p.Stop(context.Background())
		t.Error("a damaged list was taken for none")
	}
}
