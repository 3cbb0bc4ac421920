// Package throttle decides how fast mail may go: it holds the nouns of limits, the
// Authority that owns them, and the Keeper that runs one in a process. It does no I/O.
//
// A limit counts over a Key: a source at a provider, a pool at a provider, a
// tenant. Exactly one authority in the cluster owns a key and grants permits
// for it, each one connection or one message. A node says how many it
// could use (Want) and the authority sends a Grant when the time has come.
// A message permit is worth something for some milliseconds only: what
// is not used lapses, so no late burst can exceed the limit.
//
// Who owns a key: the Godwit proxy that owns the source; for sources without
// one, and for keys that span sources, one of the configured nodes.
package throttle

import (
	"errors"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
)

// Key names what a limit counts over. Empty fields do not restrict.
type Key struct {
	Source   string
	Pool     string
	Tenant   string
	Provider string
	Site     string
	Domain   string
}

// keyFields are the names and order of the text form.
var keyFields = [...]string{"source", "pool", "tenant", "provider", "site", "domain"}

func (k *Key) fields() [len(keyFields)]*string {
	return [...]*string{&k.Source, &k.Pool, &k.Tenant, &k.Provider, &k.Site, &k.Domain}
}

// String is the text form: source=s1 provider=google.
func (k Key) String() string {
	var b strings.Builder
	for i, f := range k.fields() {
		if *f == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(keyFields[i])
		b.WriteByte('=')
		b.WriteString(*f)
	}
	return b.String()
}

// ErrBadKey is returned by ParseKey.
var ErrBadKey = errors.New("throttle: not a key (want such as source=s1 provider=google)")

// ParseKey is the inverse of String.
func ParseKey(s string) (Key, error) {
	var k Key
	fields := k.fields()
	for part := range strings.FieldsSeq(s) {
		name, value, ok := strings.Cut(part, "=")
		known := false
		for i, n := range keyFields {
			if ok && n == name && value != "" && *fields[i] == "" {
				*fields[i], known = value, true
			}
		}
		if !known {
			return Key{}, ErrBadKey
		}
	}
	return k, nil
}

// Limits bound a key. A zero field is no limit.
type Limits struct {
	Connections int        `json:"connections,omitempty"` // open at a time
	ConnectRate units.Rate `json:"connect_rate,omitzero"` // new connections
	MessageRate units.Rate `json:"message_rate,omitzero"` // messages; each recipient's copy is one
	Daily       int64      `json:"daily,omitempty"`       // messages in a day of UTC, for warm-up
	Loop        Loop       `json:"loop,omitzero"`         // the closed loop below MessageRate
}

// Loop bounds the closed loop: the message rate falls to Decrease times itself
// when more than High of the messages in Window were deferred, and rises by Increase
// of the full rate when fewer than Low were, between Floor and the full rate.
// The zero Loop is off.
type Loop struct {
	High     float64       `json:"high"`     // share of deferred messages, 0 to 1
	Low      float64       `json:"low"`      // share
	Decrease float64       `json:"decrease"` // factor, 0 to 1
	Increase float64       `json:"increase"` // share of the full rate
	Floor    float64       `json:"floor"`    // share of the full rate
	Window   time.Duration `json:"window"`
	Least    int           `json:"least"` // messages in a window that are enough to judge by
}

// Bound is one limit that applies to a connection.
type Bound struct {
	Key    Key
	Limits Limits
	// Proxy is the Godwit proxy whose authority the key is; "" means the owner among the nodes.
	Proxy string
}

// Kind is what a permit is for.
type Kind uint8

// The kinds of permits.
const (
	Connect Kind = iota + 1 // one connection
	Send                    // one message
)

// String returns connect or send.
func (k Kind) String() string {
	if k == Connect {
		return "connect"
	}
	return "send"
}

// Want says how many permits a client could use at once. It replaces the
// client's earlier one of the same key and kind, so it may be said again at any time.
//
// Each permit granted takes one from it: 5 wanted and 2 granted leave 3. A client that could use
// 5 again says 5 again. One that does so before it saw a grant that was under
// way may get more than it wanted; those lapse or are given back.
type Want struct {
	Key  Key
	Kind Kind
	// Limits are those of the key as the client knows them. The strictest of all clients in contact hold,
	// of each until a minute after it last wanted, had or observed something.
	Limits   Limits
	N        int           // 0 withdraws
	Priority mail.Priority // of the most urgent message that waits
	Flows    int           // number of (tenant, stream) that wait: the weight against other clients
}

// Grant is N permits for one client.
type Grant struct {
	Key  Key
	Kind Kind
	N    int
	// Lease is the id of the first of N leases, for Connect; the others follow.
	Lease uint64
	// At is the instant of the permits on the authority's clock, the time since it
	// started. A Send permit is worthless soon after; see Options.Fresh of the client.
	At time.Duration
}

// Hint tells a client that waits what to expect. It is for information: a client that
// waits gets its Grant without asking again, which may also come before what the hint said.
// A Hint of Connect also goes to clients that hold connections, when Contended changes; then it has no Reason.
type Hint struct {
	Key       Key
	Kind      Kind
	After     time.Duration // at the earliest; 0: not known
	Reason    string        // such as "message rate 10/min", "daily limit 500 reached"
	Contended bool          // with Connect: other clients wait for connections, give back what idles
}

// Sample is what became of messages under a key.
type Sample struct {
	Delivered int // and bounced: the provider took a decision
	Deferred  int // by a reply of the provider
}

// Change tells that the closed loop set another rate. All clients that have to do with
// the key get the same one. A client that comes to a key that was slowed earlier gets one without Reason.
type Change struct {
	Key    Key
	Factor float64 // share of the full message rate now in force
	Reason string
	Seq    uint64 // grows with each change of the key
}
