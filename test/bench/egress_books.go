package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
)

// reconcile stops delivery and checks that each message that a node
// acknowledged is at the provider or still in a queue, and that the provider has no others.
func (w *world) reconcile(ctx context.Context, a *accounts) error {
	for _, n := range w.nodes {
		if err := n.engine.Load().suspendAll(ctx); err != nil {
			return err
		}
	}
	for _, n := range w.nodes {
		if err := n.engine.Load().waitCalm(ctx); err != nil {
			return err
		}
	}
	queued := 0
	for _, n := range w.nodes {
		list, err := n.engine.Load().listAll(ctx)
		if err != nil {
			return err
		}
		for recipient := range list {
			a.note(recipient, isQueued)
		}
		queued += len(list)
	}
	taken, err := w.sink.deliveries(ctx)
	if err != nil {
		return err
	}
	for i := range taken {
		a.note(taken[i].Recipient, isSeen)
	}
	s := a.sums()
	w.b.say("    %d acknowledged and %d of unknown fate; %d at the provider, %d more copies of them, %d in queues; lost %d",
		s.acked, s.unknown, s.seen, a.duplicates, queued, s.lost)
	switch {
	case s.lost > 0:
		return fmt.Errorf("%d of %d acknowledged messages are lost, such as %s", s.lost, s.acked, strings.Join(s.losses, ", "))
	case len(a.strange) > 0:
		return fmt.Errorf("%d messages that nobody injected, such as %s", len(a.strange), a.strange[0])
	case s.seen+a.duplicates != len(taken):
		return fmt.Errorf("the provider has %d messages, the accounts %d", len(taken), s.seen+a.duplicates)
	}
	return nil
}

// waitCalm waits until nothing is under way to the provider.
func (e *engine) waitCalm(ctx context.Context) error {
	for began := time.Now(); ; {
		n, err := e.delivering(ctx)
		if err != nil || n == 0 {
			return err
		}
		if time.Since(began) > patience {
			return fmt.Errorf("%s still delivers %d messages, %v after all was suspended", e.name, n, patience)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// listAll lists the recipients of all messages in a queue from which nothing is delivered.
func (e *engine) listAll(ctx context.Context) (map[string]bool, error) {
	for began := time.Now(); ; {
		list, err := e.export(ctx)
		if err != nil {
			return nil, err
		}
		total, err := e.queued(ctx)
		if err != nil || total == int64(len(list)) {
			return list, err
		}
		if time.Since(began) > patience { // outcomes of the last moment may not be counted yet
			return nil, fmt.Errorf("%s says that it has %d messages and lists %d", e.name, total, len(list))
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// export reads the recipients from an export: unlike pages of a list it is made in one go.
func (e *engine) export(ctx context.Context) (map[string]bool, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.admin+"/admin/v1/export", strings.NewReader(`{"filter":{"all":true}}`))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+apiKey)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("export: %s", resp.Status)
	}
	list := map[string]bool{}
	for d := json.NewDecoder(resp.Body); ; {
		var line struct {
			Message *struct{ Recipient string } `json:"message"`
		}
		switch err := d.Decode(&line); {
		case errors.Is(err, io.EOF):
			return list, nil
		case err != nil:
			return nil, fmt.Errorf("export: %w", err)
		case line.Message != nil:
			list[line.Message.Recipient] = true
		}
	}
}

// delivering is how many messages are under way to the provider.
func (e *engine) delivering(ctx context.Context) (int, error) {
	var page struct {
		Messages []struct{} `json:"messages"`
	}
	err := call(ctx, http.MethodGet, e.admin+"/admin/v1/messages?limit=1000&state=delivering", apiKey, nil, &page)
	return len(page.Messages), err
}

// deliveries are the provider's records.
func (s *sinkProcess) deliveries(ctx context.Context) ([]ledger.Delivery, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.HTTP+"/ledger", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ledger: %s", resp.Status)
	}
	_, taken, err := ledger.Read(resp.Body)
	return taken, err
}
