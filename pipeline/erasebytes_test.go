package pipeline

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed/keyedtest"
)

// having are the folders in which files, tables of Pebble decoded, have a text, once each.
func (c *city) having(text string) (dirs []string) {
	c.Helper()
	names, err := keyedtest.Having(c.o.Path, []byte(text))
	c.must(err)
	for _, name := range names {
		rel, err := filepath.Rel(c.o.Path, name)
		c.must(err)
		parts := strings.Split(rel, string(filepath.Separator))
		dirs = append(dirs, strings.Join(parts[:min(2, len(parts)-1)], "/"))
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

// TestEraseBytes: after a pass no file of the pipeline's folder has anything of the deleted profile: logs, states, snapshots, and what else there is. Before
// it they had, after the deletion too.
func TestEraseBytes(t *testing.T) {
	c := newCity(t, "")
	id := c.live()
	c.snap()
	c.delete(id)
	for c.p.Erasure().Waiting != 1 {
		time.Sleep(10 * time.Millisecond)
	}
	c.snap()
	had := c.having(secret)
	if want := []string{"log/facts", "log/intake", "snapshots/customer", "state/customer"}; !slices.Equal(had, want) {
		t.Fatalf("before the pass it is in %v, not %v", had, want)
	}
	before := c.picture()
	c.must(c.pass(t.Context()))
	if left := c.having(secret); len(left) > 0 {
		t.Errorf("after the pass it is in %v", left)
	}
	if s := c.p.Erasure(); s.Waiting != 0 || !slices.Equal(s.Last.Compacted, []string{consumerCustomer}) {
		t.Errorf("after the pass: %+v", s)
	}
	if after := c.picture(); after != before {
		t.Errorf("the pass changed states:\n%s\n%s", before, after)
	}
	c.stop()
	if left := c.having(secret); len(left) > 0 {
		t.Errorf("after the end it is in %v", left)
	}
}
