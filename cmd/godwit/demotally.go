package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/show"
)

// unroutable is the row of messages that no provider ever saw.
const unroutable = "no mail host"

// fate is what the event log tells of one recipient's message.
type fate struct {
	id       mail.ID
	attempts int
	deferred int
	end      event.Kind // "" while it waits
	reply    string
}

// figures are counts of messages, deferrals of attempts.
type figures struct{ delivered, deferrals, ambiguous, bounced, expired int64 }

// tally counts events, by provider and by recipient. Reports to the sender
// are kept apart: nobody injected them.
type tally struct {
	mu        sync.Mutex
	seen      map[string]bool // ids: after a crash some events come twice
	providers map[string]*figures
	fates     map[string]*fate // by recipient
	sum       totals
	err       error
}

// totals are sums over all. Reports (DSN) count in injected and ended too.
type totals struct {
	figures
	injected, accepted, ended int64
	reports, reportsEnded     int64
}

func newTally() *tally {
	return &tally{seen: map[string]bool{}, providers: map[string]*figures{}, fates: map[string]*fate{}}
}

// follow reads the log until ctx ends.
func (t *tally) follow(ctx context.Context, c *event.Cursor) {
	for {
		batch, err := c.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = t.take(batch.Lines)
		}
		if err != nil {
			t.mu.Lock()
			t.err = err
			t.mu.Unlock()
			return
		}
		c.Commit(batch.Next)
	}
}

func (t *tally) take(lines [][]byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, line := range lines {
		var e event.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		if !t.seen[e.ID] {
			t.seen[e.ID] = true
			t.add(&e)
		}
	}
	return nil
}

func (t *tally) add(e *event.Event) {
	report := strings.EqualFold(e.Domain, demoSender)
	if e.Kind == event.Injected {
		t.sum.injected++
		if report {
			t.sum.reports++
		} else {
			t.sum.accepted++
			t.fates[strings.ToLower(e.Recipient)] = &fate{id: e.Message}
		}
		return
	}
	if e.Kind.Final() {
		t.sum.ended++
	}
	if report {
		if e.Kind.Final() {
			t.sum.reportsEnded++
		}
		return
	}
	name := e.Provider
	if name == "" {
		name = unroutable
	}
	p := t.providers[name]
	if p == nil {
		p = &figures{}
		t.providers[name] = p
	}
	p.add(e)
	t.sum.add(e)
	if f := t.fates[strings.ToLower(e.Recipient)]; f != nil {
		f.add(e)
	}
}

func (f *figures) add(e *event.Event) {
	switch e.Kind {
	case event.Delivered:
		f.delivered++
	case event.Deferred:
		f.deferrals++
		if e.Outcome == mail.Ambiguous.String() {
			f.ambiguous++
		}
	case event.Bounced:
		f.bounced++
	case event.Expired:
		f.expired++
	}
}

func (f *fate) add(e *event.Event) {
	f.attempts = max(f.attempts, e.Attempt)
	f.reply = mail.Reply{Code: e.Code, Enhanced: e.Enhanced, Text: e.Reply}.String()
	switch {
	case e.Kind == event.Deferred:
		f.deferred++
	case e.Kind.Final():
		f.end = e.Kind
	}
}

func (t *tally) totals() totals {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sum
}

func (t *tally) provider(name string) figures {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.providers[name]; p != nil {
		return *p
	}
	return figures{}
}

// watch shows how far things are until done is closed: redrawn in place on a
// terminal, a line now and then elsewhere.
func (d *demo) watch(done <-chan struct{}) {
	every := 2 * time.Second
	if d.page.Terminal() {
		every = 150 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			if d.page.Terminal() {
				d.page.Draw(append([]string{d.progress(), ""}, d.page.Lines(d.providerTable())...))
			} else {
				d.page.Printf("%s\n", d.progress())
			}
		}
	}
}

func (d *demo) progress() string {
	t := d.tally.totals()
	share := int(20 * t.accepted / max(1, d.cmd.Messages))
	bar := strings.Repeat("█", share) + strings.Repeat("░", max(0, 20-share))
	return fmt.Sprintf("%3.0fs %s accepted %s · delivered %s · deferrals %s · bounced %s · in the queue %s",
		time.Since(d.began).Seconds(), bar, show.Count(t.accepted), show.Count(t.delivered), show.Count(t.deferrals),
		show.Count(t.bounced), show.Count(d.server.engine.Queue().Queued()))
}

// providerTable is the engine's view of each provider, beside the provider's own count of connections.
func (d *demo) providerTable() *show.Table {
	t := &show.Table{Columns: []show.Column{{Name: "provider"}, {Name: "what it does", Grow: true}, {Name: "delivered", Right: true}, {Name: "deferrals", Right: true},
		{Name: "bounced", Right: true}, {Name: "connections", Right: true}, {Name: "in TLS", Right: true}}}
	stats := d.sink.Stats()
	for i, p := range demoProviders() {
		f, s := d.tally.provider(p.Name), stats.Providers[i]
		if p.weight == 0 {
			f.delivered = d.tally.totals().reportsEnded
		}
		t.Add(p.Name, p.about, show.Count(f.delivered), show.Count(f.deferrals), show.Count(f.bounced), show.Count(s.Connections), show.Count(s.TLS))
	}
	f := d.tally.provider(unroutable)
	t.Add(unroutable, "null MX, or no such domain", show.Count(f.delivered), show.Count(f.deferrals), show.Count(f.bounced), "", "")
	return t
}
