package egress

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

// saveEvery bounds how much of a daily limit a crash can forget.
const saveEvery = 10 * time.Second

// maxState bounds the file of daily counts.
const maxState = 64 << 20

// restore reads the daily counts of limits that this node owns. A file that cannot be
// understood is an error: to start with no counts would send more than a day allows.
func (g *Gate) restore() error {
	if g.o.StateFile == "" {
		return nil
	}
	b, err := faultfs.ReadFile(faultfs.OS{}, g.o.StateFile, maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = g.desk.Keeper().Restore(b)
	}
	if err != nil {
		return fmt.Errorf("daily counts: %w; if they do not matter, delete %s", err, g.o.StateFile)
	}
	return nil
}

// save writes the counts.
func (g *Gate) save() {
	if g.o.StateFile == "" {
		return
	}
	b, err := g.desk.Keeper().Save()
	if err == nil {
		dir, name := filepath.Split(filepath.Clean(g.o.StateFile))
		err = faultfs.WriteFile(faultfs.OS{}, filepath.Clean(dir), name, b, 0o600)
	}
	if err != nil {
		g.log.Error("daily counts not saved: a restart may send more than a day allows", "file", g.o.StateFile, "error", err)
	}
}

// saveOften saves until the gate stops, and then once more.
func (g *Gate) saveOften() {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	defer g.save()
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-tick.C:
			g.save()
		}
	}
}
