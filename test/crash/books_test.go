//go:build crash

package crash

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/ledger"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/test/e2e/rig"
)

const (
	// excuse is how shortly before a cut a delivery must lie to be repeated.
	excuse = 2 * time.Second
	// unsettled is how long an outcome may take to be on record: the group
	// delay and a sync, on a machine that does other things too. What was
	// delivered in this time before a cut was in flight, as the queue sees it.
	unsettled = 400 * time.Millisecond
)

// account is what the engine's events say of one message.
type account struct {
	id        mail.ID
	recipient string
	injected  int
	finals    []string // distinct ids of final events
	kind      event.Kind
	repeated  int // lines whose id was there before
}

// settle waits until the engine is done, stops it and reconciles all books.
func (w *world) settle() {
	t := w.t
	t.Helper()
	acks := w.endLoad()
	_, refused, unknown := w.counts()
	w.awaitEmpty()
	accounts := w.accounts(acks)
	w.checkHistory(acks, accounts)
	w.stop()

	deliveries := w.sink.Deliveries()
	report := ledger.Reconcile(acks, deliveries)
	report.Settle(func(a ledger.Ack) bool {
		found := accounts[strings.ToLower(a.Recipient)]
		return found != nil && found.kind == event.Bounced
	})
	t.Logf("acknowledged %d (refused %d, fate unknown to the source %d), delivered %d, bounced %d, duplicates %d",
		report.Acked, refused, unknown, report.Delivered, len(report.Settled), len(report.Duplicates))
	for _, m := range head(report.Missing) {
		t.Errorf("lost: %+v, events %+v", m, accounts[strings.ToLower(m.Recipient)])
	}
	for _, a := range head(report.Altered) {
		t.Errorf("altered: %+v", a)
	}
	for _, d := range head(report.Late(w.cuts, excuse)) {
		t.Errorf("delivered twice without an excuse: %+v", d)
	}
	w.checkDuplicates(deliveries)
	w.checkAccounts(acks, accounts)
}

// head is as much of a list as is worth printing.
func head[T any](list []T) []T { return list[:min(len(list), 5)] }

// checkDuplicates counts, by cut, what came again, also of messages that the
// source got no answer for.
func (w *world) checkDuplicates(deliveries []ledger.Delivery) {
	type copyOf struct{ key, recipient string }
	times := map[copyOf][]ledger.Nanos{}
	inFlight := make([]int, len(w.cuts))
	for _, d := range deliveries {
		k := copyOf{ledger.MatchKey(d.Key), strings.ToLower(d.Recipient)}
		times[k] = append(times[k], d.At)
		if i := w.cutAfter(d.At.Time()); i >= 0 && w.cuts[i].Sub(d.At.Time()) <= unsettled {
			inFlight[i]++
		}
	}
	again := make([]int, len(w.cuts))
	stray := 0
	for _, at := range times {
		slices.Sort(at)
		for _, first := range at[:len(at)-1] {
			if i := w.cutAfter(first.Time()); i >= 0 {
				again[i]++
			} else {
				stray++
			}
		}
	}
	if stray > 0 {
		w.t.Errorf("%d copies came again after the last cut", stray)
	}
	for i := range again {
		if again[i] > inFlight[i] {
			w.t.Errorf("cut %d: %d duplicates, but only %d deliveries were in flight", i+1, again[i], inFlight[i])
		}
	}
	w.t.Logf("duplicates by cut %v", again)
	w.t.Logf("in flight by cut  %v", inFlight)
}

// cutAfter is the first cut at or after an instant, -1 if there is none.
func (w *world) cutAfter(at time.Time) int {
	return slices.IndexFunc(w.cuts, func(cut time.Time) bool { return !cut.Before(at) })
}

// accounts reads the events file until it tells the end of every acknowledged copy.
func (w *world) accounts(acks []ledger.Ack) (accounts map[string]*account) {
	err := rig.Eventually(func() (err error) {
		if accounts, err = readEvents(w.params.Events); err != nil {
			return err
		}
		open := 0
		for _, a := range acks {
			if found := accounts[strings.ToLower(a.Recipient)]; found == nil || len(found.finals) == 0 {
				open++
			}
		}
		if open > 0 {
			return fmt.Errorf("the events file does not tell what became of %d copies", open)
		}
		return nil
	})
	if err != nil {
		w.t.Error(err)
	}
	return accounts
}

// readEvents collects the events file by recipient; recipients are distinct.
func readEvents(path string) (map[string]*account, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	accounts, seen := map[string]*account{}, map[string]bool{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("event %q: %w", lines.Text(), err)
		}
		a := accounts[strings.ToLower(e.Recipient)]
		if a == nil {
			a = &account{id: e.Message, recipient: e.Recipient}
			accounts[strings.ToLower(e.Recipient)] = a
		}
		a.note(&e, seen[e.ID])
		seen[e.ID] = true
	}
	return accounts, lines.Err()
}

func (a *account) note(e *event.Event, again bool) {
	switch {
	case again:
		a.repeated++
	case e.Kind == event.Injected:
		a.injected++
	case e.Kind.Final():
		a.finals = append(a.finals, e.ID)
		a.kind = e.Kind
	}
}

// checkAccounts holds the events against the acknowledgements: each message
// came in once and ended once.
func (w *world) checkAccounts(acks []ledger.Ack, accounts map[string]*account) {
	repeated, wrong := 0, 0
	for _, a := range acks {
		found := accounts[strings.ToLower(a.Recipient)]
		if found == nil {
			continue // reported already
		}
		repeated += found.repeated
		if wrong < 5 && (len(found.finals) != 1 || found.injected != 1) {
			wrong++
			w.t.Errorf("events of %s: %d injected, final %v", a.Recipient, found.injected, found.finals)
		}
	}
	w.t.Logf("%d event lines were repeated by the file sink after a cut", repeated)
}

// checkHistory asks the API what became of some of the messages.
func (w *world) checkHistory(acks []ledger.Ack, accounts map[string]*account) {
	const sample = 100
	ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
	defer cancel()
	for range sample {
		if len(acks) == 0 {
			w.t.Error("nothing was acknowledged")
			return
		}
		found := accounts[strings.ToLower(acks[w.r.IntN(len(acks))].Recipient)]
		if found == nil {
			continue // reported elsewhere
		}
		m, err := w.admin.Message(ctx, found.id, false)
		if err != nil {
			w.t.Errorf("history of %v: %v", found.id, err)
			return
		}
		ends := 0
		for _, e := range m.Events {
			if event.Kind(e.Kind).Final() {
				ends++
			}
		}
		if ends != 1 || m.Message != nil {
			w.t.Errorf("history of %v has %d ends and says it waits: %v", found.id, ends, m.Message != nil)
		}
	}
}
