package queue

import (
	"testing"

	"github.com/godwit-mta/godwit/queue/spool"
)

// TestAdvance: the place up to which rows were read is forgotten when a flush
// wrote rows before it meanwhile: else nobody would read them until a restart.
func TestAdvance(t *testing.T) {
	entries := []spool.Entry{{Key: spool.Key{Queue: 1, Due: 5}}, {Key: spool.Key{Queue: 1, Due: 7}}}
	for _, c := range []struct {
		noted int64 // due time of a row that was written while we read
		want  int64 // of the cursor; 0: none
	}{{never, 7}, {8, 7}, {7, 0}, {6, 0}} {
		s := &sched{next: c.noted, cursor: &spool.Key{Queue: 1, Due: 3}}
		new(Queue).advance(s, entries)
		var got int64
		if s.cursor != nil {
			got = s.cursor.Due
		}
		if got != c.want {
			t.Errorf("a row due at %d was written: cursor at %d, want %d", c.noted, got, c.want)
		}
	}
}
