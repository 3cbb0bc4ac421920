package main

import "testing"

func TestGCPercent(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{{0, 1000}, {8 << 20, 1000}, {24 << 20, 300}, {48 << 20, 100}, {320 << 20, 100}, {640 << 20, 50}, {8 << 30, 20}} {
		if got := gcPercent(c.live); got != c.want {
			t.Errorf("live %d MiB: %d, want %d", c.live>>20, got, c.want)
		}
	}
}
