package accept

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestLargeUploadsTakeNoMemory holds the heap down while many large messages
// come in at once, all of them caught in the middle.
func TestLargeUploadsTakeNoMemory(t *testing.T) {
	const uploads, size = 20, 20 << 20
	s := &spool{discard: true}
	d := newDoor(t, s, nil)
	var half, done sync.WaitGroup
	half.Add(uploads)
	goOn := make(chan struct{})
	for i := range uploads {
		done.Go(func() {
			inj := injection()
			if i%2 == 0 {
				inj.SizeHint = size
			}
			gate := &gate{signal: half.Done, wait: goOn}
			r := io.MultiReader(strings.NewReader("A: 1\r\n\r\n"), &endless{left: size / 2}, gate, &endless{left: size / 2})
			if _, err := d.Message(context.Background(), inj, r); err != nil {
				t.Error(err)
			}
		})
	}
	half.Wait()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 16<<20 {
		t.Errorf("%d uploads hold %d MiB of heap", uploads, m.HeapAlloc>>20)
	}
	close(goOn)
	done.Wait()
	if len(s.batches) != uploads || len(s.files) != uploads {
		t.Fatalf("%d batches, %d files", len(s.batches), len(s.files))
	}
	for _, b := range s.batches {
		if f := s.files[b.Body.Path]; f.size != b.Body.Size || b.Body.Size < size || !f.committed {
			t.Fatalf("file has %d bytes, body %d", f.size, b.Body.Size)
		}
	}
}

// gate is an empty part of a stream that waits.
type gate struct {
	once   atomic.Bool
	signal func()
	wait   chan struct{}
}

func (g *gate) Read([]byte) (int, error) {
	if g.once.CompareAndSwap(false, true) {
		g.signal()
		<-g.wait
	}
	return 0, io.EOF
}

// TestSizesMeet sends messages around every boundary between chunk, memory and file.
func TestSizesMeet(t *testing.T) {
	const head = "A: 1\r\n\r\n"
	for _, size := range []int64{0, 1, chunkSize - 9, chunkSize - 8, chunkSize - 7, 2 * chunkSize, 3*chunkSize + 5, 1<<20 - 400, 1 << 20, 1<<20 + 1, 2 << 20} {
		for _, hint := range []int64{0, size + int64(len(head)), 10 << 20} {
			s := &spool{}
			d := newDoor(t, s, nil)
			inj := injection()
			inj.SizeHint = hint
			r := io.MultiReader(strings.NewReader(head), &endless{left: size})
			if _, err := d.Message(context.Background(), inj, slow{r, 10007}); err != nil {
				t.Fatal(err)
			}
			want, _ := io.ReadAll(&endless{left: size})
			_, body, _ := strings.Cut(s.body(0), "\r\n\r\n")
			if body != string(want) || s.batches[0].Body.Size != int64(len(s.body(0))) {
				t.Errorf("size %d, hint %d: body of %d bytes came out as %d", size, hint, len(want), len(body))
			}
			if inFile := s.batches[0].Body.Path != ""; size <= 1<<19 && hint < 1<<20 && inFile || size > 1<<20 && !inFile {
				t.Errorf("size %d, hint %d: in a file: %v", size, hint, inFile)
			}
			if !d.memory.budget.TryAcquire(d.memory.size) {
				t.Errorf("size %d, hint %d: memory budget was not given back", size, hint)
			}
		}
	}
}

func TestHeaderLargerThanAChunk(t *testing.T) {
	s := &spool{}
	d := newDoor(t, s, nil)
	in := strings.Repeat("X: "+strings.Repeat("y", 100)+"\r\n", 2000) + "Bcc: me@x\r\n\r\nbody"
	if _, err := d.Message(context.Background(), injection(), strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	if got := s.body(0); !strings.HasSuffix(got, strings.Replace(in, "Bcc: me@x\r\n", "", 1)) {
		t.Error("header changed")
	}
}

// TestMemoryPressure: what cannot get more memory goes to a file, what has none waits.
func TestMemoryPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &spool{}
		d := newDoor(t, s, nil)
		release, err := d.Reserve(t.Context(), 1<<40)
		if err != nil {
			t.Fatal(err)
		}
		if !d.memory.budget.TryAcquire(d.memory.size - d.memory.size/4 - chunkSize) {
			t.Fatal("a quarter of the budget is the most")
		}
		r := io.MultiReader(strings.NewReader("A: 1\r\n\r\n"), &endless{left: 3 * chunkSize})
		if _, err := d.Message(t.Context(), injection(), r); err != nil || s.batches[0].Body.Path == "" {
			t.Fatalf("message did not go to a file: %v", err)
		}
		d.memory.budget.TryAcquire(chunkSize)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for _, tt := range []struct {
			ctx  context.Context
			took time.Duration
			code int
		}{{ctx, 10 * time.Second, 451}, {t.Context(), memoryWait, 452}} {
			begin := time.Now()
			_, err = d.Message(tt.ctx, injection(), strings.NewReader("\r\n"))
			var e *Error
			if !errors.As(err, &e) || e.Code != tt.code || time.Since(begin) != tt.took {
				t.Errorf("without memory: %v after %v", err, time.Since(begin))
			}
		}
		answer := make(chan error, 1)
		go func() {
			_, err := d.Message(t.Context(), injection(), strings.NewReader("\r\n"))
			answer <- err
		}()
		synctest.Wait()
		release()
		release()
		if err := <-answer; err != nil {
			t.Errorf("after memory became free: %v", err)
		}
	})
}

func TestHasHigh(t *testing.T) {
	for n := range 100 {
		b := make([]byte, n)
		if hasHigh(b) {
			t.Fatalf("%d bytes: false alarm", n)
		}
		for i := range b {
			b[i] = 0x80
			if !hasHigh(b) {
				t.Fatalf("byte %d of %d not seen", i, n)
			}
			b[i] = 0x7f
		}
	}
}

func BenchmarkMessage10KB(b *testing.B) {
	d := newDoor(b, &spool{}, func(_ *Options, d *Deps) { d.Queue = sinkQueue{} })
	in := "From: a@x.example\r\nTo: b@y.example\r\nDate: Sat, 21 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@x.example>\r\nSubject: hello\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n" +
		strings.Repeat(strings.Repeat("x", 70)+"\r\n", 140)
	inj := injection()
	b.ReportAllocs()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if _, err := d.Message(b.Context(), inj, strings.NewReader(in)); err != nil {
			b.Fatal(err)
		}
	}
}
