package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// tell prints how the programs of a world fared: for people who look for causes.
func (w *world) tell(ctx context.Context) {
	for _, p := range w.proxies {
		w.tellProcess(ctx, p.process, p.ops)
	}
	for _, n := range w.nodes {
		if e := n.engine.Load(); e != nil {
			w.tellProcess(ctx, e.process, e.ops)
		}
	}
	if cpu, err := cpuOf(w.sink.pid); err == nil {
		w.b.say("    sink: CPU %.1f s", cpu.Seconds())
	}
}

func (w *world) tellProcess(ctx context.Context, p *process, ops string) {
	cpu, err := cpuOf(p.pid)
	if err != nil {
		return
	}
	line := fmt.Sprintf("    %s: CPU %.0f %% of one", p.name, 100*cpu.Seconds()/time.Since(p.began).Seconds())
	if ops == "" {
		w.b.say("%s", line)
		return
	}
	m, err := readMetrics(ctx, ops)
	if err != nil {
		return
	}
	const late = "godwit_throttle_late_seconds"
	line += fmt.Sprintf("; permits %.0f send, %.0f connect; granted late: %.0f of %.0f times over 4 ms, %.0f over 15; stalls %.0f; links lost %.0f, way faster %.0f",
		m[`godwit_throttle_permits_total{kind="send"}`], m[`godwit_throttle_permits_total{kind="connect"}`],
		m[late+"_count"]-m[late+`_bucket{le="0.004"}`], m[late+"_count"], m[late+"_count"]-m[late+`_bucket{le="0.015"}`],
		m["godwit_throttle_stalls_total"], m["godwit_grant_losses_total"], m["godwit_grant_delay_falls_total"])
	if _, ok := m["godwit_queue_injected_total"]; ok {
		line += fmt.Sprintf("; delivered %.0f, deferred %.0f, ambiguous %.0f", m.delivered(),
			m[`godwit_queue_outcomes_total{outcome="deferred"}`], m[`godwit_queue_outcomes_total{outcome="ambiguous"}`])
	}
	w.b.say("%s", line)
}

// complaints are the ends of all logs, after a failure.
func (w *world) complaints() error {
	var errs []error
	add := func(p *process) {
		if p != nil {
			if text := p.tail(); text != "" {
				errs = append(errs, fmt.Errorf("log of %s: %s", p.name, text))
			}
		}
	}
	for _, p := range w.proxies {
		add(p.process)
	}
	for _, n := range w.nodes {
		if e := n.engine.Load(); e != nil {
			add(e.process)
		}
	}
	return errors.Join(errs...)
}
