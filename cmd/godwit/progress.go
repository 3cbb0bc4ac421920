package main

import (
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// showProgress draws a bar, where there is a terminal, until the returned function is called. total 0 is not known.
func showProgress(e *env, total int64, done func() int64) (stop func()) {
	f, ok := e.errOut.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}
	}
	if total == 0 {
		total = -1
	}
	bar := progressbar.NewOptions64(total, progressbar.OptionSetWriter(f), progressbar.OptionShowCount(), progressbar.OptionShowIts(),
		progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(30))
	ended := make(chan struct{})
	var drawing sync.WaitGroup
	drawing.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				_ = bar.Set64(done()) // a terminal that cannot be written to is no reason to stop
			}
		}
	})
	return func() {
		close(ended)
		drawing.Wait()
		_ = bar.Clear()
		_ = bar.Close()
	}
}
