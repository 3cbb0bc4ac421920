package load

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

const redraw = 200 * time.Millisecond

// progress shows a bar until the returned function is called. Where there is no terminal it shows nothing.
func (l *Load) progress() (stop func()) {
	f, ok := l.show.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}
	}
	return l.bar(f)
}

// bar draws on w.
func (l *Load) bar(w io.Writer) (stop func()) {
	total := l.opts.Count
	if total == 0 {
		total = -1 // a spinner
	}
	bar := progressbar.NewOptions64(total, progressbar.OptionSetWriter(w), progressbar.OptionShowCount(),
		progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(30))
	began, done := time.Now(), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(redraw)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				acked, refused, unknown := l.Counts()
				bar.Describe(fmt.Sprintf("accepted %.0f/s, refused %d, unknown %d", ratio(float64(acked), time.Since(began).Seconds()), refused, unknown))
				_ = bar.Set64(acked) // a terminal that cannot be written to is no reason to stop
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
		_ = bar.Clear()
		_ = bar.Close()
	}
}
