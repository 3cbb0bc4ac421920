package identity

import (
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/stream"
)

// Options of the stage.
type Options struct {
	Cached int `toml:"cached" doc:"Identifiers that each partition keeps in memory, about 75 bytes each. Others cost a read of the state for each event."`
}

// DefaultOptions are meant for a node with a few gigabytes.
func DefaultOptions() Options { return Options{Cached: 1 << 19} }

// Validate reports what cannot work. Its error begins with the field.
func (o Options) Validate() error {
	if o.Cached < 1 {
		return errors.New("cached: must be more than 0")
	}
	return nil
}

// Deps are what the stage works with.
type Deps struct {
	// Intake is the first log, which the stage reads and also writes claims, merges and redirects to; Facts is the second one.
	Intake, Facts stream.Topic
	Logger        *slog.Logger          // nil drops
	Registerer    prometheus.Registerer // nil registers nothing
}
