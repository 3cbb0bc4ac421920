package egress

import (
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle/backoff"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// Throttle is what a configuration file can set about limits.
type Throttle struct {
	Packs     []string        `toml:"packs" doc:"Shipped provider packs to use, by name; all stands for every one."`
	Files     []string        `toml:"files" doc:"Rule files of your own, in TOML (docs/formats/rules.md); a later one overrides an earlier one and the packs, value by value."`
	CutOffFor units.Duration  `toml:"cut_off_for" doc:"How long a node that cannot reach the owner of a limit goes on with its share of it, the limit divided by the number of nodes. The same on all nodes."`
	Backoff   backoff.Options `toml:"backoff" doc:"Bounds of what automation rules remember."`
}

// DefaultThrottle returns the defaults: every pack.
func DefaultThrottle() Throttle {
	return Throttle{Packs: rules.DefaultOptions().Packs, CutOffFor: units.Duration(5 * time.Minute), Backoff: backoff.DefaultOptions()}
}

// Rules are the options of the rules alone.
func (t Throttle) Rules() rules.Options { return rules.Options{Packs: t.Packs, Files: t.Files} }

// Validate loads packs and files, and names the first key that cannot be used.
func (t Throttle) Validate() error {
	if t.CutOffFor < 0 {
		return fmt.Errorf("cut_off_for: must not be negative")
	}
	if err := t.Backoff.Validate(); err != nil {
		return fmt.Errorf("backoff.%w", err)
	}
	return t.Rules().Validate()
}
