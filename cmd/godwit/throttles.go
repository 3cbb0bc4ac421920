package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

type throttlesCmd struct {
	List    throttlesListCmd    `cmd:"" default:"withargs" help:"List limits in force with what is open and what waits, and what is suspended or slowed." group:"Look"`
	Suspend throttlesSuspendCmd `cmd:"" help:"Stop sending from a source, to a provider, of a tenant, in the whole cluster." group:"Act"`
	Slow    throttlesSlowCmd    `cmd:"" help:"Slow sending down, in the whole cluster." group:"Act"`
	Lift    throttlesLiftCmd    `cmd:"" help:"End what a rule or an operator suspended or slowed." group:"Act"`
}

// scopeFlags name what a limit or an order is about.
type scopeFlags struct {
	Source   string `placeholder:"NAME" help:"This source." group:"Scope"`
	Pool     string `placeholder:"NAME" help:"This pool." group:"Scope"`
	Tenant   string `placeholder:"NAME" help:"This tenant." group:"Scope"`
	Provider string `placeholder:"NAME" help:"This provider." group:"Scope"`
	Site     string `placeholder:"NAME" help:"This site." group:"Scope"`
	Domain   string `placeholder:"NAME" help:"This recipient domain." group:"Scope"`
}

func (f *scopeFlags) scope() adminapi.Scope {
	return adminapi.Scope{Source: f.Source, Pool: f.Pool, Tenant: f.Tenant, Provider: f.Provider, Site: f.Site, Domain: strings.ToLower(f.Domain)}
}

type throttlesListCmd struct {
	adminFlags
	scopeFlags
	Limit int `default:"100" help:"How many limits to list, at most 1000."`
}

// Help teaches by example.
func (throttlesListCmd) Help() string {
	return `Examples:
  godwit throttles
  godwit throttles list --provider google --json`
}

// throttlesOutput is the JSON form of throttles list.
type throttlesOutput struct {
	Orders    []adminapi.Order    `json:"orders"`
	Throttles []adminapi.Throttle `json:"throttles"`
	Total     int                 `json:"total"`
}

// Run lists limits and orders.
func (c *throttlesListCmd) Run(e *env) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	list, err := a.Throttles(e.ctx, c.scope(), c.Limit)
	if err != nil {
		return a.explain(err)
	}
	all, err := a.Orders(e.ctx)
	if err != nil {
		return a.explain(err)
	}
	orders := []adminapi.Order{}
	for _, o := range all {
		if overlaps(o.Scope, c.scope()) {
			orders = append(orders, o)
		}
	}
	if c.JSON {
		return show.JSON(e.out, throttlesOutput{orders, list.Throttles, list.Total})
	}
	p := explainPage{Page: show.New(e.out), now: time.Now()}
	t := throttleTable(list.Throttles, p.now)
	t.Empty = "no limits are in use"
	p.Table(t)
	if list.Total > len(list.Throttles) {
		p.Printf("%s; %d listed, --limit lists more\n", show.Plural(int64(list.Total), "limit"), len(list.Throttles))
	}
	p.orders(orders)
	return nil
}

// overlaps reports whether an order may touch what a scope names: no field that both set differs.
func overlaps(order, scope adminapi.Scope) bool {
	for _, f := range [][2]string{{order.Source, scope.Source}, {order.Pool, scope.Pool}, {order.Tenant, scope.Tenant},
		{order.Provider, scope.Provider}, {order.Site, scope.Site}, {order.Domain, scope.Domain}} {
		if f[0] != "" && f[1] != "" && f[0] != f[1] {
			return false
		}
	}
	return true
}

// throttleTable is what goes on under limited keys.
func throttleTable(list []adminapi.Throttle, now time.Time) *show.Table {
	t := &show.Table{Columns: []show.Column{{Name: "limit over"}, {Name: "connections", Right: true}, {Name: "connect rate"}, {Name: "message rate"},
		{Name: "today", Right: true}, {Name: "waiting"}, {Name: "next"}, {Name: "granted by"}, {Name: "told", Grow: true}}}
	for i := range list {
		x := &list[i]
		today := ""
		if x.Daily > 0 {
			today = show.Count(x.Today) + " of " + show.Count(x.Daily)
		}
		t.Add(x.Key.String(), openText(x), x.ConnectRate, messageRate(x), today, waiting(x), show.When(x.Next, now), authority(x), x.Hint)
	}
	return t
}

// openText is "3 of 4".
func openText(x *adminapi.Throttle) string {
	s := show.Count(int64(x.Connections))
	if x.MaxConnections > 0 {
		s += " of " + show.Count(int64(x.MaxConnections))
	}
	if x.Counted == "here" {
		s += " here"
	}
	return s
}

// messageRate is "4.8/s of 10/s, closed loop 50 %".
func messageRate(x *adminapi.Throttle) string {
	s := x.MessageRate
	if x.Rate > 0 {
		s = fmt.Sprintf("%.3g/s", x.Rate)
		if x.MessageRate != "" {
			s += " of " + x.MessageRate
		}
	}
	if x.Factor > 0 && x.Factor < 1 {
		s += fmt.Sprintf(", closed loop %.0f%%", x.Factor*100)
	}
	return s
}

func waiting(x *adminapi.Throttle) string {
	var parts []string
	if x.WaitConnect > 0 {
		parts = append(parts, show.Plural(int64(x.WaitConnect), "connection"))
	}
	if x.WaitSend > 0 {
		parts = append(parts, show.Plural(int64(x.WaitSend), "message"))
	}
	return strings.Join(parts, ", ")
}

// authority tells who grants, and whether it can.
func authority(x *adminapi.Throttle) string {
	switch x.Mode {
	case adminapi.ModeOwner:
		return "this node"
	case adminapi.ModeShare:
		return note("own share", x.Authority+" out of contact")
	case adminapi.ModeDown:
		return note("nobody", x.Authority+" out of contact")
	}
	return x.Authority
}

// orderTable is what is suspended or slowed.
func orderTable(list []adminapi.Order, now time.Time) *show.Table {
	t := &show.Table{Empty: "nothing is suspended or slowed", Columns: []show.Column{{Name: "id"}, {Name: "what"}, {Name: "how"}, {Name: "since"}, {Name: "ends"},
		{Name: "by"}, {Name: "reason", Grow: true}}}
	for i := range list {
		o := &list[i]
		ends := show.When(o.Until, now)
		if o.Until.IsZero() {
			ends = "when lifted"
		}
		by := "rule " + o.Rule
		if o.Rule == "" {
			by = note("hand", o.By)
		}
		t.Add(o.ID, o.Scope.String(), orderText(o), show.When(o.Created, now), ends, by, o.Reason)
	}
	return t
}

// orderText is "slow to 10/min, 1 connection".
func orderText(o *adminapi.Order) string {
	s := strings.ReplaceAll(o.Action, "_", " ")
	var to []string
	if o.MessageRate != "" {
		to = append(to, o.MessageRate)
	}
	if o.Connections > 0 {
		to = append(to, show.Plural(int64(o.Connections), "connection"))
	}
	if len(to) > 0 {
		s += " to " + strings.Join(to, ", ")
	}
	return s
}

// orderFlags make an order.
type orderFlags struct {
	scopeFlags
	Stream string         `placeholder:"NAME" help:"This stream of --tenant." group:"Scope"`
	For    units.Duration `placeholder:"TIME" help:"End it after this time, such as 30m or 2d; until lifted by default."`
	Reason string         `placeholder:"TEXT" help:"Why, for others to read."`
}

func (f *orderFlags) request(action string) (adminapi.OrderRequest, error) {
	r := adminapi.OrderRequest{Scope: f.scope(), Action: action, Reason: f.Reason}
	r.Scope.Stream = f.Stream
	switch {
	case r.Scope == (adminapi.Scope{}):
		return r, usageError{errors.New("nothing is chosen: give --source, --pool, --tenant, --provider, --site or --domain")}
	case f.Stream != "" && f.Tenant == "":
		return r, usageError{errors.New("--stream: goes with --tenant")}
	case f.For < 0:
		return r, usageError{errors.New("--for: must be positive")}
	}
	if f.For > 0 {
		until := time.Now().Add(f.For.D())
		r.Until = &until
	}
	return r, nil
}

// set makes the order and tells how to end it.
func (f *adminFlags) set(e *env, r adminapi.OrderRequest) error {
	a, err := f.client()
	if err != nil {
		return err
	}
	defer a.Close()
	o, err := a.SetOrder(e.ctx, r)
	if err != nil {
		return a.explain(err)
	}
	if f.JSON {
		return show.JSON(e.out, o)
	}
	end := "until lifted"
	if !o.Until.IsZero() {
		end = "until " + stamp(o.Until)
	}
	_, err = fmt.Fprintf(e.out, "%s: %s %s\nto end it: godwit throttles lift %s\n", show.Clean(o.Scope.String()), orderText(o), end, o.ID)
	return err
}

type throttlesSuspendCmd struct {
	adminFlags
	orderFlags
}

// Help teaches by example.
func (throttlesSuspendCmd) Help() string {
	return `Nothing more is sent of what is named; sessions under way are finished. Messages wait,
or go by other sources of their pool. It holds on every node and survives restarts.
Names are exact. To stop single queues, also with patterns: godwit queue suspend.

Examples:
  godwit throttles suspend --source s1 --provider google --for 2h --reason 'blocked, delisting asked for'
  godwit throttles suspend --source s1`
}

// Run suspends.
func (c *throttlesSuspendCmd) Run(e *env) error {
	r, err := c.request(adminapi.ActionSuspend)
	if err != nil {
		return err
	}
	return c.set(e, r)
}

type throttlesSlowCmd struct {
	adminFlags
	orderFlags
	MessageRate string `placeholder:"RATE" help:"Highest message rate, such as 10/min."`
	Connections int    `placeholder:"N" help:"Most connections."`
}

// Help teaches by example.
func (throttlesSlowCmd) Help() string {
	return `Lowers limits of what is named; it never raises one.

Example:
  godwit throttles slow --source s1 --provider yahoo --message-rate 10/min --connections 1 --for 1h`
}

// Run slows.
func (c *throttlesSlowCmd) Run(e *env) error {
	r, err := c.request(adminapi.ActionSlow)
	if err != nil {
		return err
	}
	var rate units.Rate
	switch err := rate.UnmarshalText([]byte(c.MessageRate)); {
	case err != nil:
		return usageError{fmt.Errorf("--message-rate: %w", err)}
	case rate.IsZero() && c.Connections <= 0:
		return usageError{errors.New("give --message-rate or --connections")}
	}
	r.MessageRate, r.Connections = c.MessageRate, c.Connections
	return c.set(e, r)
}

type throttlesLiftCmd struct {
	adminFlags
	IDs []string `arg:"" optional:"" name:"id" help:"Ids of orders, as godwit throttles lists them."`
	scopeFlags
	All bool `help:"Every order." group:"Scope"`
}

// Help teaches by example.
func (throttlesLiftCmd) Help() string {
	return `By id, or every order that names what the flags name.

Examples:
  godwit throttles lift 01890a5d-ac96-774b-bcce-b302099a8057
  godwit throttles lift --source s1 --provider google
  godwit throttles lift --all`
}

// Run lifts orders.
func (c *throttlesLiftCmd) Run(e *env) error {
	scope := c.scope()
	switch chosen := scope != (adminapi.Scope{}) || c.All; {
	case len(c.IDs) > 0 && chosen:
		return usageError{errors.New("give ids or what the orders are about, not both")}
	case len(c.IDs) == 0 && !chosen:
		return usageError{errors.New("nothing is chosen: give ids, --source, --provider and the like, or --all")}
	case c.All && scope != (adminapi.Scope{}):
		return usageError{errors.New("--all does not go with other filters")}
	}
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	ids := c.IDs
	if len(ids) == 0 {
		list, err := a.Orders(e.ctx)
		if err != nil {
			return a.explain(err)
		}
		for _, o := range list {
			if o.Scope.Within(scope) {
				ids = append(ids, o.ID)
			}
		}
	}
	for _, id := range ids {
		if err := a.LiftOrder(e.ctx, id); err != nil {
			return fmt.Errorf("%s: %w", id, a.explain(err))
		}
	}
	return told(e, c.JSON, len(ids), "lifted", "order")
}
