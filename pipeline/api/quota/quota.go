// Package quota counts requests of tenants in fixed windows: a burst per second and a steady rate per minute.
package quota

import (
	"fmt"
	"sync"
	"time"
)

// Rule limits the requests of a tenant. All operations that it is about are counted together.
type Rule struct {
	Tenant    string `toml:"tenant" doc:"Tenant that the rule is about; * is each tenant for itself. A tenant's own rule goes before that of *."`
	Operation string `toml:"operation" doc:"Operation by its id in the OpenAPI document, such as createEvent; * is all operations together. A rule for one operation goes before one for all."`
	Burst     int    `toml:"burst" doc:"Requests in a second; 0 sets no limit."`
	Steady    int    `toml:"steady" doc:"Requests in a minute; 0 sets no limit."`
}

// Validate returns an error that begins with the key it is about. known tells whether there is an operation.
func (r Rule) Validate(known func(operation string) bool) error {
	switch {
	case r.Tenant == "":
		return fmt.Errorf("tenant: is empty; * is each tenant")
	case r.Operation != "*" && !known(r.Operation):
		return fmt.Errorf("operation: %q is neither * nor an operation", r.Operation)
	case r.Burst < 0:
		return fmt.Errorf("burst: must not be negative")
	case r.Steady < 0:
		return fmt.Errorf("steady: must not be negative")
	}
	return nil
}

// Verdict is what a request is told.
type Verdict struct {
	Limited   bool          // there is a rule; otherwise the rest is empty
	OK        bool          // the request may go on
	Limit     int           // of the window that is nearest to its end of requests
	Remaining int           // requests left in it
	Reset     time.Duration // until it ends
}

// Limiter applies rules. It is safe for concurrent use.
type Limiter struct {
	rules map[[2]string]Rule
	mu    sync.Mutex
	seen  map[[2]string]*counter // by tenant and the rule's operation; both are of the configuration
}

// New returns a limiter for the tenants whose keys are configured. Of two rules for the same the last one holds.
func New(rules []Rule) *Limiter {
	l := &Limiter{rules: map[[2]string]Rule{}, seen: map[[2]string]*counter{}}
	for _, r := range rules {
		l.rules[[2]string{r.Tenant, r.Operation}] = r
	}
	return l
}

// windows of a rule.
const (
	burst  = time.Second
	steady = time.Minute
)

type counter struct {
	begin [2]time.Time
	count [2]int
}

// Take counts a request. One that is refused counts for nothing.
func (l *Limiter) Take(tenant, operation string, now time.Time) Verdict {
	if len(l.rules) == 0 {
		return Verdict{OK: true}
	}
	r, ok := l.rule(tenant, operation)
	if !ok || r.Burst == 0 && r.Steady == 0 {
		return Verdict{OK: true}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := [2]string{tenant, r.Operation}
	c := l.seen[at]
	if c == nil {
		c = &counter{}
		l.seen[at] = c
	}
	return c.take(r, now)
}

func (l *Limiter) rule(tenant, operation string) (Rule, bool) {
	for _, at := range [][2]string{{tenant, operation}, {tenant, "*"}, {"*", operation}, {"*", "*"}} {
		if r, ok := l.rules[at]; ok {
			return r, true
		}
	}
	return Rule{}, false
}

func (c *counter) take(r Rule, now time.Time) Verdict {
	v := Verdict{Limited: true, OK: true, Remaining: -1}
	limits, lengths := [2]int{r.Burst, r.Steady}, [2]time.Duration{burst, steady}
	for i, limit := range limits {
		if limit == 0 {
			continue
		}
		// A clock that is set back must not keep a window for ever.
		if begin := now.Truncate(lengths[i]); !begin.Equal(c.begin[i]) {
			c.begin[i], c.count[i] = begin, 0
		}
		left, reset := limit-c.count[i], c.begin[i].Add(lengths[i]).Sub(now)
		// The longer window is the one to wait for when both are used up.
		if v.Remaining < 0 || left < v.Remaining || left == 0 {
			v.Limit, v.Remaining, v.Reset = limit, left, reset
		}
	}
	if v.Remaining == 0 {
		v.OK = false
		return v
	}
	c.count[0]++
	c.count[1]++
	v.Remaining--
	return v
}
