// Package quietdb keeps small Pebble databases from writing to standard error: what goes wrong comes back from calls as an error.
package quietdb

import "fmt"

// Logger is a pebble.Logger of the database with this name.
type Logger string

// Infof drops what the database tells of itself.
func (Logger) Infof(string, ...any) {}

// Errorf likewise.
func (Logger) Errorf(string, ...any) {}

// Fatalf must not return: the database is broken and cannot go on.
func (l Logger) Fatalf(format string, args ...any) {
	panic(string(l) + ": " + fmt.Sprintf(format, args...))
}
