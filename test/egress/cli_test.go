//go:build egress

package egress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"testing"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// command runs the command line and returns what it printed and its exit code.
func command(t *testing.T, args ...string) (out, errOut string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, rig.Binary(t), args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// godwit runs a command against a node; it must succeed.
func (w *world) godwit(i int, args ...string) string {
	w.t.Helper()
	out, errOut, code := command(w.t, append(args, "--admin", w.nodes[i].socket)...)
	if code != 0 {
		w.t.Fatalf("%v at %s: code %d\n%s%s", args, w.nodes[i].Name, code, out, errOut)
	}
	return out
}

// godwitJSON is godwit with --json, decoded.
func godwitJSON[T any](w *world, i int, args ...string) *T {
	w.t.Helper()
	out := new(T)
	text := w.godwit(i, append(args, "--json")...)
	if err := json.Unmarshal([]byte(text), out); err != nil {
		w.t.Fatalf("%v: %v in %s", args, err, text)
	}
	return out
}

// needAdmin skips what comes after it when the program says that it has no such endpoint.
func needAdmin(t *testing.T, err error) {
	t.Helper()
	var p *wire.Problem
	switch {
	case errors.As(err, &p) && p.Status == http.StatusNotImplemented:
		unable(t, err)
	case err != nil:
		t.Fatal(err)
	}
}

// eventsOf are the events of a node that match, in order.
func (w *world) eventsOf(i int, match func(*event.Event) bool) (list []event.Event, err error) {
	text, err := os.ReadFile(w.nodes[i].events)
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(text[:bytes.LastIndexByte(text, '\n')+1]) {
		var e event.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("event %s: %w", line, err)
		}
		if match(&e) {
			list = append(list, e)
		}
	}
	return list, nil
}

// awaitEvent waits until a node has written an event that matches, and returns the first.
func (w *world) awaitEvent(i int, what string, match func(*event.Event) bool) (found event.Event) {
	w.t.Helper()
	w.eventually(what+" in the events of "+w.nodes[i].Name, func() error {
		list, err := w.eventsOf(i, match)
		if err == nil && len(list) == 0 {
			err = errNotYet
		}
		if err == nil {
			found = list[0]
		}
		return err
	})
	return found
}
