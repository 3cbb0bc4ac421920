// Package rules holds what is known of providers as data: limits, TLS and
// automation rules that read replies, from the packs shipped with the program
// and from files of the user.
//
// Load reads packs and then files, each overriding what came before: blocks by
// name and in them value by value, automation rules by name. What comes out is a Set,
// which never changes: a reload loads another one.
//
// Resolve answers which limits hold for mail of a source to a domain. For each
// value the last of these that sets it counts:
//
//	default → provider → provider+source → each site of the provider →
//	site → domain → site+source → domain+source
//
// A value of [default] or of a site counts over (source, site), one of a provider over
// (source, provider), one of a domain over (source, domain). What a provider's block
// limits keeps holding beside a narrower value: it is what the provider takes from the source in all.
// A domain with a limit of its own takes the default's others along to its own key; see Resolve.
// Limits of pools and tenants span sources; they hold beside all those.
//
// Match answers which automation rules claim a reply.
//
// The file format is described in docs/formats/rules.md.
package rules

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle"
)

// Version is the version of the file format.
const Version = 1

// Provider is a named group of sites. A site belongs to the provider when each
// of its MX hosts is one of Hosts or ends in one of MXSuffix.
type Provider struct {
	Name     string
	MXSuffix []string // in lower case with their leading dot; ".google.com" covers google.com too
	Hosts    []string // whole names in lower case
}

// Covers reports whether all of hosts (in lower case, without trailing dot) are the provider's.
func (p Provider) Covers(hosts []string) bool {
	for _, h := range hosts {
		if !p.has(h) {
			return false
		}
	}
	return len(hosts) > 0
}

func (p Provider) has(host string) bool {
	for _, s := range p.MXSuffix {
		if under(host, s) {
			return true
		}
	}
	for _, h := range p.Hosts {
		if h == host {
			return true
		}
	}
	return false
}

// under reports whether host ends in suffix, or is suffix without its dot.
func under(host, suffix string) bool {
	return strings.HasSuffix(host, suffix) || host == suffix[1:]
}

// Query says whose limits are asked for. Empty fields are not known: no block that names one applies.
type Query struct {
	Source   string
	Pool     string
	Tenant   string
	Provider string
	Site     string // as route names it: the MX hosts, joined by commas
	Domain   string
	// Hosts are the names of the site's MX hosts. They need to be given only where
	// Site is too long to name them; nil takes them from Site.
	Hosts []string
}

// Effective is what holds for one query.
type Effective struct {
	// The values that were found most specific; zero is no limit.
	Connections           int
	ConnectRate           units.Rate
	MessageRate           units.Rate
	Daily                 int64
	MessagesPerConnection int
	// TLS is opportunistic, required, verify or none; "" when no block says: the route's holds.
	TLS string
	// Values is a row per limit in force, with where it comes from.
	Values []Value
	// Bounds are the limits of the source and the pool. Their Proxy is empty.
	Bounds []throttle.Bound
	// Tenant are the limits of the tenant: they count messages only.
	Tenant []throttle.Bound
	// aside is the limits of the site, when the domain does not share them.
	aside *throttle.Bound
}

// Value is one row of what is in force.
type Value struct {
	Name  string       // as in the file: connections, message_rate, ...
	Value string       // as in the file; "none" where a block lifted the limit
	Key   throttle.Key // what it counts over; zero for what does not count
	// Origin is the place that set it.
	Origin Origin
}

// Cells are the columns of a table: name, value, what it counts over, origin.
func (v Value) Cells() []string {
	return []string{v.Name, v.Value, v.Key.String(), v.Origin.String()}
}

// String is the table of values, for logs and tests.
func (e Effective) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, v := range e.Values {
		fmt.Fprintln(w, strings.Join(v.Cells(), "\t"))
	}
	_ = w.Flush() // a strings.Builder takes everything
	return b.String()
}

// Origin is where a value was set.
type Origin struct {
	File    string // as it was named; of a pack its file name
	Line    int
	Block   string // such as "provider google", "order 5f0c..."
	Builtin bool   // shipped with the program
}

// String prints "builtin google.toml:12 (provider google)".
func (o Origin) String() string {
	s := o.at()
	switch {
	case s == "":
		return o.Block
	case o.Block == "":
		return s
	}
	return s + " (" + o.Block + ")"
}

// at is the place without the block.
func (o Origin) at() string {
	s := o.File
	if o.Line > 0 {
		s += ":" + strconv.Itoa(o.Line)
	}
	if o.Builtin {
		s = "builtin " + s
	}
	return s
}

// Action is what an automation rule does.
type Action string

// The actions.
const (
	// Suspend sends nothing from the source to the provider.
	Suspend Action = "suspend"
	// Slow lowers limits of the source at the provider.
	Slow Action = "slow"
	// OneConnection is Slow to one connection.
	OneConnection Action = "one_connection"
	// SuspendTenant sends nothing of the tenant to the provider.
	SuspendTenant Action = "suspend_tenant"
	// SuspendStream sends nothing of the tenant's stream to the provider.
	SuspendStream Action = "suspend_stream"
	// Bounce takes the reply for a permanent one.
	Bounce Action = "bounce"
)

var actions = [...]Action{Suspend, Slow, OneConnection, SuspendTenant, SuspendStream, Bounce}

// Rule is an automation rule: what to do when replies match.
type Rule struct {
	Provider string // the block it stands in; "" is the default
	Name     string
	Match    string // regular expression over "421 4.7.28 text"; case does not matter
	Action   Action
	// Limits and MessagesPerConnection are what Slow and OneConnection lower to.
	Limits                throttle.Limits
	MessagesPerConnection int
	// Threshold matches within Window trigger the action.
	Threshold int
	Window    time.Duration
	For       time.Duration // how long the action holds; zero for Bounce
	// PerSite confines the action to the site that replied; else it holds for the
	// provider, and for the site where there is no provider.
	PerSite bool
	Origin  Origin
}

// ID names the rule among all: "google/unusual-rate".
func (r *Rule) ID() string {
	if r.Provider == "" {
		return "default/" + r.Name
	}
	return r.Provider + "/" + r.Name
}
