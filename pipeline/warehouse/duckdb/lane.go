//go:build cgo

package duckdb

import (
	"runtime"
	"syscall"
)

// niceness is of threads that write in batches: others who want a CPU get most of it, as a batch is long and nobody waits for it.
const niceness = 10

// lane runs the database's long work on a thread of low priority, one piece after the other. Only calls into the database belong there:
// Go code on a thread that does not get a CPU would hold up the collection of garbage.
type lane struct{ work chan func() }

func newLane() *lane {
	l := &lane{make(chan func())}
	go l.run()
	return l
}

func (l *lane) run() {
	runtime.LockOSThread() // and never unlock it: the thread ends with the goroutine, for its priority could not be raised again
	if runtime.GOOS == "linux" {
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, niceness) // there it is of the thread; if it fails, all is as it was
	}
	for f := range l.work {
		f()
	}
}

// do calls f and waits for it.
func (l *lane) do(f func() error) (err error) {
	done := make(chan struct{})
	l.work <- func() {
		defer close(done)
		err = f()
	}
	<-done
	return err
}

func (l *lane) close() { close(l.work) }
