package adminapi

import "time"

// ExplainQuery asks how mail would go.
type ExplainQuery struct {
	Address string // recipient or domain
	Source  string // only this source; "" those of the pool
	Pool    string // "" as the message's tenant and stream choose
	Tenant  string
	Stream  string
}

// Value is one setting in force with the place that set it.
type Value struct {
	Name    string `json:"name" doc:"Setting, as in rule files: connections, message_rate, tls."`
	Value   string `json:"value,omitempty" doc:"What the rules say; none: a block lifted the limit; absent: nothing says."`
	Key     Scope  `json:"key,omitzero" doc:"What it counts over, for limits."`
	Origin  string `json:"origin,omitempty" doc:"Where it was set: file, line and block."`
	State   string `json:"state,omitempty" enum:"in_force,beside,overridden" doc:"in_force or absent: it holds; beside: a wider limit that holds too; overridden: another block's value holds in its place."`
	InForce string `json:"in_force,omitempty" doc:"Lower value in force now. Derived."`
	By      string `json:"by,omitempty" doc:"What lowered or overrode it: an order, the closed loop (both derived) or the place of another block."`
	Order   string `json:"order,omitempty" doc:"Id of the order that lowered it. Derived."`
}

// ValueOverridden is the State of a value that does not hold.
const ValueOverridden = "overridden"

// Path is a source on its way to a site.
type Path struct {
	Source    Source     `json:"source" doc:"The source and its health."`
	Weight    int        `json:"weight,omitempty" doc:"Its share in the pool."`
	Fallback  string     `json:"fallback,omitempty" doc:"The fallback pool that it comes from."`
	Values    []Value    `json:"values" doc:"Every setting in force, with its origin."`
	Throttles []Throttle `json:"throttles" doc:"The limited keys that its mail counts under."`
	// A source that could not connect a moment ago.
	PausedUntil  time.Time `json:"paused_until,omitzero" doc:"No connection by this source before: one failed a moment ago."`
	PausedReason string    `json:"paused_reason,omitempty" doc:"How it failed."`

	Usable bool      `json:"usable" doc:"Whether mail may go by it now. Derived."`
	Why    string    `json:"why,omitempty" doc:"Why it is not usable. Derived."`
	Until  time.Time `json:"until,omitzero" doc:"When that ends by itself, where that is known. Derived."`
}

// Explanation is how mail to an address goes.
type Explanation struct {
	Verdict     string       `json:"verdict" doc:"The answer in a sentence. Derived."`
	Stopped     bool         `json:"stopped" doc:"Whether nothing of it goes now. Derived."`
	Address     string       `json:"address" doc:"What was asked for."`
	Domain      string       `json:"domain" doc:"Its domain."`
	Site        string       `json:"site,omitempty" doc:"Site of the domain; absent when it could not be resolved."`
	QueueSite   string       `json:"queue_site,omitempty" doc:"Name of the site among queues, where that is another: with a TLS mode or a domain of its own."`
	Provider    string       `json:"provider,omitempty" doc:"Provider that the site belongs to."`
	Hosts       []string     `json:"hosts,omitempty" doc:"Mail exchangers, the preferred first."`
	RouteError  string       `json:"route_error,omitempty" doc:"Why the domain could not be resolved."`
	HeldUntil   time.Time    `json:"held_until,omitzero" doc:"No connection to the site before: its hosts could not be reached."`
	HeldReason  string       `json:"held_reason,omitempty" doc:"What happened at the last connection."`
	Tenant      string       `json:"tenant,omitempty" doc:"Tenant that was asked for, or the message's."`
	Stream      string       `json:"stream,omitempty" doc:"Stream that was asked for, or the message's."`
	Pool        string       `json:"pool" doc:"Pool that is used."`
	PoolOrigin  string       `json:"pool_origin,omitempty" doc:"What chose the pool."`
	Paths       []Path       `json:"paths" doc:"Each source of the pool, then those of its fallbacks."`
	Limits      []Value      `json:"limits,omitempty" doc:"Limits beyond sources: of the tenant."`
	Throttles   []Throttle   `json:"throttles,omitempty" doc:"The keys of those limits."`
	Orders      []Order      `json:"orders" doc:"Orders that touch it, the newest first."`
	Suspensions []Suspension `json:"suspensions" doc:"Suspensions that touch its queues, or some of them."`
	Queues      []QueueInfo  `json:"queues" doc:"Queues of the domain that the question covers, the longest first."`
	NextDue     time.Time    `json:"next_due,omitzero" doc:"When the next attempt of a waiting message is due."`
}

// The things that a ready message can wait for.
const (
	WaitConnect = "connect" // a permit for a connection
	WaitSend    = "send"    // a permit for a message, on an open connection
	WaitTurn    = "turn"    // its turn behind other messages
	WaitTenant  = "tenant"  // a permit of its tenant's limit
	WaitRoute   = "route"   // the answer of the name servers
)

// Wait is what a message that is due waits for.
type Wait struct {
	For    string    `json:"for" enum:"connect,send,turn,tenant,route" doc:"A permit to connect, a permit to send, its turn behind others, a permit of its tenant, or name servers."`
	Source string    `json:"source,omitempty" doc:"Source that it would go by."`
	Key    Scope     `json:"key,omitzero" doc:"Limited key that it waits under."`
	Next   time.Time `json:"next,omitzero" doc:"When about it goes on, where that is known."`
	Hint   string    `json:"hint,omitempty" doc:"What the authority said last."`
	Since  time.Time `json:"since,omitzero" doc:"Since when."`
	Ahead  int       `json:"ahead,omitempty" doc:"Messages before it in its queue."`
}

// MessageExplanation is why a message is where it is.
type MessageExplanation struct {
	Verdict string         `json:"verdict" doc:"The answer in a sentence. Derived."`
	Message *Message       `json:"message,omitempty" doc:"Absent when it is no longer in the queue."`
	Queue   *QueueInfo     `json:"queue,omitempty" doc:"Its scheduled queue."`
	Source  string         `json:"source,omitempty" doc:"Source by which it is being delivered, where that is known."`
	Wait    *Wait          `json:"wait,omitempty" doc:"What it waits for, when it is due."`
	Path    *Explanation   `json:"path,omitempty" doc:"How mail to its recipient goes now."`
	Events  []MessageEvent `json:"events" doc:"What happened, oldest first."`
}
