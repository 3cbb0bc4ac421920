package event

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
)

// appendNumbered adds n events whose Attempt counts on from *from.
func appendNumbered(t testing.TB, l *Log, from *int, n int) {
	t.Helper()
	for range n {
		*from++
		e := Event{Kind: Delivered, Time: time.Now(), Attempt: *from, Reply: strings.Repeat("r", *from%50)}
		if _, err := l.Append(context.Background(), nil, []Event{e}); err != nil {
			t.Fatal(err)
		}
	}
}

// fileEvents reads all event files at path, oldest first, and returns the Attempt numbers.
func fileEvents(t testing.TB, path string) (numbers []int, files int) {
	t.Helper()
	before, after := (&FileSink{o: FileSinkOptions{Path: path}}).stem()
	names, _ := filepath.Glob(before + "*" + after + "*")
	for _, name := range append(names, path) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, gzipSuffix) {
			z, err := gzip.NewReader(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			if b, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		for line := range bytes.Lines(b) {
			var e Event
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatalf("%s: %v: %q", name, err, line)
			}
			numbers = append(numbers, e.Attempt)
		}
	}
	return numbers, len(names) + 1
}

// exactlyOnce checks that the files hold 1 … n, each once, in order.
func exactlyOnce(t testing.TB, path string, n int) (files int) {
	t.Helper()
	got, files := fileEvents(t, path)
	for i, number := range got {
		if number != i+1 {
			t.Fatalf("event %d is number %d", i, number)
		}
	}
	if len(got) != n {
		t.Fatalf("%d events in the file, want %d", len(got), n)
	}
	return files
}

func newSink(t testing.TB, l *Log, o FileSinkOptions, fsys faultfs.FS) *FileSink {
	t.Helper()
	c, err := l.Cursor("file")
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewFileSink(o, FileSinkDeps{Cursor: c, FS: fsys})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// drain writes what the log has, without Run; commit says whether the place is committed afterwards.
func drain(t testing.TB, s *FileSink, commit bool) {
	t.Helper()
	if err := s.restore(); err != nil {
		t.Fatal(err)
	}
	pump(t, s)
	if commit {
		if err := s.idle(); err != nil {
			t.Fatal(err)
		}
	}
}

// pump copies batches until the log is at its end.
func pump(t testing.TB, s *FileSink) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		b, err := s.cursor.Next(ctx)
		if err != nil {
			return
		}
		if err := s.write(b); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFileSinkRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "out", "events.log")
		o := DefaultFileSinkOptions()
		o.Path = path
		n := 0
		for range 3 {
			l := openLog(t, filepath.Join(dir, "log"), smallLog(), LogDeps{})
			s := newSink(t, l, o, nil)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			go func() { done <- s.Run(ctx) }()
			appendNumbered(t, l, &n, 30)
			time.Sleep(3 * time.Second) // virtual: past the sync interval
			synctest.Wait()
			exactlyOnce(t, path, n)
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			closeLog(t, l)
		}
	})
}

func TestFileSinkRepeatsExactly(t *testing.T) {
	dir := t.TempDir()
	o := FileSinkOptions{Path: filepath.Join(dir, "events.log")}
	n := 0
	l := openLog(t, filepath.Join(dir, "log"), smallLog(), LogDeps{})
	appendNumbered(t, l, &n, 20)
	s := newSink(t, l, o, nil)
	drain(t, s, true)
	appendNumbered(t, l, &n, 20)
	pump(t, s) // written, never committed
	s.file.Close()
	exactlyOnce(t, o.Path, n)

	// A new run writes the last 20 over themselves, and cuts off what is not from the log.
	f, err := os.OpenFile(o.Path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"half a li`)
	f.Close()
	s = newSink(t, l, o, nil)
	drain(t, s, true)
	exactlyOnce(t, o.Path, n)
	appendNumbered(t, l, &n, 5)
	pump(t, s)
	exactlyOnce(t, o.Path, n)
	s.file.Close()
}

func TestFileSinkRotates(t *testing.T) {
	dir := t.TempDir()
	o := FileSinkOptions{Path: filepath.Join(dir, "events.log"), RotateSize: 4 << 10, Compress: true}
	l := openLog(t, filepath.Join(dir, "log"), smallLog(), LogDeps{})
	s := newSink(t, l, o, nil)
	n := 0
	for i := range 12 {
		appendNumbered(t, l, &n, 12)
		if i == 0 {
			drain(t, s, true)
		} else {
			pump(t, s)
		}
	}
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	if files := exactlyOnce(t, o.Path, n); files < 3 {
		t.Fatalf("%d files", files)
	}
	if err := s.tidyFiles(context.Background()); err != nil {
		t.Fatal(err)
	}
	files := exactlyOnce(t, o.Path, n)
	if zipped, _ := filepath.Glob(filepath.Join(dir, "*.gz")); len(zipped) != files-1 {
		t.Fatalf("%d of %d files compressed", len(zipped), files-1)
	}
	s.o.KeepFiles = 2
	if err := s.tidyFiles(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, files := fileEvents(t, o.Path); files != 3 || got[len(got)-1] != n {
		t.Fatalf("%d files kept", files)
	}
	s.note.Started = 1
	s.o.RotateEvery = 1
	if !s.due(1) {
		t.Error("an old file is not due")
	}
	s.file.Close()
}

// TestFileSinkPowerCut cuts the power at random calls; the log itself is safe on another volume.
func TestFileSinkPowerCut(t *testing.T) {
	for seed := range 30 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 3))
			dir := t.TempDir()
			o := FileSinkOptions{Path: filepath.Join(dir, "events.log"), RotateSize: 4 << 10}
			n := 0
			for range 5 {
				fsys, err := faultfs.NewSim(dir)
				if err != nil {
					t.Fatal(err)
				}
				l, err := OpenLog(filepath.Join(dir, "log"), smallLog(), LogDeps{FS: fsys})
				if err != nil {
					t.Fatal(err)
				}
				s := newSink(t, l, o, fsys)
				if err := s.restore(); err != nil {
					t.Fatal(err)
				}
				for range r.IntN(12) {
					appendNumbered(t, l, &n, r.IntN(15))
					pump(t, s)
					if r.IntN(2) == 0 {
						if err := s.commit(); err != nil {
							t.Fatal(err)
						}
					}
					if r.IntN(3) == 0 {
						if err := s.cursor.Save(); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := fsys.Crash(r); err != nil {
					t.Fatal(err)
				}
				if s.file != nil {
					s.file.Close()
				}
				_ = l.Close()
			}
			l := openLog(t, filepath.Join(dir, "log"), smallLog(), LogDeps{})
			s := newSink(t, l, o, nil)
			drain(t, s, true)
			s.file.Close()
			exactlyOnce(t, o.Path, n)
		})
	}
}

// TestFileSinkCrashInRotation fails each step of a rotation once and goes on with a new run.
func TestFileSinkCrashInRotation(t *testing.T) {
	for _, rule := range []faultfs.Rule{
		{Op: faultfs.OpRename, Name: "events.log"}, {Op: faultfs.OpSync, Name: "events.log"},
		{Op: faultfs.OpSync, Name: "file.json*", Nth: 1}, {Op: faultfs.OpSync, Name: "file.json*", Nth: 2},
		{Op: faultfs.OpOpen, Name: "events.log"}, {Op: faultfs.OpWrite, Name: "events.log", Short: 700},
	} {
		t.Run(string(rule.Op)+fmt.Sprint(rule.Nth), func(t *testing.T) {
			dir := t.TempDir()
			fsys, err := faultfs.NewSim(dir)
			if err != nil {
				t.Fatal(err)
			}
			o := FileSinkOptions{Path: filepath.Join(dir, "events.log"), RotateSize: 4 << 10}
			l := openLog(t, filepath.Join(dir, "log"), smallLog(), LogDeps{FS: fsys})
			s := newSink(t, l, o, fsys)
			n := 0
			appendNumbered(t, l, &n, 20)
			drain(t, s, true)
			if err := s.cursor.Save(); err != nil {
				t.Fatal(err)
			}
			appendNumbered(t, l, &n, 40)
			rule.Err, rule.Times = syscall.EIO, 1
			remove := fsys.Inject(rule)
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			failed := false
			for {
				b, err := s.cursor.Next(ctx)
				if err == nil {
					err = s.write(b)
				}
				if err != nil {
					failed = ctx.Err() != err
					break
				}
			}
			if !failed {
				t.Fatal("the fault did not show")
			}
			if s.file != nil {
				s.file.Close()
			}
			remove()
			drain(t, s, true)
			exactlyOnce(t, o.Path, n)
			s.file.Close()
		})
	}
}

func TestFileSinkRetriesAfterErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		fsys, err := faultfs.NewSim(dir)
		if err != nil {
			t.Fatal(err)
		}
		l := openLog(t, filepath.Join(dir, "log"), smallLog(), LogDeps{})
		s := newSink(t, l, FileSinkOptions{Path: filepath.Join(dir, "events.log")}, fsys)
		remove := fsys.Inject(faultfs.Rule{Op: faultfs.OpWrite, Name: "events.log", Err: syscall.ENOSPC, Short: 10})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		n := 0
		appendNumbered(t, l, &n, 10) // a full volume of the file never stops the log
		time.Sleep(12 * time.Second) // virtual
		remove()
		time.Sleep(12 * time.Second)
		synctest.Wait()
		exactlyOnce(t, s.o.Path, n)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
	})
}

func TestFileSinkOptionsValidate(t *testing.T) {
	for key, o := range map[string]FileSinkOptions{
		"path": {Path: "/x/.hidden"}, "rotate_size": {RotateSize: 1}, "rotate_every": {RotateEvery: -1}, "keep_files": {KeepFiles: -1},
	} {
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+":") {
			t.Errorf("%s: %v", key, err)
		}
	}
	if err := DefaultFileSinkOptions().Validate(); err != nil {
		t.Error(err)
	}
}

// BenchmarkFind looks messages up in a log of several segments.
func BenchmarkFind(b *testing.B) {
	l := openLog(b, b.TempDir(), LogOptions{Keep: 1 << 50, MaxSize: 10 << 30, SegmentSize: 1 << 20}, LogDeps{})
	var all []mail.ID
	for range 20 {
		all = append(all, fill(b, l, 1)...)
	}
	l.indexSealed(context.Background())
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		got, err := l.Find(context.Background(), all[i%len(all)])
		if err != nil || len(got) != 1 {
			b.Fatal(len(got), err)
		}
	}
	l.Hold(seglog.Pos{})
}
