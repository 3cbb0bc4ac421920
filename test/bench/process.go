package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// process is a program that the benchmark started and that serves until it is told to end.
type process struct {
	name  string
	pid   int
	began time.Time // just before it was started

	cmd  *exec.Cmd
	log  string // file that its output is appended to
	done chan error
}

// startProcess starts a program. It dies with us.
func startProcess(ctx context.Context, name, log string, args []string) (*process, error) {
	return startProcessAs(ctx, name, log, args, nil, nil)
}

// startProcessAs starts it as another user; in is its standard input.
func startProcessAs(ctx context.Context, name, log string, args []string, as *syscall.Credential, in *os.File) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the process has its own
	p := &process{name: name, log: log, done: make(chan error, 1)}
	p.cmd = exec.CommandContext(ctx, args[0], args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = f, f
	if in != nil {
		p.cmd.Stdin = in
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true, Credential: as}
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.pid = p.cmd.Process.Pid
	go func() { p.done <- p.cmd.Wait() }()
	return p, nil
}

// awaitFile waits for a file that the process writes once it serves.
func (p *process) awaitFile(ctx context.Context, path string) ([]byte, error) {
	for {
		b, err := os.ReadFile(path)
		if err == nil {
			return b, nil
		}
		if err := p.alive(); err != nil {
			return nil, err
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return nil, err
		}
		if time.Since(p.began) > 2*time.Minute {
			return nil, fmt.Errorf("%s does not listen after two minutes", p.name)
		}
	}
}

// awaitPort waits until something listens there.
func (p *process) awaitPort(ctx context.Context, address string) error {
	for {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return c.Close()
		}
		if err := p.alive(); err != nil {
			return err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
		if time.Since(p.began) > 10*time.Second {
			return fmt.Errorf("%s does not listen: %w", p.name, err)
		}
	}
}

// alive is an error if the process has ended.
func (p *process) alive() error {
	select {
	case err := <-p.done:
		p.done <- err
		return fmt.Errorf("%s ended (%v): %s", p.name, err, p.tail())
	default:
		return nil
	}
}

// stop ends it the way an operator does and fails if it complains.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	select {
	case err := <-p.done:
		if err != nil {
			return fmt.Errorf("%s: %w: %s", p.name, err, p.tail())
		}
		return nil
	case <-time.After(time.Minute):
		return errors.Join(fmt.Errorf("%s did not stop within a minute", p.name), p.kill())
	}
}

// kill ends it without warning. It is no error if it is gone.
func (p *process) kill() error {
	_ = p.cmd.Process.Kill() // gone already, or dies now
	select {
	case <-p.done:
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("%s survived SIGKILL for a minute", p.name)
	}
}

// tail is the end of its log.
func (p *process) tail() string {
	b, _ := os.ReadFile(p.log) // for people only
	return tail(string(b))
}

// tail is the end of a log.
func tail(s string) string {
	const most = 2000
	s = strings.TrimSpace(s)
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return s
}
