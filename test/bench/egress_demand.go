package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// demand keeps one node's queue above a mark, by batches over HTTP.
type demand struct {
	node *node
	low  int64 // messages that must wait at least
	accs *accounts

	mu    sync.Mutex
	least int64 // seen once it was full; -1 before
	err   error
}

const (
	demandBatch = 500
	demandEvery = 200 * time.Millisecond
)

// demandText is the body of all messages.
var demandText = strings.Repeat("A message that is counted at its MAIL command.\n", 20)

// run goes on until ctx ends; requests that fail while the node is dead are of unknown fate.
func (d *demand) run(ctx context.Context) {
	for ctx.Err() == nil {
		if !d.once(ctx) {
			_ = pause(ctx, demandEvery)
		}
	}
}

// once looks at the queue and injects a batch if it is low. False: look again later.
func (d *demand) once(ctx context.Context) bool {
	e := d.node.engine.Load()
	if e == nil {
		return false
	}
	n, err := e.queued(ctx)
	if err != nil || ctx.Err() != nil {
		return false
	}
	d.saw(n)
	if n >= d.low {
		return false
	}
	if err := d.accs.inject(ctx, e, d.node.name, demandBatch); err != nil {
		d.fail(err)
	}
	return true
}

func (d *demand) saw(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n >= d.low && d.least < 0 || n < d.least {
		d.least = n
	}
}

func (d *demand) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = err
	}
}

func (d *demand) state() (least int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.least, d.err
}

// What is known about a message.
const (
	isAcked  = 1 << iota // the node answered 2xx
	isSeen               // the provider took it
	isQueued             // a node still has it
)

// accounts know every message that was injected: number n of a node is NODE-n@dM.test, M the number modulo domains.
type accounts struct {
	mu         sync.Mutex
	of         map[string][]byte // by node, what is known about each number
	domains    int               // recipients are spread over so many
	duplicates int
	strange    []string // recipients that nobody injected
}

func newAccounts() *accounts { return &accounts{of: map[string][]byte{}, domains: 10} }

// inject sends one batch. An answer that says something else than that all were taken is an error; none at all is not.
func (a *accounts) inject(ctx context.Context, e *engine, node string, n int) error {
	a.mu.Lock()
	first := len(a.of[node])
	a.of[node] = append(a.of[node], make([]byte, n)...)
	a.mu.Unlock()
	in := textBatch{Content: textContent{From: "load@source.test", Subject: "Demand", Text: demandText}}
	for i := first; i < first+n; i++ {
		in.Recipients = append(in.Recipients, textRecipient{fmt.Sprintf("%s-%d@d%d.test", node, i, i%a.domains)})
	}
	var out injected
	if err := call(ctx, http.MethodPost, e.http+"/v1/messages", apiKey, in, &out); err != nil {
		return nil // of unknown fate
	}
	if len(out.Messages) != n {
		return fmt.Errorf("%s took %d of %d messages", node, len(out.Messages), n)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := first; i < first+n; i++ {
		a.of[node][i] |= isAcked
	}
	return nil
}

// note says what became of a recipient.
func (a *accounts) note(recipient string, what byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	local, _, _ := strings.Cut(recipient, "@")
	node, number, _ := strings.Cut(local, "-")
	n := -1
	_, err := fmt.Sscanf(number, "%d", &n)
	all := a.of[node]
	if err != nil || n < 0 || n >= len(all) {
		a.strange = append(a.strange, recipient)
		return
	}
	if all[n]&what&isSeen != 0 {
		a.duplicates++
	}
	all[n] |= what
}

// sums are the totals of an account.
type sums struct {
	acked, seen, queued, unknown, lost int
	losses                             []string // the first of them
}

func (a *accounts) sums() (s sums) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for node, all := range a.of {
		for i, x := range all {
			if x&isSeen != 0 {
				s.seen++
			}
			if x&isQueued != 0 {
				s.queued++
			}
			switch {
			case x&isAcked == 0:
				s.unknown++
			case x&(isSeen|isQueued) == 0:
				if s.lost++; s.lost <= 5 {
					s.losses = append(s.losses, fmt.Sprintf("%s-%d", node, i))
				}
			}
			if x&isAcked != 0 {
				s.acked++
			}
		}
	}
	return s
}

// The injection API's forms, as far as used here.
type (
	textRecipient struct {
		Address string `json:"address"`
	}
	textContent struct {
		From      string `json:"from"`
		Subject   string `json:"subject"`
		Text      string `json:"text"`
		Templates bool   `json:"templates"`
	}
	textBatch struct {
		Content    textContent     `json:"content"`
		Recipients []textRecipient `json:"recipients"`
		Priority   string          `json:"priority,omitempty"`
	}
	injected struct {
		Messages []struct {
			Recipient string `json:"recipient"`
		} `json:"messages"`
	}
)
