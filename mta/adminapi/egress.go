package adminapi

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Explainer gathers the facts of how mail goes. The server derives the
// sentences from them: Explanation.Verdict and what else is marked derived may stay empty.
type Explainer interface {
	// Explain tells how mail to q.Address would go now. An address, pool or
	// source that cannot be is an error that wraps ErrBadQuery.
	Explain(ctx context.Context, q ExplainQuery) (Explanation, error)
	// ExplainMessage tells about one, with the Path of its recipient, tenant and stream while it is in the queue; mail.ErrNotFound when neither queue nor event log knows it.
	ExplainMessage(ctx context.Context, id mail.ID) (MessageExplanation, error)
}

// ErrBadQuery is wrapped by what Explain returns for a question that has no answer.
var ErrBadQuery = errors.New("cannot be explained")

// Egress shows what mail goes out by and how fast.
type Egress interface {
	Pools(ctx context.Context) (PoolsResponse, error)
	// Throttles lists the keys under which this node sends or that it owns. Every field that s sets must be equal.
	Throttles(ctx context.Context, s Scope) ([]Throttle, error)
}

// Orders are suspensions and slowdowns of sending, set by rules and by hand,
// the same in the whole cluster. What is set or lifted is durable on return.
type Orders interface {
	Orders(ctx context.Context) ([]Order, error)
	// Set makes an order of action suspend, slow or one_connection; one that cannot be is an error that wraps ErrBadOrder.
	Set(ctx context.Context, r OrderRequest, by string) (Order, error)
	// Lift ends one; mail.ErrNotFound when there is none of that id.
	Lift(ctx context.Context, id, by string) error
}

// ErrBadOrder is wrapped by what Set returns for an order that cannot be, such as one about a pool.
var ErrBadOrder = errors.New("there is no such order")

// Scope names what a limit or an order is about. Empty fields do not restrict.
type Scope struct {
	Source   string `json:"source,omitempty" doc:"Sending source."`
	Pool     string `json:"pool,omitempty" doc:"Pool of sources."`
	Tenant   string `json:"tenant,omitempty" doc:"Tenant."`
	Stream   string `json:"stream,omitempty" doc:"Stream of the tenant."`
	Provider string `json:"provider,omitempty" doc:"Provider, as the rules name it."`
	Site     string `json:"site,omitempty" doc:"Site: domains with the same mail exchangers."`
	Domain   string `json:"domain,omitempty" doc:"Recipient's domain."`
}

// fields lists names and values in the order of the text form.
func (s Scope) fields() [7][2]string {
	return [...][2]string{{"source", s.Source}, {"pool", s.Pool}, {"tenant", s.Tenant}, {"stream", s.Stream},
		{"provider", s.Provider}, {"site", s.Site}, {"domain", s.Domain}}
}

// String is the text form, as metrics and logs have it: source=s1 provider=google.
func (s Scope) String() string {
	var parts []string
	for _, f := range s.fields() {
		if f[1] != "" {
			parts = append(parts, f[0]+"="+f[1])
		}
	}
	return strings.Join(parts, " ")
}

// Within reports whether what is in scope s is also in the wider one: every field that wider sets is equal.
func (s Scope) Within(wider Scope) bool {
	mine := s.fields()
	for i, f := range wider.fields() {
		if f[1] != "" && f[1] != mine[i][1] {
			return false
		}
	}
	return true
}

// The actions of an order.
const (
	ActionSuspend       = "suspend"        // nothing is sent
	ActionSlow          = "slow"           // at most the order's rate and connections
	ActionOneConnection = "one_connection" // a single connection
	ActionSuspendTenant = "suspend_tenant" // nothing of the tenant
	ActionSuspendStream = "suspend_stream" // nothing of the stream
)

// Order is a suspension or slowdown in force.
type Order struct {
	ID          string    `json:"id" doc:"What to lift it by."`
	Scope       Scope     `json:"scope" doc:"What it is about."`
	Action      string    `json:"action" enum:"suspend,slow,one_connection,suspend_tenant,suspend_stream" doc:"What it does."`
	Connections int       `json:"connections,omitempty" doc:"Most connections under slow."`
	MessageRate string    `json:"message_rate,omitempty" doc:"Highest message rate under slow, such as 10/min."`
	Created     time.Time `json:"created" doc:"Since when."`
	Until       time.Time `json:"until,omitzero" doc:"When it ends by itself; absent: never."`
	Rule        string    `json:"rule,omitempty" doc:"Name of the rule that set it; absent: by hand."`
	Reason      string    `json:"reason,omitempty" doc:"Why: the reply that the rule matched, or what the operator wrote."`
	Node        string    `json:"node,omitempty" doc:"Node that it was set on."`
	By          string    `json:"by,omitempty" doc:"Who set it by hand."`
}

// Stops reports whether nothing goes while the order is in force.
func (o *Order) Stops() bool { return o.Action != ActionSlow && o.Action != ActionOneConnection }

// Throttle is a limited key with what goes on under it.
type Throttle struct {
	Key            Scope     `json:"key" doc:"What is counted over."`
	MaxConnections int       `json:"max_connections,omitempty" doc:"Most connections in force."`
	ConnectRate    string    `json:"connect_rate,omitempty" doc:"Rate of new connections in force."`
	MessageRate    string    `json:"message_rate,omitempty" doc:"Message rate in force before the closed loop's factor."`
	Factor         float64   `json:"factor,omitempty" doc:"Share of the message rate that the closed loop allows now; absent: all of it."`
	FactorReason   string    `json:"factor_reason,omitempty" doc:"Why the closed loop slowed."`
	Daily          int64     `json:"daily,omitempty" doc:"Most messages a day of UTC (warm-up)."`
	Today          int64     `json:"today,omitempty" doc:"Messages of this day of UTC."`
	Connections    int       `json:"connections" doc:"Open connections."`
	Rate           float64   `json:"rate,omitempty" doc:"Messages a second over the last minute or so, where it is known."`
	WaitConnect    int       `json:"wait_connect,omitempty" doc:"Connections that are waited for."`
	WaitSend       int       `json:"wait_send,omitempty" doc:"Messages that wait for a slot."`
	Next           time.Time `json:"next,omitzero" doc:"When about the next slot comes, where that is known."`
	Hint           string    `json:"hint,omitempty" doc:"What the authority said last about the wait."`
	Authority      string    `json:"authority,omitempty" doc:"Who grants permits: a proxy or a node."`
	Mode           string    `json:"mode" enum:"owner,remote,share,down" doc:"owner: this node grants; remote: the authority does; share: it cannot be reached and this node uses its share; down: it cannot be reached and nothing is sent."`
	Counted        string    `json:"counted" enum:"everywhere,here" doc:"Whether connections, waits and rate are of all nodes or of this one alone."`
}

// The modes of a throttle.
const (
	ModeOwner  = "owner"
	ModeRemote = "remote"
	ModeShare  = "share"
	ModeDown   = "down"
)

// Source is a sending address with its health as this node sees it.
type Source struct {
	Name        string       `json:"name" doc:"Name; empty is the host's own address, when no source is configured."`
	Bind        string       `json:"bind,omitempty" doc:"IPv4 address that is bound."`
	Bind6       string       `json:"bind6,omitempty" doc:"IPv6 address that is bound."`
	Public      string       `json:"public,omitempty" doc:"Address that providers see, where it is another."`
	EHLO        string       `json:"ehlo,omitempty" doc:"Name in EHLO."`
	Proxy       string       `json:"proxy,omitempty" doc:"Proxy that it goes through; absent: from this host."`
	Zone        string       `json:"zone,omitempty" doc:"Zone."`
	State       string       `json:"state" enum:"up,down,draining" doc:"Whether mail can go by it."`
	Since       time.Time    `json:"since,omitzero" doc:"Since when it is in that state, where that is known."`
	Reason      string       `json:"reason,omitempty" doc:"Why it is not up."`
	Connections int          `json:"connections" doc:"Connections of this node by it."`
	Warmup      string       `json:"warmup,omitempty" doc:"Warm-up schedule that it follows."`
	Daily       []DailyLimit `json:"daily,omitempty" doc:"Today's warm-up limits."`
}

// The states of sources and proxies.
const (
	StateUp       = "up"
	StateDown     = "down"
	StateDraining = "draining"
)

// DailyLimit is a warm-up limit of this day of UTC.
type DailyLimit struct {
	Provider string `json:"provider,omitempty" doc:"Provider; absent: each other site."`
	Limit    int64  `json:"limit" doc:"Most messages today."`
	Sent     int64  `json:"sent" doc:"Messages so far, as far as this node knows."`
}

// PoolMember is a source's part in a pool.
type PoolMember struct {
	Source string `json:"source" doc:"Name of the source."`
	Weight int    `json:"weight" doc:"Its share against the others."`
	Sent   int64  `json:"sent,omitempty" doc:"Messages that this node sent by it for the pool since its start."`
}

// Pool is a weighted set of sources.
type Pool struct {
	Name     string       `json:"name" doc:"Name."`
	Members  []PoolMember `json:"members" doc:"Its sources."`
	Fallback string       `json:"fallback,omitempty" doc:"Pool that is used when no source of this one can be."`
	Default  bool         `json:"default,omitempty" doc:"Whether messages without a choice take it."`
}

// Proxy is a proxy as this node sees it.
type Proxy struct {
	Name        string    `json:"name" doc:"Name."`
	Kind        string    `json:"kind" enum:"godwit,haproxy,socks5,direct" doc:"What it speaks."`
	Address     string    `json:"address,omitempty" doc:"Its address."`
	Zone        string    `json:"zone,omitempty" doc:"Zone."`
	State       string    `json:"state" enum:"up,down,draining" doc:"Whether connections go through it."`
	Since       time.Time `json:"since,omitzero" doc:"Since when, where that is known."`
	Reason      string    `json:"reason,omitempty" doc:"Why it is not up."`
	Connections int       `json:"connections" doc:"Connections of this node through it."`
}

// PoolsResponse is everything that mail goes out by.
type PoolsResponse struct {
	Pools   []Pool   `json:"pools" doc:"By name."`
	Sources []Source `json:"sources" doc:"By name."`
	Proxies []Proxy  `json:"proxies" doc:"By name."`
}

// ThrottlesResponse lists limited keys.
type ThrottlesResponse struct {
	Throttles []Throttle `json:"throttles" doc:"Those that are waited for first, the most waits before the others."`
	Total     int        `json:"total" doc:"How many there are, listed or not."`
}

// OrdersResponse lists orders.
type OrdersResponse struct {
	Orders []Order `json:"orders" doc:"The newest first."`
}

// OrderRequest suspends or slows by hand.
type OrderRequest struct {
	Scope       Scope      `json:"scope" doc:"What to stop or slow; exact names, at least one."`
	Action      string     `json:"action" enum:"suspend,slow,one_connection" doc:"What to do."`
	Connections int        `json:"connections,omitempty" doc:"Most connections, for slow."`
	MessageRate string     `json:"message_rate,omitempty" doc:"Highest message rate, for slow, such as 10/min."`
	Until       *time.Time `json:"until,omitempty" doc:"When it ends by itself; absent: never."`
	Reason      string     `json:"reason,omitempty" doc:"Why, on one line."`
}
