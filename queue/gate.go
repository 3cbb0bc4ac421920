package queue

import (
	"context"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Gate lets ready queues connect and send: it knows the sending sources, what
// limits them, and what is suspended. The queue says what it could use and is
// told when; it never asks again in between.
type Gate interface {
	// Seek tells how many more connections a ready queue could use. The latest
	// call counts. It returns the leases that can be had at once; for the
	// others Take is called when limits allow. Seek is called under the
	// queue's lock: it must not block, nor call Take before it returns.
	Seek(d Demand) []Lease
	// Limited reports whether a tenant's or stream's mail to a site has a limit, or a stop, of its own.
	Limited(f Flow) bool
	// Admit takes a permit of such a limit for one message. If there is none
	// now, it is false and ready is called, once, when there may be; until then no other message
	// of the flow is asked for by the same ready queue. Both are called under the queue's lock: ready must be called
	// without it, later.
	Admit(f Flow, ready func()) bool
}

// Flow is a tenant's stream at a site.
type Flow struct{ Tenant, Stream, Provider, Site string }

// Demand is what a ready queue could use.
type Demand struct {
	Key      string // of the ready queue
	Pool     string
	Site     string
	Provider string
	N        int           // connections; 0 withdraws
	Priority mail.Priority // of the most urgent message
	Flow     string        // of the message that goes next
	Flows    int           // number of (tenant, stream) with something ready
	Take     func(Lease)
}

// Asker is on whose behalf a message permit is waited for.
type Asker struct {
	Priority mail.Priority
	Flow     string
	Flows    int
}

// Lease is the permission for one connection from one source.
type Lease interface {
	// Route adds to a route what is the source's.
	Route(r mail.Route) mail.Route
	// Paced reports whether messages need a permit each.
	Paced() bool
	// Slot waits for the permit of one message.
	Slot(ctx context.Context, a Asker) (mail.Pass, error)
	// Drop gives back a permit that was not used. After Use it does nothing.
	Drop(p mail.Pass)
	// Contended reports whether others wait for a connection like this one: an idle one should end.
	Contended() bool
	// Revoked is closed when the connection must end after its transaction.
	Revoked() <-chan struct{}
	// Judge hears the outcomes before they are recorded, and may change them as rules say.
	Judge(msgs []*mail.Message, outcomes []mail.Outcome)
	// Failed hears that no session came about and why. It reports whether another source may be tried at once.
	Failed(err error) (another bool)
	// Close gives the lease back; clean as Session.Close reports.
	Close(clean bool)
}

// open is the gate without any limit.
type open struct{}

func (open) Seek(d Demand) []Lease {
	leases := make([]Lease, d.N)
	for i := range leases {
		leases[i] = openLease{}
	}
	return leases
}

func (open) Limited(Flow) bool       { return false }
func (open) Admit(Flow, func()) bool { return true }

type openLease struct{}

func (openLease) Route(r mail.Route) mail.Route                  { return r }
func (openLease) Paced() bool                                    { return false }
func (openLease) Slot(context.Context, Asker) (mail.Pass, error) { return nil, nil }
func (openLease) Drop(mail.Pass)                                 {}
func (openLease) Contended() bool                                { return false }
func (openLease) Revoked() <-chan struct{}                       { return nil }
func (openLease) Judge([]*mail.Message, []mail.Outcome)          {}
func (openLease) Failed(error) bool                              { return false }
func (openLease) Close(bool)                                     {}
