package queue

import (
	"context"
	"sync"

	"github.com/godwit-mta/godwit/internal/mail"
)

// bounded is a gate that allows so many connections to each ready queue.
type bounded struct {
	most int

	mu     sync.Mutex
	open   map[string]int
	wanted map[string]Demand
}

func newBounded(most int) *bounded {
	return &bounded{most: most, open: map[string]int{}, wanted: map[string]Demand{}}
}

func (b *bounded) Seek(d Demand) (leases []Lease) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ; d.N > 0 && b.open[d.Key] < b.most; d.N-- {
		b.open[d.Key]++
		leases = append(leases, &boundedLease{gate: b, key: d.Key})
	}
	b.wanted[d.Key] = d
	return leases
}

func (*bounded) Limited(Flow) bool       { return false }
func (*bounded) Admit(Flow, func()) bool { return true }

type boundedLease struct {
	openLease
	gate *bounded
	key  string
}

// Close gives the connection to the next who asked.
func (l *boundedLease) Close(bool) {
	b := l.gate
	b.mu.Lock()
	b.open[l.key]--
	d := b.wanted[l.key]
	if d.N > 0 {
		d.N--
		b.wanted[l.key] = d
		b.open[l.key]++
		b.mu.Unlock()
		d.Take(&boundedLease{gate: b, key: l.key})
		return
	}
	b.mu.Unlock()
}

// Slot implements Lease.
func (*boundedLease) Slot(context.Context, Asker) (mail.Pass, error) { return nil, nil }
