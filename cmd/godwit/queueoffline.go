package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/godwit-mta/godwit/config"
	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/queue/spool"
)

// volumeFlags name a volume that no server uses.
type volumeFlags struct {
	Config string `short:"c" required:"" type:"existingfile" placeholder:"FILE" help:"Configuration file that names the volume (queue.path)."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// volume reads the configuration and makes sure that there is a volume.
func (f *volumeFlags) volume() (*config.File, error) {
	file, err := config.Load(f.Config)
	if err != nil {
		return nil, usageError{err}
	}
	if _, err := os.Stat(filepath.Join(file.Queue.Path, "VOLUME")); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("there is no spool volume in %s (queue.path of %s); is it mounted?", file.Queue.Path, f.Config)
		}
		return nil, err
	}
	return file, nil
}

// offline explains why a volume cannot be worked on.
func offline(err error) error {
	if errors.Is(err, spool.ErrVolumeInUse) {
		return fmt.Errorf("%w: stop the server first", err)
	}
	return err
}

type queueCheckCmd struct{ volumeFlags }

// Help teaches by example.
func (queueCheckCmd) Help() string {
	return `Changes nothing. A damaged index is rebuilt by godwit queue repair; no message is lost by it.

Example:
  godwit queue check -c godwit.toml`
}

// Run reads the index.
func (c *queueCheckCmd) Run(e *env) error {
	file, err := c.volume()
	if err != nil {
		return err
	}
	stop := working(e, "reading the index of "+file.Queue.Path)
	err = spool.CheckVolume(file.Queue.Path)
	stop()
	if err != nil {
		return offline(err)
	}
	if c.JSON {
		return show.JSON(e.out, map[string]any{"volume": file.Queue.Path, "ok": true})
	}
	_, err = fmt.Fprintf(e.out, "the index of %s is fine\n", file.Queue.Path)
	return err
}

type queueRepairCmd struct{ volumeFlags }

// Help teaches by example.
func (queueRepairCmd) Help() string {
	return `Reads all segments and the event log, and writes a new index; the old one is kept
beside it, with the time in its name. No message is lost. Suspensions and the
idempotency keys of HTTP requests that are only in the old index are.

Example:
  systemctl stop godwit && godwit queue repair -c godwit.toml && systemctl start godwit`
}

// repaired is the JSON form of what a repair did.
type repaired struct {
	Volume   string  `json:"volume"`
	Messages int     `json:"messages"`
	Queues   int     `json:"queues"`
	Changes  int     `json:"changes"`
	Seconds  float64 `json:"seconds"`
	// Damage are places in the segments and the event log that could not be read and were left out.
	Damage []string `json:"damage,omitempty"`
}

// Run rebuilds the index.
func (c *queueRepairCmd) Run(e *env) error {
	file, err := c.volume()
	if err != nil {
		return err
	}
	q := &file.Queue
	stop := working(e, fmt.Sprintf("rebuilding the index of %s from %s of segments", q.Path, show.Bytes(size(filepath.Join(q.Path, "segments")))))
	r, err := queue.Repair(e.ctx, *q, nil)
	stop()
	if err != nil {
		return offline(err)
	}
	out := repaired{Volume: q.Path, Messages: r.Replayed, Queues: len(r.Queues), Changes: r.Changes, Seconds: r.Took.Seconds(), Damage: r.Damage}
	if c.JSON {
		return show.JSON(e.out, out)
	}
	for _, place := range r.Damage {
		if _, err := fmt.Fprintf(e.out, "left out: %s\n", place); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(e.out, "rebuilt the index of %s: %s in %s, %s; took %s\n", q.Path, show.Plural(int64(out.Messages), "message"),
		show.Plural(int64(out.Queues), "queue"), show.Plural(int64(out.Changes), "recorded change"), show.Span(r.Took))
	return err
}

// size is what the files of a folder hold.
func size(dir string) (n int64) {
	entries, _ := os.ReadDir(dir) // only for the progress line
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil {
			n += info.Size()
		}
	}
	return n
}

// working shows on a terminal that something takes its time, until the returned function is called.
func working(e *env, what string) (stop func()) {
	page := show.New(e.errOut)
	if !page.Terminal() {
		return func() {}
	}
	start, quit, done := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			page.Draw([]string{what + " … " + show.Span(time.Since(start).Truncate(time.Second))})
			select {
			case <-quit:
				page.Clear()
				return
			case <-tick.C:
			}
		}
	}()
	return func() { close(quit); <-done }
}
