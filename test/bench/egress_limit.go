package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/watch"
)

// connectionsAt is how many connections a source may have at a rate: enough
// for it, and few enough that nodes must share them.
func connectionsAt(rate int) int {
	switch {
	case rate <= 10:
		return 4
	case rate <= 100:
		return 10
	}
	return 20
}

// limitRules are the limits of each source at the one site.
func limitRules(rate int) string {
	return fmt.Sprintf("[default]\nconnections = %d\nmessage_rate = \"%d/s\"\n", connectionsAt(rate), rate)
}

// sourcesAt is how many sources each proxy has: what two CPUs carry.
func sourcesAt(rate int) int {
	if rate >= 1000 {
		return 1
	}
	return 2
}

const (
	limitNodes   = 3
	limitProxies = 2
	settleFor    = 3 * time.Second // from the first MAIL of the last source until the limit is judged
)

// limit watches one limit.
func (b *bench) limit(ctx context.Context, name, kind string, rate int) error {
	if why := b.haproxyMissing(); kind == kindHAProxy && why != "" {
		b.say("    skipped: %s", why)
		return nil
	}
	provider := sinkOptions(true)
	provider.Providers[0].OwnMX = false // one site, so a source has one limit
	provider.Watch = filepath.Join(b.dir, name+".watch")
	w, err := b.newWorld(ctx, worldOptions{name: name, nodes: limitNodes, proxies: limitProxies, kind: kind, sources: sourcesAt(rate), provider: provider,
		rules: limitRules(rate)})
	if err != nil {
		return err
	}
	b.say("    %d sources on %d proxies, %d messages/s and %d connections each", len(w.sources), limitProxies, rate, connectionsAt(rate))
	run, err := w.watchLimit(ctx, rate)
	if err != nil {
		return w.failed(err)
	}
	if err := w.finish(); err != nil {
		return err
	}
	return b.judge(w, run, provider.Watch, kind, rate)
}

// limitRun is when what happened.
type limitRun struct {
	from, to time.Time
	kills    []time.Time
}

// watchLimit injects, kills and reconciles.
func (w *world) watchLimit(ctx context.Context, rate int) (run limitRun, err error) {
	a := newAccounts()
	all := rate * len(w.sources)
	injecting, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer func() { stop(); group.Wait() }()
	var demands []*demand
	for _, n := range w.nodes {
		d := &demand{node: n, low: int64(4*all + 200), accs: a, least: -1}
		demands = append(demands, d)
		group.Go(func() { d.run(injecting) })
	}
	if err := w.awaitFlow(ctx, demands); err != nil {
		return run, err
	}
	if run, err = w.crashes(ctx); err != nil {
		return run, err
	}
	w.tell(ctx)
	stop()
	group.Wait()
	for _, d := range demands {
		least, err := d.state()
		if err != nil {
			return run, err
		}
		w.b.say("    %s had %d messages waiting at least", d.node.name, least)
	}
	return run, w.reconcile(ctx, a)
}

// awaitFlow waits until all nodes have mail and all sources send it.
func (w *world) awaitFlow(ctx context.Context, demands []*demand) error {
	for began := time.Now(); ; {
		st, err := w.sink.stats(ctx)
		if err != nil {
			return err
		}
		ready := len(st.Sources) == len(w.sources)
		for _, s := range st.Sources {
			ready = ready && s.Mails > 0
		}
		for _, d := range demands {
			least, _ := d.state()
			ready = ready && least >= 0
		}
		if ready {
			return pause(ctx, settleFor)
		}
		if time.Since(began) > patience {
			return fmt.Errorf("after %v only %d of %d sources send", patience, len(st.Sources), len(w.sources))
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// crashes lets the time pass and kills a node and a proxy on the way.
func (w *world) crashes(ctx context.Context) (run limitRun, err error) {
	whole := w.b.o.limitTime()
	run.from = time.Now()
	if err := errors.Join(w.mark(ctx, "from"), pause(ctx, whole*3/10)); err != nil {
		return run, err
	}
	at, err := w.crashNode(ctx, w.nodes[1])
	if err != nil {
		return run, err
	}
	run.kills = append(run.kills, at)
	if err := pause(ctx, time.Until(run.from.Add(whole*6/10))); err != nil {
		return run, err
	}
	if at, err = w.crashProxy(ctx, w.proxies[1]); err != nil {
		return run, err
	}
	run.kills = append(run.kills, at)
	err = pause(ctx, time.Until(run.from.Add(whole)))
	run.to = time.Now()
	return run, errors.Join(err, w.mark(ctx, "to"))
}

// judge reads the provider's record and sets the figures: of all sources the worst.
func (b *bench) judge(w *world, run limitRun, path, kind string, rate int) error {
	r, err := watch.ReadFile(path)
	if err != nil {
		return err
	}
	q := watch.Query{Limits: map[string]watch.Limit{}, From: run.from, To: run.to, Less: r.Less5s(run.kills...)}
	for _, s := range w.sources {
		q.Limits[s.ip+" open"] = watch.Limit{Rate: float64(rate), Connections: connectionsAt(rate)}
	}
	rep := watch.Analyse(r, q)
	if err := rep.WriteText(b.out); err != nil {
		return err
	}
	if len(rep.Groups) != len(w.sources) {
		return fmt.Errorf("mail came from %d addresses, there are %d sources", len(rep.Groups), len(w.sources))
	}
	if !rep.Complete {
		return errors.New("the provider's record has no end")
	}
	prefix := fmt.Sprintf("egress.limit.%d", rate)
	if kind == kindHAProxy {
		prefix = fmt.Sprintf("egress.haproxy.%d", rate)
	}
	second, ten, conns, use := 0.0, 0.0, 0.0, 1e9
	for i := range rep.Groups {
		g := &rep.Groups[i]
		second, ten = max(second, g.OverSecond()), max(ten, g.OverTen())
		conns, use = max(conns, g.OverOpen()), min(use, g.Use())
	}
	b.set(prefix+".overshoot_1s", second)
	b.set(prefix+".overshoot_10s", ten)
	b.set(prefix+".use", use)
	b.set(prefix+".conns", conns)
	return nil
}
