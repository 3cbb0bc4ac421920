package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc: USER_HZ is 100 on every Linux.
const tick = 10 * time.Millisecond

// cpuOf is the user and system time that a process has used.
func cpuOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field, the name, is in brackets and may hold spaces.
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, b)
	}
	user, err := strconv.ParseInt(f[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * tick, err
}

// memoryOf reads a field of /proc/PID/status, such as RssAnon, in bytes.
func memoryOf(pid int, field string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no %s", pid, field)
}

// host is what the whole machine has done so far.
type host struct{ busy, stolen, all time.Duration }

func readHost() (host, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return host{}, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var h host
	for i, s := range strings.Fields(line)[1:9] { // user nice system idle iowait irq softirq steal
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return host{}, err
		}
		d := time.Duration(n) * tick
		h.all += d
		switch i {
		case 3, 4:
		case 7:
			h.stolen += d
		default:
			h.busy += d
		}
	}
	return h, nil
}

// disturbance says how much of the machine others took: processes that are
// not ours, and the hypervisor. It is a share of all CPUs, in percent.
func disturbance(before, after host, ours time.Duration) (foreign, steal float64) {
	all := float64(after.all - before.all)
	if all <= 0 {
		return 0, 0
	}
	return 100 * max(0, float64(after.busy-before.busy-ours)) / all, 100 * float64(after.stolen-before.stolen) / all
}
