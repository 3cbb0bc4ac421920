package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/godwit-mta/godwit/internal/load"
	"github.com/godwit-mta/godwit/internal/sink"
)

// The names under which this program runs itself as a process of its own.
const (
	childSink = "child-sink"
	childLoad = "child-load"
)

// sinkMain is the sink process: options from in, addresses to out, until in ends.
func sinkMain(ctx context.Context, in io.Reader, out io.Writer) error {
	var o sink.Options
	d := json.NewDecoder(in)
	if err := d.Decode(&o); err != nil {
		return err
	}
	s, err := sink.New(o, sink.Deps{})
	if err != nil {
		return err
	}
	if err := s.Start(); err != nil {
		return err
	}
	defer s.Stop()
	if err := json.NewEncoder(out).Encode(s.Endpoints()); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, in) // ends when the parent closes it or is gone
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return nil
}

// loadMain is the source process: options from in, the report to out.
func loadMain(ctx context.Context, in io.Reader, out io.Writer) error {
	var o load.Options
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return err
	}
	l, err := load.New(o, load.Deps{})
	if err != nil {
		return err
	}
	r, err := l.Run(ctx)
	if r != nil {
		err = errors.Join(err, json.NewEncoder(out).Encode(r))
	}
	return err
}

// self is a command that runs this program under another name. It dies with us.
func self(ctx context.Context, name string) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, exe, name)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd, nil
}

// sinkProcess is a running sink.
type sinkProcess struct {
	sink.Endpoints
	pid  int
	stop func() error
}

// startSink starts a sink in fast mode: ten domains, each a site of its own.
// With records it keeps the time of each delivery, else it only counts.
func startSink(ctx context.Context, records bool) (*sinkProcess, error) {
	return startSinkWith(ctx, sinkOptions(records))
}

func sinkOptions(records bool) sink.Options {
	o := sink.DefaultOptions()
	o.Count, o.NoSums = !records, true
	o.Providers[0].OwnMX = true
	return o
}

// startSinkWith starts a sink in a process of its own.
func startSinkWith(ctx context.Context, o sink.Options) (*sinkProcess, error) {
	cmd, err := self(ctx, childSink)
	if err != nil {
		return nil, err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &sinkProcess{pid: cmd.Process.Pid, stop: func() error {
		_ = stdin.Close()
		return cmd.Wait()
	}}
	err = json.NewEncoder(stdin).Encode(o)
	if err == nil {
		err = json.NewDecoder(stdout).Decode(&s.Endpoints)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sink: %w", err), s.stop())
	}
	return s, nil
}

// stats asks the sink for its counters.
func (s *sinkProcess) stats(ctx context.Context) (st sink.Stats, err error) {
	err = call(ctx, http.MethodGet, s.HTTP+"/stats", "", nil, &st)
	return st, err
}

// waitFor waits until the sink has n copies; it fails when none arrives for patience.
func (s *sinkProcess) waitFor(ctx context.Context, n int64, patience time.Duration) (sink.Stats, error) {
	last, changed := int64(-1), time.Now()
	for {
		st, err := s.stats(ctx)
		if err != nil {
			return st, err
		}
		got := st.Total.Accepted
		if got >= n {
			return st, nil
		}
		if got != last {
			last, changed = got, time.Now()
		}
		if time.Since(changed) > patience {
			return st, fmt.Errorf("the sink has %d of %d messages and got none for %v", got, n, patience)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return st, err
		}
	}
}

// runLoad runs a source process to its end.
func runLoad(ctx context.Context, o load.Options) (*load.Report, error) {
	cmd, err := self(ctx, childLoad)
	if err != nil {
		return nil, err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := new(load.Report)
	err = json.NewEncoder(stdin).Encode(o)
	if err == nil {
		err = json.NewDecoder(stdout).Decode(r)
	}
	if err = errors.Join(err, stdin.Close(), cmd.Wait()); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	return r, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
