package feed

import "fmt"

// quiet keeps the database from writing to standard error: what goes wrong comes back as an error.
type quiet struct{}

// Infof implements pebble.Logger.
func (quiet) Infof(string, ...any) {}

// Errorf implements pebble.Logger.
func (quiet) Errorf(string, ...any) {}

// Fatalf implements pebble.Logger. It must not return: the database cannot go on.
func (quiet) Fatalf(format string, args ...any) { panic("feed: " + fmt.Sprintf(format, args...)) }
