package check

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

// sideBySide calls f for 0 to n-1, as many at once as there are processors, until one fails.
func sideBySide(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		next atomic.Int64
		all  sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for range min(n, runtime.GOMAXPROCS(0)) {
		all.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(ctx, i); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
					cancel()
				}
			}
		})
	}
	all.Wait()
	if len(errs) > 0 {
		return errs[0] // the others were told to end
	}
	return ctx.Err()
}
