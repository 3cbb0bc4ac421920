//go:build cgo && linux

package duckdb

import (
	"errors"
	"syscall"
	"testing"
)

func TestLaneIsOfLowPriority(t *testing.T) {
	priority := func() int {
		p, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
		if err != nil {
			t.Fatal(err)
		}
		return 20 - p // as the kernel has it: 40 to 1
	}
	before := priority()
	l := newLane()
	defer l.close()
	failed := errors.New("it failed")
	var got int
	if err := l.do(func() error { got = priority(); return failed }); !errors.Is(err, failed) {
		t.Errorf("error %v", err)
	}
	if want := max(before, niceness); got != want {
		t.Errorf("niceness %d, not %d", got, want)
	}
	if priority() != before {
		t.Error("another thread changed")
	}
}
