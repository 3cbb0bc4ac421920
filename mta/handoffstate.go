package mta

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

// The states of a handoff.
const (
	HandoffNone    = "none"
	HandoffRunning = "running"
	HandoffDone    = "done"
	HandoffStopped = "stopped"
)

// HandoffStatus is how far a handoff is.
type HandoffStatus struct {
	State          string
	Started, Ended time.Time
	Total          int64 // messages there were when it began
	Moved          int64
	Delivered      int64 // ended here meanwhile
	Left           int64
	Delivering     int64   // of Left
	Rate           float64 // messages moved a second, of late
	Targets        []HandoffTarget
	Error          string // what keeps it from going on; it tries again
}

// HandoffTarget is what one member took, and what is the matter with it.
type HandoffTarget struct {
	Name     string
	Messages int64
	State    string
}

// Status tells how far the handoff is.
func (h *Handoff) Status() HandoffStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status()
}

func (h *Handoff) status() HandoffStatus {
	now := time.Now()
	s := HandoffStatus{State: h.state.State, Started: h.state.Started, Ended: h.state.Ended, Total: h.state.Total, Moved: h.state.moved(),
		Left: h.d.queue.Queued(), Error: h.problem}
	if s.State == HandoffNone {
		return s
	}
	s.Delivering = int64(h.d.queue.InFlight())
	s.Delivered = max(0, s.Total-s.Moved-s.Left)
	if s.State == HandoffRunning {
		sum := 0
		for _, p := range h.recent(now) {
			sum += p.n
		}
		s.Rate = float64(sum) / min(handoffRecent, max(now.Sub(s.Started), time.Second)).Seconds()
	}
	s.Targets = h.targets(now)
	return s
}

// targets lists who took messages, and who could. h.mu is held.
func (h *Handoff) targets(now time.Time) []HandoffTarget {
	states := map[string]string{}
	for name := range h.state.Moved {
		states[name] = "is gone"
	}
	for _, m := range h.d.members() {
		why := refusal(&m)
		if m.Self || m.Role != roleMTA && h.state.Moved[m.Name] == 0 || len(h.state.To) > 0 && !slices.Contains(h.state.To, m.Name) && h.state.Moved[m.Name] == 0 {
			continue
		}
		if why == "" && now.Before(h.shunned[m.Name].until) {
			why = "refuses: " + h.shunned[m.Name].why
		}
		states[m.Name] = why
	}
	if h.doubt.Name != "" {
		states[h.doubt.Name] = "has not confirmed what it was sent last"
	}
	var list []HandoffTarget
	for name, state := range states {
		if h.state.State != HandoffRunning {
			state = ""
		}
		list = append(list, HandoffTarget{Name: name, Messages: h.state.Moved[name], State: state})
	}
	slices.SortFunc(list, func(a, b HandoffTarget) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return list
}

// The file that a handoff goes on from; docs/formats/handoff.md.
const (
	handoffFile    = "handoff.json"
	handoffVersion = 1
	handoffMost    = 1 << 20
)

// handoffState is what survives a restart.
type handoffState struct {
	Version int              `json:"version"`
	State   string           `json:"state"`
	To      []string         `json:"to,omitempty"`
	Drain   bool             `json:"drain,omitempty"`
	Started time.Time        `json:"started,omitzero"`
	Ended   time.Time        `json:"ended,omitzero"`
	Total   int64            `json:"total"`
	Moved   map[string]int64 `json:"moved,omitempty"`
	Last    string           `json:"last,omitempty"` // was sent messages last, and may have some that are still here
}

func (s *handoffState) moved() (n int64) {
	for _, m := range s.Moved {
		n += m
	}
	return n
}

func (h *Handoff) load() error {
	b, err := faultfs.ReadFile(h.d.fs, h.d.dir+"/"+handoffFile, handoffMost)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var s handoffState
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%s: %w", handoffFile, err)
	}
	if s.Version != handoffVersion {
		return fmt.Errorf("%s: version %d, this program reads %d", handoffFile, s.Version, handoffVersion)
	}
	if s.Moved == nil {
		s.Moved = map[string]int64{}
	}
	h.state = s
	return nil
}

// save makes the state durable. h.mu is held.
func (h *Handoff) save() error {
	if h.state.State == HandoffNone {
		return nil
	}
	h.state.Version = handoffVersion
	b, err := json.Marshal(&h.state)
	if err != nil {
		return err
	}
	if err := faultfs.WriteFile(h.d.fs, h.d.dir, handoffFile, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("handoff: %w", err)
	}
	return nil
}
