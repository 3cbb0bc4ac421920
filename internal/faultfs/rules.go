package faultfs

import (
	"path"
	"path/filepath"
)

// Op names a kind of call for a Rule.
type Op string

// The calls that a Rule can fail.
const (
	OpOpen     Op = "open"
	OpRemove   Op = "remove"
	OpRename   Op = "rename" // Name matches either name
	OpReadDir  Op = "readdir"
	OpMkdir    Op = "mkdir"
	OpStat     Op = "stat"
	OpSyncDir  Op = "syncdir"
	OpRead     Op = "read"
	OpWrite    Op = "write" // WriteAt and Writev
	OpSync     Op = "sync"  // Datasync and Sync
	OpAllocate Op = "allocate"
	OpTruncate Op = "truncate"
)

// Rule makes calls fail.
type Rule struct {
	Op   Op
	Name string // path.Match pattern of the file's base name; "" is every file
	Nth  int    // the first matching call that fails, counted from 1; 0 is 1
	// Times is how many calls fail from the Nth on; 0 is all of them.
	Times int
	Err   error // what they return
	// Short is the number of bytes that a failing write still writes.
	Short int
}

// activeRule counts the calls a rule has matched.
type activeRule struct {
	Rule
	seen int
}

// hit reports whether this call fails by the rule.
func (r *activeRule) hit(op Op, names ...string) bool {
	if r.Op != op {
		return false
	}
	matched := r.Name == ""
	for _, name := range names {
		if ok, err := path.Match(r.Name, filepath.Base(name)); ok && err == nil {
			matched = true
		}
	}
	if !matched {
		return false
	}
	r.seen++
	first := max(r.Nth, 1)
	return r.seen >= first && (r.Times == 0 || r.seen < first+r.Times)
}

// Inject adds a rule; the returned function takes it out again.
func (s *Sim) Inject(r Rule) (remove func()) {
	a := &activeRule{Rule: r}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = append(s.rules, a)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, have := range s.rules {
			if have == a {
				s.rules = append(s.rules[:i], s.rules[i+1:]...)
				return
			}
		}
	}
}

// check returns the rule that fails this call, or the error of a power cut. Sim.mu is held.
func (s *Sim) check(op Op, names ...string) (*activeRule, error) {
	if s.crashed {
		return nil, ErrCrashed
	}
	var failing *activeRule
	for _, r := range s.rules {
		if r.hit(op, names...) && failing == nil {
			failing = r
		}
	}
	if failing != nil {
		return failing, failing.Err
	}
	return nil, nil
}
