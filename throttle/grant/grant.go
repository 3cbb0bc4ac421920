// Package grant is the link between a node and a throttle authority: a
// connection over which the node tells what it could use and the authority
// pushes permits when their time has come. docs/formats/grant-link.md has the
// bytes.
//
// Both sides send a Beat each BeatEvery and in front of all else they write. It
// holds the sender's clock and the newest clock of the other side that it has seen. A
// side counts the other as in contact only while the other's echo of its own clock
// is younger than Lease; then it closes the connection at once. That is a
// lease over a whole round trip: silence, a loss in one direction, a slow
// network and a paused process all look the same, and none leaves one side
// sure of what the other has given up. For a node that has closed its
// link at some instant, the authority counts it out at most Lease later.
//
// Permits are for an instant of the authority's clock. The client estimates how far
// that clock is from its own (see offset), so that a permit which sat in a
// buffer on the way is seen to be old.
//
// The order at the start of a contact:
//
//  1. The client sends Hello, and the server answers with its clock.
//  2. The server attaches the client to the authority at the first Beat that echoes
//     the answer: before that, the Hello may be of a process that is gone.
//  3. The client calls Events.Contact, in which its owner ends what it did on its own,
//     tells of its connections (Hold) and of its wants. Then it sends Ready.
//  4. At Ready the server reports the contact (OnContact). Only now may the
//     authority use what it kept in reserve for a node that is out of reach.
//
// A process that ends must end its contacts before it closes its listener:
// a client takes "connection refused" for the death of the authority.
package grant

import (
	"errors"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// The times of the link. All processes of a cluster must agree on Lease.
const (
	BeatEvery   = 150 * time.Millisecond // between heartbeats
	Lease       = 600 * time.Millisecond // age of an echo at which contact is lost
	Redial      = 250 * time.Millisecond // between the starts of two attempts to connect
	DialTimeout = time.Second            // of one attempt

	misfitRedial = 5 * time.Second
)

// Bounds of memory for one contact.
const (
	maxKeys    = 1 << 18         // keys with a number at a time
	maxHeld    = 1 << 16         // leases of one key in Hold
	maxBacklog = 16 << 20        // bytes that wait to be written
	keyIdle    = 5 * time.Minute // a client gives up the number of a key unused for so long
)

// Errors that end a contact.
var (
	ErrLost     = errors.New("grant: no echo from the other side")
	ErrReplaced = errors.New("grant: replaced by a newer contact of the same node")
	ErrBacklog  = errors.New("grant: too much waits to be written")
	ErrRefused  = errors.New("grant: refused by the authority") // with the authority's reason
	ErrToken    = errors.New("grant: wrong token")
	ErrVersion  = errors.New("grant: no common version of the protocol")
	ErrName     = errors.New("grant: another authority than expected")
	ErrMagic    = errors.New("grant: not a grant link")
)

// Events is what a client's owner learns. The methods are called from one
// goroutine, in order; while one runs, nothing else is read. They may call the
// Link's methods.
type Events interface {
	// Contact tells that there is contact or none, when that changes. dead: the
	// connection was refused, so the authority's process is gone. In
	// Contact(true) the owner ends what it did on its own share of a limit, then tells
	// of its connections and wants; the authority forgot earlier wants, and takes
	// connections that are not told for ended.
	Contact(up, dead bool)
	// Granted tells of permits. born is their instant on our clock.
	Granted(g throttle.Grant, born time.Time)
	Hinted(h throttle.Hint)
	Changed(c throttle.Change)
	// Refused tells that the authority is not the owner of the key.
	Refused(k throttle.Key)
}

// Link is what an owner can tell an authority, over the wire (Client) or in
// process (Local). Nothing of it blocks. Without contact it does nothing.
type Link interface {
	Want(w throttle.Want)
	Opened(k throttle.Key, lease uint64)
	Done(k throttle.Key, lease uint64, clean bool)
	Charge(k throttle.Key, n int)
	Unused(k throttle.Key, kind throttle.Kind, n int)
	Observe(k throttle.Key, s throttle.Sample)
	Hold(k throttle.Key, leases []uint64, l throttle.Limits)
}

var (
	_ Link = (*Client)(nil)
	_ Link = (*Local)(nil)
)
