package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/sink"
)

const (
	swallowShare = 0.05
	sitesBatch   = 10_000
	urgentCount  = 30
	urgentEvery  = time.Second
	urgentWait   = 10 * time.Second                                                                    // for the answer to its request
	urgentNode   = "urgent"                                                                            // in recipients
	siteRules    = "[default]\nconnections = 5\nconnect_rate = \"100/min\"\nmessage_rate = \"10/s\"\n" // each site has keys of its own
)

// sites has a message for each of very many sites in the queue, lets all go at
// once, and sends an urgent message to one of the live ones now and then.
func (b *bench) sites(ctx context.Context) error {
	provider := sinkOptions(true)
	provider.Providers[0].Count, provider.Providers[0].Swallow = b.o.sites, swallowShare
	w, err := b.newWorld(ctx, worldOptions{name: "sites", nodes: 1, proxies: 1, kind: kindGodwit, sources: 2, rules: siteRules, provider: provider})
	if err != nil {
		return err
	}
	if err := w.manySites(ctx, provider); err != nil {
		return w.failed(err)
	}
	return w.finish()
}

func (w *world) manySites(ctx context.Context, provider sink.Options) error {
	b, e, p := w.b, w.nodes[0].engine.Load(), w.proxies[0]
	if err := errors.Join(e.suspendAll(ctx), e.settle(ctx)); err != nil {
		return err
	}
	peak, proxyPeak := watchAnon(ctx, e.pid), watchAnon(ctx, p.pid)
	a := newAccounts()
	a.domains = b.o.sites
	for n := 0; n < b.o.sites; n += sitesBatch {
		if err := a.inject(ctx, e, w.nodes[0].name, min(sitesBatch, b.o.sites-n)); err != nil {
			return err
		}
	}
	before, err := e.queued(ctx)
	if err != nil || before != int64(b.o.sites) {
		return errors.Join(err, fmt.Errorf("%d messages queued for %d sites", before, b.o.sites))
	}
	anon, err := memoryOf(e.pid, "RssAnon")
	if err != nil {
		return err
	}
	began := time.Now()
	profiled := b.profile(ctx, w.o.name, e)
	if err := e.resumeAll(ctx); err != nil {
		return err
	}
	sent, err := w.urgents(ctx, a, provider)
	if err != nil {
		return err
	}
	left, err := e.queued(ctx)
	if err != nil {
		return err
	}
	most, proxyMost := mib(peak()), mib(proxyPeak())
	if err := errors.Join(profiled(), b.heap(ctx, w.o.name, e)); err != nil {
		return err
	}
	b.say("    %d sites queued, RssAnon then %.0f MiB; %v after the start %d messages left; RssAnon at most %.0f MiB, of the proxy %.0f",
		before, mib(anon), time.Since(began).Round(time.Second), left, most, proxyMost)
	w.tell(ctx)
	if err := w.reconcile(ctx, a); err != nil {
		return err
	}
	worst, err := w.urgentLatency(ctx, sent)
	if err != nil {
		return err
	}
	b.set(b.sitesName("anon"), most)
	b.set(b.sitesName("proxy_anon"), proxyMost)
	b.set(b.sitesName("urgent"), worst.Seconds())
	return nil
}

// sitesName keeps the figures of a short run apart from those of the real one.
func (b *bench) sitesName(figure string) string {
	return fmt.Sprintf("egress.sites_%dk.%s", b.o.sites/1000, figure)
}

// urgents sends urgent messages to sites that do not swallow connects, and returns when each
// was sent; the zero time for one whose request was not answered in time, which is the last.
func (w *world) urgents(ctx context.Context, a *accounts, provider sink.Options) (map[string]time.Time, error) {
	sites, err := sink.New(provider, sink.Deps{}) // only to ask which are alive
	if err != nil {
		return nil, err
	}
	e := w.nodes[0].engine.Load()
	sent := map[string]time.Time{}
	for i := range urgentCount {
		n := (i*2*w.b.o.sites/(3*urgentCount) + w.b.o.sites/6) % w.b.o.sites
		for sites.Swallows(fmt.Sprintf("d%d.test", n)) {
			n++
		}
		to := fmt.Sprintf("%s-%d@d%d.test", urgentNode, i, n)
		at := time.Now()
		if !a.injectOne(ctx, e, urgentNode, to) {
			w.b.say("    urgent message %d of %d was not accepted within %v", i+1, urgentCount, urgentWait)
			sent[to] = time.Time{}
			return sent, ctx.Err()
		}
		sent[to] = at
		if err := pause(ctx, time.Until(at.Add(urgentEvery))); err != nil {
			return nil, err
		}
	}
	return sent, nil
}

// urgentLatency is the longest time from an injector's request to the provider's 250.
func (w *world) urgentLatency(ctx context.Context, sent map[string]time.Time) (time.Duration, error) {
	taken, err := w.sink.deliveries(ctx)
	if err != nil {
		return 0, err
	}
	var all []time.Duration
	for i := range taken {
		if at := sent[taken[i].Recipient]; !at.IsZero() {
			all = append(all, taken[i].At.Time().Sub(at))
		}
	}
	if len(all) < len(sent) { // late, not lost: the accounts have found those that were accepted
		w.b.say("    %d of %d urgent messages did not leave", len(sent)-len(all), len(sent))
		all = append(all, urgentCount*urgentEvery)
	}
	slices.Sort(all)
	w.b.say("    urgent messages: %d, p50 %.0f ms, the last %.0f ms, after the request", len(sent), ms(all[len(all)/2]), ms(all[len(all)-1]))
	return all[len(all)-1], nil
}

// injectOne sends an urgent message; false if it was not accepted in time, so its fate is unknown.
func (a *accounts) injectOne(ctx context.Context, e *engine, node, to string) bool {
	in := textBatch{Content: textContent{From: "load@source.test", Subject: "Urgent", Text: demandText}, Priority: "urgent",
		Recipients: []textRecipient{{to}}}
	a.mu.Lock()
	n := len(a.of[node])
	a.of[node] = append(a.of[node], 0)
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, urgentWait)
	defer cancel()
	if call(ctx, http.MethodPost, e.http+"/v1/messages", apiKey, in, nil) != nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.of[node][n] |= isAcked
	return true
}

// resumeAll ends suspendAll.
func (e *engine) resumeAll(ctx context.Context) error {
	return call(ctx, http.MethodPost, e.admin+"/admin/v1/resume", apiKey, map[string]any{"filter": map[string]bool{"all": true}}, nil)
}
