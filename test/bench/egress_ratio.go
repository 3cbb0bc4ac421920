package main

import "context"

// relayDirect is the plain relay benchmark with the configuration of relayProxy, but for the proxy.
func (b *bench) relayDirect(ctx context.Context) error {
	return b.relayThrough(ctx, "egress.relay_direct", 0)
}

func (b *bench) relayProxy(ctx context.Context) error {
	return b.relayThrough(ctx, "egress.relay_proxy", 1)
}

// relayThrough relays through so many proxies, of one source each.
func (b *bench) relayThrough(ctx context.Context, figure string, proxies int) (err error) {
	w, err := b.newWorld(ctx, worldOptions{name: "relay", nodes: 1, proxies: proxies, kind: kindGodwit, sources: 1, provider: sinkOptions(false)})
	if err != nil {
		return err
	}
	r, err := w.relay(ctx)
	if err != nil {
		return w.failed(err)
	}
	b.set(figure, r.rate)
	return w.finish()
}

func (w *world) relay(ctx context.Context) (*flowResult, error) {
	var before, after int64
	for _, p := range w.proxies {
		cpu, err := cpuOf(p.pid)
		if err != nil {
			return nil, err
		}
		before += int64(cpu)
	}
	r, err := w.b.push(ctx, flow{name: w.o.name, connections: 20}, w.nodes[0].engine.Load(), w.sink)
	if err != nil {
		return nil, err
	}
	for _, p := range w.proxies {
		cpu, err := cpuOf(p.pid)
		if err != nil {
			return nil, err
		}
		after += int64(cpu)
	}
	if len(w.proxies) > 0 {
		per := float64(after-before) / 1e3 / float64(max(r.messages, 1))
		w.b.say("    proxy %.1f us per message", per)
		w.b.set("egress.relay_proxy.cpu_us_per_msg", per)
	}
	return r, nil
}
