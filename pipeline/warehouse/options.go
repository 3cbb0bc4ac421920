package warehouse

import (
	"errors"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// Options of the warehouse and its consumer.
type Options struct {
	Engine  string         `toml:"engine" doc:"duckdb, or empty for no warehouse."`
	Window  units.Duration `toml:"window" doc:"How long facts are collected at most before they are stored together; few are stored sooner, within half a second. Longer windows cost less per event."`
	Yield   units.Duration `toml:"yield" doc:"How long each batch waits at most while customer or account are behind: they are to have the CPU first. 0 never waits."`
	Batch   int            `toml:"batch" doc:"Facts that are stored together at most."`
	Bytes   units.Size     `toml:"batch_bytes" doc:"Memory of the facts that are stored together, at most."`
	Memory  units.Size     `toml:"memory" doc:"Memory of the database; beyond it it uses temporary files. 0 is a quarter of what the machine has, at most 1 GiB."`
	Threads int            `toml:"threads" doc:"Threads that a query may use."`
	Queries int            `toml:"queries" doc:"Queries at once; more are refused."`

	QueryTime units.Duration `toml:"query_time" doc:"How long a query may take."`
	QueryRows int            `toml:"query_rows" doc:"Rows that SQL may return at most."`

	Columns int `toml:"columns" doc:"Properties, and dimensions, that get a column of their own, of all tenants together; others stay in JSON."`
	// Tail is both the rows of a table before it is sorted and of the known keys before they go to a file.
	Tail       int        `toml:"unsorted" doc:"Events that wait to be sorted by profile. More mean less work in all and slower questions about single profiles."`
	Checkpoint units.Size `toml:"checkpoint" doc:"How much may be in memory before it is written into the database's file; after checkpoint_every, and each time events were sorted, it is too. After a crash what was not written is read from the log again."`
	// CheckpointEvery is the other bound.
	CheckpointEvery units.Duration `toml:"checkpoint_every" doc:"How long something may be in memory only. So far back the log of facts is kept for the warehouse, and a crash reads it again."`
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	return Options{
		Engine: "duckdb", Window: units.Duration(4 * time.Second), Yield: units.Duration(10 * time.Second), Batch: 100_000, Bytes: 64 << 20, Threads: 1, Queries: 2,
		QueryTime: units.Duration(30 * time.Second), QueryRows: 100_000, Columns: 100, Tail: 1_000_000, Checkpoint: 512 << 20, CheckpointEvery: units.Duration(time.Minute),
	}
}

// Validate reports what cannot work. Its error begins with the key.
func (o Options) Validate() error {
	if o.Engine == "" {
		return nil
	}
	if o.Engine != "duckdb" {
		return fmt.Errorf("engine: %q is not known; it is duckdb or empty", o.Engine)
	}
	for _, c := range []struct {
		name        string
		value       int64
		least, most int64
	}{
		{"batch", int64(o.Batch), 1, 1 << 20}, {"batch_bytes", int64(o.Bytes), 1 << 20, 1 << 30}, {"threads", int64(o.Threads), 1, 256},
		{"queries", int64(o.Queries), 1, 100}, {"query_rows", int64(o.QueryRows), 1, 10_000_000}, {"columns", int64(o.Columns), 0, 1000},
		{"unsorted", int64(o.Tail), 1000, 100_000_000}, {"checkpoint", int64(o.Checkpoint), 1 << 20, 1 << 40},
	} {
		if c.value < c.least || c.value > c.most {
			return fmt.Errorf("%s: %d is not between %d and %d", c.name, c.value, c.least, c.most)
		}
	}
	switch {
	case o.Window.D() <= 0 || o.Window.D() > time.Hour:
		return errors.New("window: must be more than 0 and at most 1h")
	case o.Yield.D() < 0 || o.Yield.D() > time.Hour:
		return errors.New("yield: must be between 0 and 1h")
	case o.CheckpointEvery.D() < 10*time.Millisecond || o.CheckpointEvery.D() > time.Hour:
		return errors.New("checkpoint_every: must be between 10ms and 1h")
	case o.QueryTime.D() <= 0:
		return errors.New("query_time: must be more than 0")
	case o.Memory != 0 && o.Memory < 128<<20:
		return errors.New("memory: must be 0 or at least 128MiB")
	}
	return nil
}
