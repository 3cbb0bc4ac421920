package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// profile begins a CPU profile of the engine if one was asked for. The
// returned function waits for its end and prints where the time went.
func (b *bench) profile(ctx context.Context, name string, e *engine) func() error {
	return b.profileAfter(ctx, 0, name, e)
}

// profileAfter waits before it starts: a long run is not the same at its end as at its start.
func (b *bench) profileAfter(ctx context.Context, wait time.Duration, name string, e *engine) func() error {
	if b.o.profile == "" {
		return func() error { return nil }
	}
	path := filepath.Join(b.o.profile, fmt.Sprintf("%s-%d.pprof", name, b.round))
	done := make(chan error, 1)
	go func() {
		select {
		case <-ctx.Done():
			done <- ctx.Err()
		case <-time.After(wait):
			done <- fetchProfile(ctx, e.ops, path, b.o.load)
		}
	}()
	return func() error {
		if err := <-done; err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		return b.printProfile(ctx, path)
	}
}

// heap saves a profile of the engine's memory if profiles were asked for.
func (b *bench) heap(ctx context.Context, name string, e *engine) error {
	if b.o.profile == "" {
		return nil
	}
	path := filepath.Join(b.o.profile, fmt.Sprintf("%s-%d.heap", name, b.round))
	b.say("    memory profile %s", path)
	return save(ctx, e.ops+"/debug/pprof/heap?gc=1", path)
}

func fetchProfile(ctx context.Context, ops, path string, d time.Duration) error {
	return save(ctx, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", ops, max(1, int(d.Seconds())-1)), path)
}

// save fetches a page into a file.
func save(ctx context.Context, url, path string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", resp.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, resp.Body); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// printProfile prints the share of each package, a sample belonging to the
// innermost function that is ours or a library's: what the runtime and the
// standard library do, they do for somebody.
func (b *bench) printProfile(ctx context.Context, path string) error {
	out, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-traces", path).Output()
	if err != nil {
		return fmt.Errorf("go tool pprof: %w", err)
	}
	p := newShares()
	p.read(string(out))
	b.say("    profile %s, %.2f s of samples; share by package, of which in system calls:", path, p.total.Seconds())
	p.print(b.out, p.packages, 25)
	b.say("    by function:")
	p.print(b.out, p.functions, 40)
	return nil
}

// shares adds up a profile.
type shares struct {
	total               time.Duration
	packages, functions map[string]*share
}

type share struct{ all, system time.Duration }

func newShares() *shares {
	return &shares{packages: map[string]*share{}, functions: map[string]*share{}}
}

// read takes the output of pprof -traces: stacks from the innermost frame out,
// each with its time before the first frame, between rules.
func (s *shares) read(text string) {
	var stack []string
	var spent time.Duration
	flush := func() {
		if len(stack) > 0 {
			s.add(stack, spent)
		}
		stack, spent = nil, 0
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "-----") {
			flush()
			continue
		}
		fields := strings.Fields(strings.TrimSuffix(line, " (inline)"))
		if len(fields) == 2 {
			if d, err := time.ParseDuration(fields[0]); err == nil {
				spent = d
				stack = append(stack, fields[1])
			}
		} else if len(fields) == 1 && spent > 0 {
			stack = append(stack, fields[0])
		}
	}
	flush()
}

func (s *shares) add(stack []string, d time.Duration) {
	s.total += d
	system := strings.HasPrefix(stack[0], "internal/runtime/syscall")
	owner := stack[len(stack)-1]
	for _, f := range stack {
		if first, _, ok := strings.Cut(f, "/"); ok && strings.Contains(first, ".") {
			owner = f // a path with a domain in it: not the standard library
			break
		}
	}
	for _, frame := range stack {
		switch frame {
		case "runtime.gcBgMarkWorker", "runtime.bgsweep", "runtime.gcAssistAlloc":
			owner = "runtime.(gc)"
		case "runtime.mcall", "runtime.schedule":
			if !strings.Contains(owner, "/") {
				owner = "runtime.(scheduler)"
			}
		}
	}
	for m, key := range map[*map[string]*share]string{&s.packages: packageOf(owner), &s.functions: owner} {
		if (*m)[key] == nil {
			(*m)[key] = new(share)
		}
		(*m)[key].all += d
		if system {
			(*m)[key].system += d
		}
	}
}

// packageOf cuts the function off a name such as example.org/a/b.(*T).M.
func packageOf(f string) string {
	slash := strings.LastIndexByte(f, '/') + 1
	if dot := strings.IndexByte(f[slash:], '.'); dot >= 0 {
		return f[:slash+dot]
	}
	return f
}

func (s *shares) print(w io.Writer, m map[string]*share, most int) {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool { return m[names[i]].all > m[names[j]].all })
	for _, name := range names[:min(most, len(names))] {
		percent := func(d time.Duration) float64 { return 100 * float64(d) / float64(max(s.total, 1)) }
		fmt.Fprintf(w, "      %5.1f %%  %5.1f %%  %s\n", percent(m[name].all), percent(m[name].system), strings.TrimPrefix(name, "github.com/godwit-mta/godwit/"))
	}
}
