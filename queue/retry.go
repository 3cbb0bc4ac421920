package queue

import (
	"math"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// rule returns the schedule for a message.
func (o *Options) rule(m *mail.Message, provider string) *RetryRule {
	for i := range o.Rules {
		if o.Rules[i].matches(m, provider) {
			return &o.Rules[i]
		}
	}
	return &o.Retry
}

func (r *RetryRule) matches(m *mail.Message, provider string) bool {
	return (r.Tenant == "" || r.Tenant == m.Tenant) &&
		(r.Stream == "" || r.Stream == m.Stream) &&
		(r.Domain == "" || r.Domain == m.Domain()) &&
		(r.Provider == "" || r.Provider == provider)
}

// wait is the time before the attempt after the given number of attempts.
// random is in [0, 1).
func (r *RetryRule) wait(attempts int, random float64) time.Duration {
	d := float64(r.First) * math.Pow(r.Factor, float64(max(attempts-1, 0)))
	d = math.Min(d, float64(r.Max))
	return time.Duration(d * (1 + r.Jitter*(2*random-1)))
}

// expiry is when a message is given up.
func (r *RetryRule) expiry(m *mail.Message) time.Time {
	if r.Life == 0 {
		return m.Expires
	}
	start := m.Accepted
	if m.NotBefore.After(start) {
		start = m.NotBefore
	}
	return start.Add(r.Life.D())
}

// over reports whether a message must not be tried any more, and why.
func over(m *mail.Message, expiry, now time.Time) (reason string, yes bool) {
	switch {
	case !m.Deadline.IsZero() && now.After(m.Deadline):
		return "deadline passed", true
	case !expiry.IsZero() && now.After(expiry):
		return "lifetime passed", true
	}
	return "", false
}
