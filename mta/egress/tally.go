package egress

import (
	"sync"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// tally counts what this node sent, for people. Limits have counts of their own.
type tally struct {
	mu    sync.Mutex
	total map[member]int64
	day   int // of the year, in UTC
	today map[daily]int64
}

type member struct{ pool, source string }

type daily struct{ source, account string }

// maxTally bounds the counts of a day: there is one for each site without a provider.
const maxTally = 10_000

// add counts n messages of a source to a provider, or a site; warm: its day is of interest.
func (t *tally) add(pool, account, source string, n int, warm bool, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.total == nil {
		t.total = map[member]int64{}
	}
	t.total[member{pool, source}] += int64(n)
	if !warm {
		return
	}
	if day := now.UTC().YearDay(); t.today == nil || t.day != day {
		t.day, t.today = day, map[daily]int64{}
	}
	key := daily{source, account}
	if _, known := t.today[key]; known || len(t.today) < maxTally {
		t.today[key] += int64(n)
	}
}

// Sent is how many messages this node sent by a source for a pool since it started.
func (g *Gate) Sent(pool, source string) int64 {
	g.tally.mu.Lock()
	defer g.tally.mu.Unlock()
	return g.tally.total[member{pool, source}]
}

// SentToday is how many messages this node sent by each source in warm-up on this day of UTC: by provider, or site.
func (g *Gate) SentToday(source string) map[string]int64 {
	g.tally.mu.Lock()
	defer g.tally.mu.Unlock()
	out := map[string]int64{}
	if g.tally.day != time.Now().UTC().YearDay() {
		return out
	}
	for k, n := range g.tally.today {
		if k.source == source {
			out[k.account] = n
		}
	}
	return out
}

// loops remembers why closed loops slowed.
type loops struct {
	mu      sync.Mutex
	reasons map[throttle.Key]string
}

func (l *loops) note(c *throttle.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case c.Factor >= 1:
		delete(l.reasons, c.Key)
	case c.Reason != "" && (len(l.reasons) < maxTally || l.reasons[c.Key] != ""):
		if l.reasons == nil {
			l.reasons = map[throttle.Key]string{}
		}
		l.reasons[c.Key] = c.Reason
	}
}

func (l *loops) why(k throttle.Key) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reasons[k]
}

// contacts remembers which authorities are in contact.
type contacts struct {
	mu   sync.Mutex
	list map[string]Contact
}

// Contact is the state of the link to an authority: a Godwit proxy or another node.
type Contact struct {
	Up    bool
	Dead  bool      // its process is gone: connecting is refused
	Since time.Time // when that changed
}

func (c *contacts) note(name string, up, dead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list == nil {
		c.list = map[string]Contact{}
	}
	if old, known := c.list[name]; !known || old.Up != up || old.Dead != dead {
		c.list[name] = Contact{up, dead, time.Now()}
	}
}

// Contact tells of the link to an authority; false when there is none of that name.
func (g *Gate) Contact(name string) (Contact, bool) {
	g.links.contacts.mu.Lock()
	defer g.links.contacts.mu.Unlock()
	c, ok := g.links.contacts.list[name]
	return c, ok
}
