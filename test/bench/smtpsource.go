package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// findSMTPSource looks where Debian puts it, which is not in everybody's path.
func findSMTPSource() (string, error) {
	for _, name := range []string{"smtp-source", "/usr/sbin/smtp-source"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("smtp-source not found: install Debian's postfix")
}

// runSMTPSource injects n messages of 10 KB by one smtp-source process and
// returns its CPU time. It fails unless each was acknowledged.
func runSMTPSource(ctx context.Context, target string, sessions int, n int64) (time.Duration, error) {
	path, err := findSMTPSource()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, path, "-4", "-d", "-s", strconv.Itoa(sessions), "-l", "10240", "-m", strconv.FormatInt(n, 10),
		"-M", "smtp-source.source.test", "-f", "load@source.test", "-t", "u@d0.test", target)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("smtp-source: %w: %s", err, tail(string(out)))
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

func (b *bench) sourcePlain(ctx context.Context) error {
	r, err := b.fromSMTPSource(ctx, flow{name: "smtp_source", connections: 20, smtpSource: true})
	if err == nil && r != nil {
		b.set("relay.cpu_vs_smtp_source.plain", float64(r.cpu)/float64(r.sourceCPU))
		b.set("relay.smtp_source_cpu_us_per_msg", perMessage(r.sourceCPU, r.messages))
	}
	return err
}

func (b *bench) sourceDKIM(ctx context.Context) error {
	r, err := b.fromSMTPSource(ctx, flow{name: "smtp_source_dkim", connections: 20, dkim: true, smtpSource: true})
	if err == nil && r != nil {
		b.set("relay.cpu_vs_smtp_source.dkim", float64(r.cpu)/float64(r.sourceCPU))
	}
	return err
}

// fromSMTPSource runs f as long as the others: smtp-source counts messages,
// so their number is taken from the run of the same kind by our own source.
// The result is nil where smtp-source is not installed.
func (b *bench) fromSMTPSource(ctx context.Context, f flow) (*flowResult, error) {
	if _, err := findSMTPSource(); err != nil {
		b.say("    skipped: %v", err)
		return nil, nil
	}
	if b.rate[f.kind()] == 0 { // this case alone was asked for
		r, err := b.flow(ctx, flow{name: f.name + "_size", connections: f.connections, dkim: f.dkim})
		if err != nil {
			return nil, err
		}
		b.rate[f.kind()] = r.rate
	}
	return b.flow(ctx, f)
}
