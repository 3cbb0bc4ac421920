//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// finished is a command line that has ended.
type finished struct {
	out, errOut string
	code        int
}

// command1 runs one command line of the program, the admin API at hand.
func (r *run) command1(args, stdin string) error {
	ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, rig.Binary(r.t), strings.Fields(args)...)
	cmd.Dir = r.tmp
	if r.engine != nil && len(r.engine.Ports.Admin) > 0 {
		cmd.Env = append(os.Environ(), "GODWIT_ADMIN="+adminURL(r.engine.Ports.Admin[0]), "GODWIT_ADMIN_TOKEN="+secret("operator"), "GODWIT_IMPORT_KEY="+secret("shop"))
	}
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	r.command = &finished{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
	r.doc, r.vars["out"] = parseJSON(out.Bytes()), out.String()
	return nil
}

func adminURL(address string) string {
	if strings.HasPrefix(address, "unix:") {
		return address
	}
	return "http://" + address
}

func (r *run) exit(args string) error {
	if got := strconv.Itoa(r.command.code); got != args {
		return fmt.Errorf("the exit code is %s, not %s\n%s%s", got, args, shorten(r.command.out), shorten(r.command.errOut))
	}
	return nil
}

func (r *run) signal(name string) error {
	signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	s, ok := signals[name]
	if !ok {
		return fmt.Errorf("no signal %s", name)
	}
	return r.engine.Signal(s)
}

func (r *run) exited(args string) error {
	code, err := r.engine.Wait()
	if err != nil {
		return err
	}
	if strconv.Itoa(code) != args {
		return fmt.Errorf("the program ended with code %d, not %s\n%s", code, args, r.engine.Log())
	}
	return nil
}

// file writes the lines below into a file of the case's temporary directory.
func (r *run) file(name, body string) error {
	return os.WriteFile(filepath.Join(r.tmp, filepath.Base(name)), []byte(body), 0o600)
}

// truncate shortens a file of the temporary directory, as a failing disk might: "NAME SIZE".
func (r *run) truncate(args string) error {
	name, number := cut(args)
	size, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return err
	}
	return os.Truncate(filepath.Join(r.tmp, name), size)
}

// lines are the events written so far, each parsed.
func (r *run) lines() ([]map[string]any, error) {
	text, err := os.ReadFile(filepath.Join(r.tmp, "events.jsonl"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	end := bytes.LastIndexByte(text, '\n') + 1
	var out []map[string]any
	for line := range strings.Lines(string(text[:end])) {
		v, ok := parseJSON([]byte(line)).(map[string]any)
		if !ok {
			return nil, fmt.Errorf("event line %q is no JSON object", line)
		}
		out = append(out, v)
	}
	return out, nil
}

// event finds a line that has all of NAME=VALUE.
func (r *run) event(args string) error {
	lines, err := r.lines()
	if err != nil {
		return err
	}
	found := 0
	for _, line := range lines {
		if holds(line, strings.Fields(args)) {
			r.doc = line
			found++
		}
	}
	if found == 0 {
		return fmt.Errorf("no such event among %d", len(lines))
	}
	return nil
}

func holds(line map[string]any, conditions []string) bool {
	for _, c := range conditions {
		name, value, _ := strings.Cut(c, "=")
		if v, ok := lookup(line, name); !ok || plain(v) != value {
			return false
		}
	}
	return true
}

// events judges the whole file: "schema" holds every line against the fields
// and kinds that internal/event declares; "order" wants each message's
// injection before its other events and nothing after its last; "kinds ID KIND..." the kinds of one message.
func (r *run) events(args string) error {
	lines, err := r.lines()
	if err != nil {
		return err
	}
	what, rest := cut(args)
	switch what {
	case "schema":
		return schema(lines)
	case "order":
		return order(lines)
	case "kinds":
		id, want := cut(rest)
		var got []string
		for _, line := range lines {
			if line["message"] == id {
				got = append(got, plain(line["kind"]))
			}
		}
		if strings.Join(got, " ") != want {
			return fmt.Errorf("kinds are %q, not %s", got, want)
		}
		return nil
	}
	return fmt.Errorf("events %s: schema, order or kinds", what)
}

func schema(lines []map[string]any) error {
	fields, kinds := map[string]bool{}, map[string]bool{}
	for _, f := range event.Fields() {
		fields[f.Name] = true
	}
	for _, k := range event.Kinds() {
		kinds[string(k.Kind)] = true
	}
	for _, line := range lines {
		for name := range line {
			if !fields[name] {
				return fmt.Errorf("field %s is not declared: %v", name, line)
			}
		}
		for _, name := range []string{"id", "kind", "time", "message", "recipient", "tenant"} {
			if line[name] == nil {
				return fmt.Errorf("no %s in %v", name, line)
			}
		}
		if !kinds[plain(line["kind"])] {
			return fmt.Errorf("kind %v is not declared", line["kind"])
		}
	}
	return nil
}

func order(lines []map[string]any) error {
	state := map[string]string{}
	var ids []string
	for _, line := range lines {
		message, kind, id := plain(line["message"]), plain(line["kind"]), plain(line["id"])
		if slices.Contains(ids, id) {
			return fmt.Errorf("event %s is there twice", id)
		}
		ids = append(ids, id)
		before, seen := state[message]
		if seen == (kind == string(event.Injected)) {
			return fmt.Errorf("message %s: %s after %q", message, kind, before)
		}
		if event.Kind(before).Final() {
			return fmt.Errorf("message %s: %s after its end, %s", message, kind, before)
		}
		state[message] = kind
	}
	return nil
}
