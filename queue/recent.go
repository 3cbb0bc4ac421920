package queue

import (
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// recentFor is how long an imported message is known after it has left the
// queue: as long as a node that was not answered may ask again.
const recentFor = 10 * time.Minute

// recentImports are the messages that were imported a short while ago: asked
// again, they are skipped although they may be delivered by now. Two
// generations bound its memory to what comes in within twice recentFor.
type recentImports struct {
	mu       sync.Mutex
	now, old map[mail.ID]struct{}
	turned   time.Time
}

func (r *recentImports) turn(at time.Time) {
	if at.Sub(r.turned) > recentFor {
		r.old, r.now, r.turned = r.now, map[mail.ID]struct{}{}, at
	}
}

func (r *recentImports) add(id mail.ID, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(at)
	r.now[id] = struct{}{}
}

func (r *recentImports) has(id mail.ID, at time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(at)
	_, now := r.now[id]
	_, old := r.old[id]
	return now || old
}
