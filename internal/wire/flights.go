package wire

import (
	"context"
	"fmt"
	"sync"
)

// Flights lets requests about the same, such as with the same idempotency key, pass one after the other. The zero value is ready.
// It is safe for concurrent use.
type Flights struct {
	mu  sync.Mutex
	now map[string]chan struct{}
}

// Enter waits until no other request holds key; leave must be called. It returns the context's error, wrapped, when that ends before.
func (f *Flights) Enter(ctx context.Context, key string) (leave func(), err error) {
	for {
		f.mu.Lock()
		other, taken := f.now[key]
		if !taken {
			if f.now == nil {
				f.now = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			f.now[key] = mine
			f.mu.Unlock()
			return func() {
				f.mu.Lock()
				delete(f.now, key)
				f.mu.Unlock()
				close(mine)
			}, nil
		}
		f.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a request about the same: %w", ctx.Err())
		}
	}
}

// Len is how many keys are held.
func (f *Flights) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.now)
}
