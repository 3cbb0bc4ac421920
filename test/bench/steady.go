package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
)

func (b *bench) plain(ctx context.Context) error {
	r, err := b.flow(ctx, flow{name: "plain", connections: 20})
	if err != nil {
		return err
	}
	b.rate["plain"] = r.rate
	b.set("relay.e2e.plain", r.rate)
	b.set("relay.cpu_us_per_msg.plain", r.cpuPer())
	b.set("relay.source_cpu_us_per_msg", perMessage(r.sourceCPU, r.messages))
	b.set("relay.fsyncs_per_msg.20", b.fsyncs(r))
	return nil
}

func (b *bench) dkim(ctx context.Context) error {
	if us, err := signTime(ctx); err != nil {
		b.say("    no reference for signatures: %v", err)
	} else {
		b.say("    openssl speed: %.0f us CPU per RSA-2048 signature, all CPUs busy", us)
		b.set("relay.openssl_rsa2048_us", us)
	}
	r, err := b.flow(ctx, flow{name: "dkim", connections: 20, dkim: true})
	if err != nil {
		return err
	}
	if n := r.counts["godwit_dkim_signatures_total"]; int64(n) != r.messages {
		return fmt.Errorf("%d messages but %.0f signatures", r.messages, n)
	}
	b.rate["dkim"] = r.rate
	b.set("relay.e2e.dkim", r.rate)
	b.set("relay.cpu_us_per_msg.dkim", r.cpuPer())
	return nil
}

// signTime is the CPU time in microseconds that the system's OpenSSL needs for
// an RSA-2048 signature while all CPUs sign: what no signing engine gets below.
func signTime(ctx context.Context) (float64, error) {
	n := runtime.NumCPU()
	out, err := exec.CommandContext(ctx, "openssl", "speed", "-seconds", "1", "-multi", strconv.Itoa(n), "rsa2048").Output()
	if err != nil {
		return 0, fmt.Errorf("openssl speed: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		// rsa 2048 bits 0.000251s 0.000012s   3981.5  80665.0
		if f := strings.Fields(line); len(f) == 7 && f[0] == "rsa" {
			perSecond, err := strconv.ParseFloat(f[5], 64)
			if err != nil || perSecond <= 0 {
				return 0, fmt.Errorf("openssl speed: %q", line)
			}
			return float64(n) * 1e6 / perSecond, nil
		}
	}
	return 0, errors.New("openssl speed: no result")
}

func (b *bench) plain100(ctx context.Context) error {
	r, err := b.flow(ctx, flow{name: "plain_100", connections: 100})
	if err != nil {
		return err
	}
	b.set("relay.e2e.plain_100", r.rate)
	return nil
}

func (b *bench) accept(ctx context.Context) error {
	r, err := b.flow(ctx, flow{name: "accept", connections: 20, suspended: true})
	if err != nil {
		return err
	}
	b.say("    acknowledged after p50 %.2f ms, p90 %.2f, p99 %.2f, max %.1f", r.ack.P50, r.ack.P90, r.ack.P99, r.ack.Max)
	b.set("relay.accept", r.rate)
	b.set("relay.accept.p99", r.ack.P99)
	return nil
}

func (b *bench) one(ctx context.Context) error {
	return b.syncsAt(ctx, "relay.fsyncs_per_msg.1", flow{name: "fsyncs_1", connections: 1})
}

func (b *bench) many(ctx context.Context) error {
	return b.syncsAt(ctx, "relay.fsyncs_per_msg.200", flow{name: "fsyncs_200", connections: 200})
}

func (b *bench) syncsAt(ctx context.Context, figure string, f flow) error {
	r, err := b.flow(ctx, f)
	if err != nil {
		return err
	}
	b.set(figure, b.fsyncs(r))
	return nil
}

// fsyncs prints which log synced how often and returns the sum per message.
func (b *bench) fsyncs(r *flowResult) float64 {
	per := func(v float64) float64 { return v / float64(r.messages) }
	b.say("    fdatasync per message: %.4f segments, %.4f events",
		per(r.counts[`godwit_seglog_syncs_total{log="spool"}`]), per(r.counts[`godwit_seglog_syncs_total{log="events"}`]))
	return per(r.counts.syncs())
}

func (b *bench) floor(ctx context.Context) error { return b.straight(ctx, "relay.floor", 20) }

func (b *bench) floor100(ctx context.Context) error { return b.straight(ctx, "relay.floor_100", 100) }

// straight runs the source into the sink: no engine, no fsync.
func (b *bench) straight(ctx context.Context, figure string, connections int) (err error) {
	s, err := startSink(ctx, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	target := fmt.Sprintf("127.0.0.1:%d", s.Port)
	r, first, err := b.inject(ctx, flow{connections: connections}, target)
	if err != nil {
		return err
	}
	st, err := s.waitFor(ctx, r.messages, patience)
	if err != nil {
		return err
	}
	if st.Total.Accepted != r.messages {
		return fmt.Errorf("the source has %d acknowledged, the sink %d", r.messages, st.Total.Accepted)
	}
	rate := float64(st.Total.Accepted) / st.Total.LastAccept.Sub(first).Seconds()
	b.say("    %d messages, %.0f/s; source %.1f us, sink %.1f us per message", r.messages, rate,
		perMessage(r.sourceCPU, r.messages), perMessage(time.Duration(st.CPU*1e9), r.messages))
	b.set(figure, rate)
	return nil
}
