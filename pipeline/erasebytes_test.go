package pipeline

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed/keyedtest"
)

// whole are values of the victim. What describes a table of the warehouse may keep the first letters of one.
var whole = []string{secret + "@mail.test", "1555" + secret, secret + "-77", secret + "-cookie"}

// named are the folders with files, tables of Pebble decoded, that name the victim, once each.
func (c *city) named() (dirs []string) {
	c.Helper()
	for i, text := range append(slices.Clone(whole), secret) {
		names, err := keyedtest.Having(c.o.Path, []byte(text))
		c.must(err)
		for _, name := range names {
			rel, err := filepath.Rel(c.o.Path, name)
			c.must(err)
			parts := strings.Split(rel, string(filepath.Separator))
			if i < len(whole) || parts[0] != "warehouse" {
				dirs = append(dirs, strings.Join(parts[:min(2, len(parts)-1)], "/"))
			}
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// snap makes snapshots of all states.
func (c *city) snap() {
	c.Helper()
	for _, w := range c.p.consumers() {
		c.must(snapshots(c.Context(), w.worker, c.p.intake.Partitions()))
	}
}

// TestEraseBytes: after a pass no file of the pipeline's folder has anything of the deleted profile: logs, states, snapshots, warehouse, and what else there
// is. Before it they had, after the deletion too.
func TestEraseBytes(t *testing.T) {
	if testing.Short() {
		t.Skip("it rewrites whole files of state: the run without -short has it")
	}
	had := []string{"log/facts", "log/intake", "snapshots/customer", "state/customer"}
	t.Run("with a warehouse", func(t *testing.T) {
		eraseBytes(t, DefaultOptions().Warehouse.Engine, append(had, "warehouse"), []string{consumerCustomer, consumerWarehouse})
	})
	t.Run("without", func(t *testing.T) { eraseBytes(t, "", had, []string{consumerCustomer}) })
}

func eraseBytes(t *testing.T, engine string, had, compacted []string) {
	c := newCity(t, engine)
	if c.p.house == nil {
		had, compacted = slices.DeleteFunc(had, func(s string) bool { return s == "warehouse" }), compacted[:1]
	}
	id := c.live()
	c.snap()
	c.delete(id)
	c.snap()
	for began := time.Now(); c.p.Erasure().Waiting != 1 || !slices.Equal(c.named(), had); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("before the pass it is in %v, not %v", c.named(), had)
		}
	}
	before := c.picture()
	c.must(c.pass(t.Context()))
	if left := c.named(); len(left) > 0 {
		t.Errorf("after the pass it is in %v", left)
	}
	if s := c.p.Erasure(); s.Waiting != 0 || !slices.Equal(s.Last.Compacted, compacted) {
		t.Errorf("after the pass: %+v", s)
	}
	if after := c.picture(); after != before {
		t.Errorf("the pass changed states:\n%s\n%s", before, after)
	}
	c.stop()
	if left := c.named(); len(left) > 0 {
		t.Errorf("after the end it is in %v", left)
	}
}

// TestEraseBytesCrash: a pass that breaks off while states are compacted, or while their snapshots are replaced, goes on with that after
// the next start, and does not write the logs again.
func TestEraseBytesCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("it rewrites whole files of state: the run without -short has it")
	}
	for _, at := range []string{"compacting " + consumerCustomer, "taking snapshots"} {
		t.Run(at, func(t *testing.T) {
			c := newCity(t, "")
			id := c.live()
			c.snap()
			c.delete(id)
			c.snap()
			for c.p.Erasure().Waiting != 1 {
				time.Sleep(10 * time.Millisecond)
			}
			before := c.picture()
			ctx, cancel := context.WithCancel(t.Context())
			var watching sync.WaitGroup
			watching.Go(func() {
				for ctx.Err() == nil {
					if c.p.Erasure().Doing == at {
						cancel()
					}
					time.Sleep(time.Millisecond)
				}
			})
			if c.pass(ctx) == nil {
				t.Fatal("the pass did not break off")
			}
			cancel()
			watching.Wait()
			plan, err := os.ReadFile(filepath.Join(c.o.Path, "erase", "plan"))
			if err != nil || !strings.Contains(string(plan), `"Logs":true`) {
				t.Fatalf("the plan is %.300s: %v", plan, err)
			}
			if left := c.named(); slices.Contains(left, "log/facts") || !slices.Contains(left, "snapshots/customer") {
				t.Fatalf("half way it is in %v", left)
			}
			c.stop()
			c.open()
			ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for c.p.Erasure().Waiting != 0 {
				time.Sleep(10 * time.Millisecond)
				c.must(ctx.Err())
			}
			if left := c.named(); len(left) > 0 {
				t.Errorf("after the pass it is in %v", left)
			}
			if after := c.picture(); after != before {
				t.Errorf("the pass changed states:\n%s\n%s", before, after)
			}
		})
	}
}
