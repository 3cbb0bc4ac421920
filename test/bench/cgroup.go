package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// memoryGroup makes a memory cgroup, of version 1 or 2, with a limit in bytes.
// It returns its folder and what removes it when its processes are gone.
func memoryGroup(limit int64) (dir string, remove func() error, err error) {
	v1, v2 := "/sys/fs/cgroup/memory", "/sys/fs/cgroup"
	parent, file := v1, "memory.limit_in_bytes"
	if _, err := os.Stat(filepath.Join(v2, "cgroup.controllers")); err == nil {
		parent, file = v2, "memory.max"
		// The controller must be on for children; it may be on already.
		_ = os.WriteFile(filepath.Join(v2, "cgroup.subtree_control"), []byte("+memory"), 0)
	}
	if dir, err = os.MkdirTemp(parent, "godwit-bench-"); err != nil {
		return "", nil, fmt.Errorf("no memory cgroup can be made: %w", err)
	}
	remove = func() error {
		for range 50 { // the kernel needs a moment to see that the processes are gone
			if err = os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(limit, 10)), 0); err != nil {
		return "", nil, errors.Join(fmt.Errorf("the memory cgroup takes no limit: %w", err), remove())
	}
	return dir, remove, nil
}

// groupState tells how close to its limit a memory cgroup came.
func groupState(dir string) string {
	var parts []string
	for _, name := range []string{"memory.max_usage_in_bytes", "memory.failcnt", "memory.peak", "memory.events", "memory.oom_control"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			parts = append(parts, name+" "+strings.Join(strings.Fields(string(b)), " "))
		}
	}
	return strings.Join(parts, ", ")
}
