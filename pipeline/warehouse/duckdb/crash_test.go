//go:build cgo

package duckdb

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

const (
	crashDir     = "GODWIT_TEST_WAREHOUSE"
	crashSeed    = 7
	crashBatches = 120
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := crashing(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crashing stores the batches of one history from where it was left.
func crashing(dir string) error {
	ctx := context.Background()
	d, err := open(ctx, dir, testOptions(), Deps{})
	if err != nil {
		return err
	}
	s, err := d.State(ctx)
	if err != nil {
		return err
	}
	w := newWorld(crashSeed)
	for range crashBatches {
		b := w.crashBatch()
		if stored(s, b) {
			continue
		}
		if err := d.Append(ctx, b); err != nil {
			return err
		}
	}
	return d.Close()
}

func (w *world) crashBatch() *warehouse.Batch {
	for range 100 {
		w.step()
	}
	return w.cut()
}

// stored reports whether a batch is behind what was stored. Its offsets were stored together, so one is enough.
func stored(s *warehouse.State, b *warehouse.Batch) bool {
	return slices.ContainsFunc(b.Offsets, func(o warehouse.Offset) bool {
		return slices.ContainsFunc(s.Offsets, func(at warehouse.Offset) bool { return at.Partition == o.Partition && at.Next >= o.Next })
	})
}

func TestKilledAtAnyMoment(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewSource(time.Now().UnixNano()))
	kills := 0
	for done := false; !done; {
		c := exec.Command(os.Args[0], "-test.run=^$")
		c.Env = append(os.Environ(), crashDir+"="+dir)
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		wait := time.Duration(50+r.Intn(700)) * time.Millisecond
		if kills >= 15 {
			wait = time.Minute
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		case <-time.After(wait):
			kills++
			if err := c.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			<-ended
		}
	}
	t.Log(kills, "kills")
	d, err := open(context.Background(), dir, testOptions(), Deps{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(crashSeed)
	for range crashBatches {
		w.crashBatch()
	}
	w.compare(t, d)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	// The keys are not the truth: without them the same is known.
	for _, f := range glob(t, dir, "keys", "*") {
		if err := os.Truncate(f, 10); err != nil {
			t.Fatal(err)
		}
	}
	if d, err = open(context.Background(), dir, testOptions(), Deps{}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	b := new(warehouse.Batch)
	for k, e := range w.events {
		e.Profile = k.profile
		b.Events = append(b.Events, e)
	}
	if err := d.Append(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	w.compare(t, d)
}

func glob(t *testing.T, parts ...string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}
