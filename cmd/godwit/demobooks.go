package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/ledger"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

// books are the three accounts held against each other: the sources' ids, the
// providers' records, the engine's event log.
type books struct {
	*ledger.Report
	refused, unknown int64
	compared         int // delivered copies whose body both sides have a sum of
	bounced, expired int
	waiting          int // still in the queue when the time was over
	reports          int // delivery reports that reached the sender's provider
	owed             int // reports that bounces and expiries call for
	notLogged        int // acknowledged, but the event log has no injected event
	disputed         int // the event log says delivered, the provider has no record, or the other way round
	engine           totals
	failed           error // the event log could not be read
}

// reconcile reads the sources' ledgers and settles what did not arrive by the event log.
func (d *demo) reconcile(ctx context.Context) (*books, error) {
	var acks []ledger.Ack
	b := &books{}
	for _, s := range d.sources {
		list, _, err := ledger.ReadFile(s.o.Ledger)
		if err != nil {
			return nil, err
		}
		acks = append(acks, list...)
		b.refused += s.report.Refused
		b.unknown += s.report.Unknown
	}
	var arrived []ledger.Delivery
	for _, one := range d.sink.Deliveries() {
		if mail.DomainOf(one.Recipient) == demoSender {
			b.reports++
		} else {
			arrived = append(arrived, one)
		}
	}
	b.Report = ledger.Reconcile(acks, arrived)
	d.tally.mu.Lock()
	defer d.tally.mu.Unlock()
	b.engine, b.failed = d.tally.sum, d.tally.err
	b.Settle(func(a ledger.Ack) bool { return b.settled(ctx, d, a) })
	b.compare(acks, arrived)
	b.dispute(d.tally.fates, acks, arrived)
	b.owed = b.bounced + b.expired
	return b, nil
}

// settled looks up what became of a message that no provider has.
func (b *books) settled(ctx context.Context, d *demo, a ledger.Ack) bool {
	f := d.tally.fates[strings.ToLower(a.Recipient)]
	switch {
	case f == nil:
		return false
	case f.end == event.Bounced:
		b.bounced++
		return true
	case f.end == event.Expired:
		b.expired++
		return true
	case f.end != "":
		return false // the engine says delivered, the provider does not
	}
	if _, err := d.server.engine.Queue().Find(ctx, f.id); err != nil {
		return false
	}
	b.waiting++
	return true
}

// compare counts the copies whose bodies could be compared.
func (b *books) compare(acks []ledger.Ack, arrived []ledger.Delivery) {
	summed := map[string]bool{}
	for _, a := range acks {
		if !a.Sum.IsZero() {
			summed[strings.ToLower(a.Recipient)] = true
		}
	}
	for _, one := range arrived {
		if summed[strings.ToLower(one.Recipient)] && !one.Sum.IsZero() {
			b.compared++
		}
	}
}

// dispute holds the engine's word against the providers', message by message.
func (b *books) dispute(fates map[string]*fate, acks []ledger.Ack, arrived []ledger.Delivery) {
	have := map[string]bool{}
	for _, one := range arrived {
		have[strings.ToLower(one.Recipient)] = true
	}
	for _, a := range acks {
		to := strings.ToLower(a.Recipient)
		f := fates[to]
		switch {
		case f == nil:
			b.notLogged++
		case have[to] != (f.end == event.Delivered):
			b.disputed++
		}
	}
}

// verdict is nil when the books balance.
func (b *books) verdict() error {
	var wrong []string
	for _, c := range []struct {
		n    int
		what string
	}{
		{int(b.refused + b.unknown), "not acknowledged"}, {len(b.Missing), "missing"}, {len(b.Altered), "altered"},
		{len(b.Report.Unknown), "delivered that nobody injected"}, {b.surplus(), "delivered twice"}, {b.notLogged, "not in the event log"},
		{b.disputed, "of which event log and providers differ"}, {b.owed - b.reports - b.unsent(), "delivery reports not arrived"},
	} {
		if c.n != 0 {
			wrong = append(wrong, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	if b.failed != nil {
		wrong = append(wrong, "the event log could not be read: "+b.failed.Error())
	}
	if len(wrong) > 0 {
		return errors.New("demo: the books do not balance: " + strings.Join(wrong, ", "))
	}
	return nil
}

// surplus are duplicates that no lost reply explains.
func (b *books) surplus() int { return max(0, len(b.Duplicates)-int(b.engine.ambiguous)) }

// unsent are reports that still wait in the queue when the time was over.
func (b *books) unsent() int { return int(b.engine.reports - b.engine.reportsEnded) }

// summary prints what happened, the books, one message, and where to go on.
func (d *demo) summary(ctx context.Context, b *books) error {
	p := d.page
	p.Heading("What happened")
	p.Table(d.providerTable())
	p.Printf("\n")
	for _, s := range d.sources {
		r := s.report
		p.Printf("%-50s %6s accepted, %5.0f/s, acknowledged within %.1f ms (p50), %.1f ms (p99)\n", s.name, show.Count(r.Acked), r.AcceptRate,
			r.AckLatency.P50, r.AckLatency.P99)
	}
	p.Printf("\n")
	p.Heading("The books")
	d.printBooks(b)
	if err := d.printMessage(ctx); err != nil {
		return err
	}
	p.Printf("\n")
	p.Heading("Where to look next")
	d.printNext()
	return nil
}

func (d *demo) printBooks(b *books) {
	n := func(v int) string { return show.Count(int64(v)) }
	mark := func(ok bool, text string) string {
		if ok {
			return d.page.Good("✓ ") + text
		}
		return d.page.Bad("✗ ") + text
	}
	ended := b.Delivered + b.bounced + b.expired + b.waiting
	sum := fmt.Sprintf("%s acknowledged to the sources = %s on the providers' records + %s bounced", n(b.Acked), n(b.Delivered), n(b.bounced))
	for _, extra := range []struct {
		n    int
		what string
	}{{b.expired, "expired"}, {b.waiting, "still in the queue"}} {
		if extra.n > 0 {
			sum += fmt.Sprintf(" + %s %s", n(extra.n), extra.what)
		}
	}
	for _, line := range []string{
		mark(ended == b.Acked && b.refused+b.unknown == 0, sum),
		mark(len(b.Missing) == 0, n(len(b.Missing))+" missing"),
		mark(len(b.Altered) == 0, fmt.Sprintf("%s bodies compared by SHA-256, %s altered", n(b.compared), n(len(b.Altered)))),
		mark(b.surplus() == 0 && len(b.Report.Unknown) == 0, fmt.Sprintf("%s delivered twice, %s that nobody injected", n(len(b.Duplicates)), n(len(b.Report.Unknown)))),
		mark(b.notLogged+b.disputed == 0, fmt.Sprintf("event log: %s injected, %s delivered, %s deferrals (%s with unknown end), %s bounced; %s differ from the records",
			show.Count(b.engine.accepted), show.Count(b.engine.delivered), show.Count(b.engine.deferrals), show.Count(b.engine.ambiguous), show.Count(b.engine.bounced), n(b.notLogged+b.disputed))),
		mark(b.owed == b.reports+b.unsent(), fmt.Sprintf("%s delivery reports (DSN) due to the sender, %s arrived", n(b.owed), n(b.reports))),
	} {
		d.page.Printf("%s\n", line)
	}
}

// printMessage shows one message as godwit queue show does, by the admin API.
func (d *demo) printMessage(ctx context.Context) error {
	id := d.tally.interesting()
	if id.IsZero() {
		return nil
	}
	c, err := adminapi.NewClient(adminapi.ClientOptions{URL: "unix:" + d.path("admin.sock")})
	if err != nil {
		return err
	}
	defer c.Close()
	m, err := c.Message(ctx, id, false)
	if err != nil {
		return fmt.Errorf("demo: admin API: %w", err)
	}
	d.page.Printf("\n")
	showMessage(d.page, id, m)
	return nil
}

// interesting finds a message that was deferred before it was delivered.
func (t *tally) interesting() (id mail.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	most := -1
	for _, f := range t.fates {
		if f.end == event.Delivered && f.deferred > most && f.deferred <= 2 {
			id, most = f.id, f.deferred
		}
	}
	return id
}

func (d *demo) printNext() {
	at, name := d.path("godwit.toml"), program()
	rows := [][2]string{
		{name + " demo --stay", "keeps everything running to look around"},
		{name + " config defaults", "every key of the configuration, with its meaning"},
		{"docs/OVERVIEW.md", "follows one message from socket to outcome"},
		{"docs/CLI.md, docs/CONFIG.md", "every command, every key"},
	}
	if d.cmd.Stay {
		rows = append([][2]string{
			{name + " queue stats -c " + at, "totals"},
			{name + " queue show ID -c " + at, "any message; ids are in " + d.path("events.ndjson")},
			{"curl http://" + d.server.ops.Addr() + "/debug/", "metrics, traces, profiles"},
			{name + " load " + d.server.engine.SMTP().Addrs()[0].String() + " --domains why.test -n 1000", "more mail"},
			{"curl '" + d.sink.URL() + "/stats?format=text'", "the providers' side"},
		}, rows[1:]...)
	}
	d.page.Pairs(rows...)
	d.page.Printf("took %s\n", show.Span(time.Since(d.began)))
}

// program is how to call this program again.
func program() string {
	if strings.Contains(os.Args[0], "go-build") { // go run
		return "go run ./cmd/godwit"
	}
	return "godwit"
}
