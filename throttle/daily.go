package throttle

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

const (
	day = 24 * time.Hour
	// lookAgain bounds the wait for midnight: the time of day may be set meanwhile.
	lookAgain = 10 * time.Minute
	// savedVersion is of the JSON that Save writes.
	savedVersion = 1
)

// dailyCounts counts message permits of the day of UTC, for keys with a daily limit.
// They outlive the key's other state, and the process by Save and Restore.
type dailyCounts struct {
	day    int64 // since 1970
	counts map[Key]int64
}

func dayOf(wall time.Time) int64 {
	const seconds = int64(day / time.Second)
	return int64(math.Floor(float64(wall.Unix()) / float64(seconds)))
}

// turn begins a new day. A clock that is set back a little over midnight does not make the day anew.
func (d *dailyCounts) turn(wall time.Time) {
	if today := dayOf(wall); today != d.day && today != d.day-1 {
		d.day = today
		clear(d.counts)
	}
}

// add counts n permits, or takes back -n.
func (d *dailyCounts) add(k *key, n int64) {
	if k.limits.Daily > 0 {
		d.counts[k.id] = max(d.counts[k.id]+n, 0)
	}
}

// left is the time until the next day begins.
func (d *dailyCounts) left(wall time.Time) time.Duration {
	return time.Unix((d.day+1)*int64(day/time.Second), 0).Sub(wall)
}

// untilNext is how long a key that used up its day sleeps.
func (d *dailyCounts) untilNext(wall time.Time) time.Duration {
	return min(max(d.left(wall), time.Millisecond), lookAgain)
}

// dailyLeft is how many messages the day has left.
func (a *Authority) dailyLeft(k *key) int {
	limit := a.partOf(int(k.limits.Daily))
	if limit == unlimited {
		return unlimited
	}
	return limit - int(a.daily.counts[k.id])
}

// saved is what Save writes: docs/formats/daily-counts.md.
type saved struct {
	Version int          `json:"version"`
	Day     string       `json:"day"`
	Counts  []savedCount `json:"counts"`
}

type savedCount struct {
	Source   string `json:"source,omitempty"`
	Pool     string `json:"pool,omitempty"`
	Tenant   string `json:"tenant,omitempty"`
	Provider string `json:"provider,omitempty"`
	Site     string `json:"site,omitempty"`
	Domain   string `json:"domain,omitempty"`
	Count    int64  `json:"count"`
}

// Save returns the daily counts, for Restore after a restart. They are as of docs/formats/daily-counts.md.
func (a *Authority) Save() ([]byte, error) {
	a.daily.turn(a.o.Wall())
	s := saved{Version: savedVersion, Day: time.Unix(a.daily.day*int64(day/time.Second), 0).UTC().Format(time.DateOnly)}
	for k, n := range a.daily.counts {
		s.Counts = append(s.Counts, savedCount{k.Source, k.Pool, k.Tenant, k.Provider, k.Site, k.Domain, n})
	}
	return json.Marshal(s)
}

// Restore adds the counts that Save returned, if they are of today. An error means
// that b is not what Save writes; nothing is changed then.
func (a *Authority) Restore(b []byte) error {
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("throttle: daily counts: %w", err)
	}
	if s.Version != savedVersion {
		return fmt.Errorf("throttle: daily counts: version %d is not known (this program reads %d)", s.Version, savedVersion)
	}
	of, err := time.Parse(time.DateOnly, s.Day)
	if err != nil {
		return fmt.Errorf("throttle: daily counts: %w", err)
	}
	a.daily.turn(a.o.Wall())
	if dayOf(of) != a.daily.day {
		return nil
	}
	for _, c := range s.Counts {
		k := Key{c.Source, c.Pool, c.Tenant, c.Provider, c.Site, c.Domain}
		a.daily.counts[k] += max(c.Count, 0)
	}
	return nil
}
