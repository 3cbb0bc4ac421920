package throttle

import (
	"errors"
	"fmt"
	"time"
)

// Options are the constants of an Authority. They decide how exact limits are,
// so they are no settings of an operator: all processes of a cluster must agree on them.
type Options struct {
	// Pace is the share of a rate that is granted. The rest pays for permits
	// that are used some milliseconds after their instant.
	Pace float64
	// CatchUp bounds the age of an instant that a late Tick may still grant. What is older is lost.
	CatchUp time.Duration
	// Expiry is how long an authority grants nothing after its start and after Pause:
	// until then all that another authority granted has lapsed.
	Expiry time.Duration
	// ConnectLapse is how long after its instant a client may use a lease.
	ConnectLapse time.Duration
	// Linger is how long a connection counts on that ended without a proper close:
	// the provider may not know yet that it ended.
	Linger time.Duration
	// Claims says that connections pass through this process, which tells of them by Claim
	// and Release; what clients say of connections then counts for nothing. It is set in a proxy.
	Claims bool
	// Stall is the time without a turn of its goroutine after which a Keeper takes itself for
	// one that others may have replaced, and pauses. 0: never.
	Stall time.Duration
	// FirstLease is the id of the first lease; 0: a random one, so that leases of
	// different authorities do not meet.
	FirstLease uint64
	// Wall tells the time of day, for daily limits. Nil: time.Now.
	Wall func() time.Time
}

// DefaultOptions are the constants that all parts of a cluster use.
func DefaultOptions() Options {
	return Options{
		Pace:         0.98,
		CatchUp:      15 * time.Millisecond,
		Expiry:       time.Second,
		ConnectLapse: 2 * time.Second,
		Linger:       2 * time.Second,
		Stall:        500 * time.Millisecond,
	}
}

// Validate reports what cannot work. Its error begins with the field.
func (o Options) Validate() error {
	if o.Pace <= 0 || o.Pace > 1 {
		return fmt.Errorf("pace: %v is not in (0, 1]", o.Pace)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"catch_up", o.CatchUp}, {"expiry", o.Expiry}, {"linger", o.Linger}, {"stall", o.Stall}} {
		if d.value < 0 {
			return fmt.Errorf("%s: %v is negative", d.name, d.value)
		}
	}
	if o.ConnectLapse <= 0 {
		return errors.New("connect_lapse: must be more than 0")
	}
	return nil
}
