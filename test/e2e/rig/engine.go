// Package rig is what tests against the real program share: the program as a
// process (Engine), a mail exchanger that keeps what it takes (Mailbox), and
// keys and certificates (Keys).
package rig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is how long anything may take before a test gives up on it. It
// bounds failures only: what succeeds does not wait for it.
const Patience = 30 * time.Second

// Binary is the program under test: GODWIT_BIN, or bin/godwit in the root of the repository.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("GODWIT_BIN"); path != "" {
		return path
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	path := filepath.Join(dir, "bin", "godwit")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run: make build", err)
	}
	return path
}

// Engine is the program, serving.
type Engine struct {
	Config string // its configuration file
	Ports  Ports

	call   []string // the command line but for the options
	cmd    *exec.Cmd
	log    output
	exited chan struct{}
	code   int
}

// Ports are the addresses that the program says it has bound.
type Ports struct {
	SMTP     []string `json:"smtp"`
	HTTP     []string `json:"http"`
	Admin    []string `json:"admin"`
	Proxy    []string `json:"proxy"` // of godwit proxy
	Ops      string   `json:"ops"`
	Pipeline []string `json:"pipeline"`
}

// Start runs the program with a configuration file and waits until it serves.
func Start(binary, config string) (*Engine, error) {
	return StartRole(config, binary, "serve")
}

// StartRole is Start with the command that takes a configuration file, such as
// "godwit", "proxy"; a program that runs it, such as "ip netns exec", may stand before it.
func StartRole(config string, call ...string) (*Engine, error) {
	e := &Engine{Config: config, call: call}
	return e, e.start()
}

func (e *Engine) start() error {
	ports := e.Config + ".ports"
	if err := os.Remove(ports); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	args := append(append([]string(nil), e.call[1:]...), "-c", e.Config, "--ports", ports)
	e.cmd = exec.Command(e.call[0], args...)
	e.cmd.Stderr, e.cmd.Stdout = &e.log, &e.log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := e.cmd.Start(); err != nil {
		return err
	}
	e.exited = make(chan struct{})
	go func() {
		defer close(e.exited)
		_ = e.cmd.Wait() // the code says it
		e.code = e.cmd.ProcessState.ExitCode()
	}()
	return e.serving(ports)
}

func (e *Engine) serving(ports string) error {
	err := Eventually(func() error {
		select {
		case <-e.exited:
			return final{fmt.Errorf("rig: the program ended with code %d", e.code)}
		default:
		}
		text, err := os.ReadFile(ports)
		if err != nil {
			return err
		}
		e.Ports = Ports{}
		return json.Unmarshal(text, &e.Ports)
	})
	if err != nil {
		e.Kill()
		return fmt.Errorf("%w\n%s", err, e.Log())
	}
	return nil
}

// final ends Eventually at once.
type final struct{ error }

// Final makes an error end Eventually at once.
func Final(err error) error { return final{err} }

// Eventually repeats f until it gives no error, for as long as Patience. It is
// how tests wait for another process: nothing else tells them.
func Eventually(f func() error) error {
	deadline := time.Now().Add(Patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := f()
		if err == nil {
			return nil
		}
		if last := (final{}); errors.As(err, &last) {
			return last.error
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %w", Patience, err)
		}
		time.Sleep(pause)
	}
}

// Log is what the program has written so far.
func (e *Engine) Log() string { return e.log.String() }

// Signal sends a signal.
func (e *Engine) Signal(s syscall.Signal) error { return e.cmd.Process.Signal(s) }

// PID is the process id.
func (e *Engine) PID() int { return e.cmd.Process.Pid }

// Wait waits for the end of the program and returns its exit code.
func (e *Engine) Wait() (int, error) {
	select {
	case <-e.exited:
		return e.code, nil
	case <-time.After(Patience):
		return 0, fmt.Errorf("rig: the program did not end within %v", Patience)
	}
}

// Stop ends the program in order and returns its exit code.
func (e *Engine) Stop() (int, error) {
	if err := e.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, err
	}
	code, err := e.Wait()
	if err != nil {
		e.Kill()
	}
	return code, err
}

// Kill ends the program at once (SIGKILL).
func (e *Engine) Kill() {
	_ = e.cmd.Process.Kill() // it may be gone
	<-e.exited
}

// Restart starts the program again after it ended.
func (e *Engine) Restart() error { return e.start() }

// output collects what a process writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
