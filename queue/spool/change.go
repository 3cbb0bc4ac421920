package spool

import (
	"github.com/godwit-mta/godwit/internal/mail"
)

// ChangeKind says what a change does to a message's place in the queue.
type ChangeKind uint8

const (
	// ChangeInjected: the injected events of the batch whose first message is ID are in the log.
	ChangeInjected ChangeKind = iota + 1
	// ChangeEnded: the message is delivered, bounced or expired.
	ChangeEnded
	// ChangeDeferred: the message has a new due time.
	ChangeDeferred
)

// Change is one state change of a message, written in the same durable record
// as the event that tells of it. Recovery replays changes over the index.
type Change struct {
	Kind     ChangeKind
	ID       mail.ID
	Queue    uint32 // where the row would be in the index, if it is there
	Due      int64
	NewDue   int64 // for ChangeDeferred
	Attempts int
	Reply    string
}

// Key is the index key the row had before the change.
func (c *Change) Key() Key { return Key{c.Queue, c.Due, c.ID} }

// AppendChange adds c to the opaque changes of an event record.
func AppendChange(b []byte, c *Change) []byte {
	e := encoder{b: append(b, byte(c.Kind))}
	e.id(c.ID)
	if c.Kind == ChangeInjected {
		return e.b
	}
	e.uint(uint64(c.Queue))
	e.uint(uint64(c.Due))
	if c.Kind == ChangeDeferred {
		e.uint(uint64(c.NewDue))
		e.uint(uint64(c.Attempts))
		e.string(c.Reply[:min(len(c.Reply), maxIndexedReply)])
	}
	return e.b
}

// parseChanges calls f for each change in b.
func parseChanges(b []byte, f func(*Change)) error {
	d := decoder{b: b}
	for len(d.b) > 0 && d.err == nil {
		c := Change{Kind: ChangeKind(d.take(1)[0]), ID: d.id()}
		if c.Kind != ChangeInjected {
			c.Queue = uint32(d.uint())
			c.Due = int64(d.uint())
		}
		if c.Kind == ChangeDeferred {
			c.NewDue = int64(d.uint())
			c.Attempts = int(d.uint())
			c.Reply = d.string()
		}
		if d.err == nil {
			f(&c)
		}
	}
	return d.err
}

// DueOf is the first due time of a message in Unix milliseconds.
func DueOf(m *mail.Message) int64 {
	if !m.NextAttempt.IsZero() {
		return m.NextAttempt.UnixMilli()
	}
	if m.NotBefore.After(m.Accepted) {
		return m.NotBefore.UnixMilli()
	}
	return m.Accepted.UnixMilli()
}
