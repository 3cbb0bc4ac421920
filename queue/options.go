package queue

import (
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/queue/spool"
)

// Options are the configurable parts of the queue.
type Options struct {
	Path        string         `toml:"path" doc:"Directory of the spool volume: bodies, index and event log."`
	MaxMessages int64          `toml:"max_messages" doc:"Messages in the queue beyond which new ones are refused with 452 or 503."`
	MaxReady    int            `toml:"max_ready" doc:"Messages of one scheduled queue kept in memory for delivery; the others wait on disk."`
	MaxInMemory int            `toml:"max_in_memory" doc:"Messages kept in memory for delivery in all; the others wait on disk. Injectors wait when twice as many have not reached the disk's index."`
	BodyMemory  units.Size     `toml:"body_memory" doc:"Memory for bodies of just accepted messages; beyond it they are read back from disk for delivery."`
	GroupDelay  units.Duration `toml:"group_delay" doc:"How long outcomes are collected before one write makes them durable; a crash repeats at most the deliveries of this time."`
	IndexEvery  units.Duration `toml:"index_every" doc:"How often messages that are still waiting are written to the index."`

	MaxSessions       int            `toml:"connections" doc:"Outgoing connections in all; a tenth more is kept for urgent mail, and half of them at most may be still connecting."`
	SessionIdle       units.Duration `toml:"connection_idle" doc:"How long an idle connection to a site is kept for the next message."`
	MaxPerTransaction int            `toml:"recipients_per_transaction" doc:"Recipients in one SMTP transaction, for copies whose bytes are equal."`
	HoldMax           units.Duration `toml:"hold_max" doc:"Longest pause after failed connections to a site before the next is tried."`

	Retry RetryRule   `toml:"retry" doc:"Retry schedule for all messages that no retry rule matches."`
	Rules []RetryRule `toml:"retry_rules" doc:"Retry schedules for some messages; the first rule that matches is used."`
	DSN   DSNOptions  `toml:"dsn" doc:"Delivery reports to the reverse path."`

	Spool  spool.Options    `toml:"spool" doc:"The spool's files."`
	Events event.LogOptions `toml:"events" doc:"The event log."`
}

// RetryRule says when a deferred message is tried again.
type RetryRule struct {
	Tenant   string         `toml:"tenant" doc:"Only messages of this tenant; empty for all."`
	Stream   string         `toml:"stream" doc:"Only messages of this stream; empty for all."`
	Domain   string         `toml:"domain" doc:"Only messages to this domain; empty for all."`
	Provider string         `toml:"provider" doc:"Only messages to this provider; empty for all."`
	First    units.Duration `toml:"first" doc:"Wait before the second attempt."`
	Factor   float64        `toml:"factor" doc:"Each further wait is this many times longer."`
	Max      units.Duration `toml:"max" doc:"Longest wait between attempts."`
	Jitter   float64        `toml:"jitter" doc:"Random part of each wait, 0.2 means up to 20 % more or less."`
	Life     units.Duration `toml:"life" doc:"A message is given up this long after it was accepted (or due for the first time); 0 leaves the life it was accepted with."`
}

// DSNOptions say which delivery reports are written (RFC 3461, RFC 3464).
type DSNOptions struct {
	Failures bool `toml:"failures" doc:"Send a report to the reverse path when a message bounces or expires, unless NOTIFY forbids it."`
	Success  bool `toml:"success" doc:"Send a report on delivery when NOTIFY=SUCCESS asked for it."`
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	return Options{
		Path: "/var/lib/godwit", MaxMessages: 20_000_000, MaxReady: 1000, MaxInMemory: 20_000,
		BodyMemory: 128 << 20, GroupDelay: units.Duration(10 * time.Millisecond), IndexEvery: units.Duration(time.Second),
		MaxSessions: 2000, SessionIdle: units.Duration(5 * time.Second), MaxPerTransaction: 100,
		HoldMax: units.Duration(time.Minute),
		Retry: RetryRule{First: units.Duration(5 * time.Minute), Factor: 2, Max: units.Duration(4 * time.Hour),
			Jitter: 0.2},
		DSN:   DSNOptions{Failures: true, Success: true},
		Spool: spool.DefaultOptions(), Events: event.DefaultLogOptions(),
	}
}

// Validate names the first key that cannot be used.
func (o Options) Validate() error {
	checks := []struct {
		bad  bool
		text string
	}{
		{o.Path == "", "path: is empty"},
		{o.MaxMessages < 1, "max_messages: must be positive"},
		{o.MaxReady < 10, "max_ready: must be at least 10"},
		{o.MaxInMemory < o.MaxReady, "max_in_memory: must not be less than max_ready"},
		{o.GroupDelay < 0 || o.GroupDelay.D() > time.Second, "group_delay: must be between 0 and 1s"},
		{o.IndexEvery.D() < 10*time.Millisecond || o.IndexEvery.D() > time.Minute, "index_every: must be between 10ms and 1m"},
		{o.MaxSessions < 1, "connections: must be positive"},
		{o.MaxPerTransaction < 1, "recipients_per_transaction: must be positive"},
	}
	for _, c := range checks {
		if c.bad {
			return fmt.Errorf("%s", c.text)
		}
	}
	if err := o.Retry.validate(); err != nil {
		return fmt.Errorf("retry.%w", err)
	}
	for i, r := range o.Rules {
		if err := r.validate(); err != nil {
			return fmt.Errorf("retry_rules[%d].%w", i, err)
		}
	}
	if err := o.Spool.Validate(); err != nil {
		return fmt.Errorf("spool.%w", err)
	}
	if err := o.Events.Validate(); err != nil {
		return fmt.Errorf("events.%w", err)
	}
	return nil
}

func (r RetryRule) validate() error {
	switch {
	case r.First.D() < 10*time.Millisecond:
		return fmt.Errorf("first: must be at least 10ms")
	case r.Factor < 1:
		return fmt.Errorf("factor: must be at least 1")
	case r.Max < r.First:
		return fmt.Errorf("max: must not be less than first")
	case r.Jitter < 0 || r.Jitter > 0.9:
		return fmt.Errorf("jitter: must be between 0 and 0.9")
	}
	return nil
}
