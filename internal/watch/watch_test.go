package watch

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func peer(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func newWriter(t testing.TB, o Options) *Writer {
	t.Helper()
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func content(t testing.TB, w *Writer) []byte {
	t.Helper()
	var b bytes.Buffer
	if n, err := w.WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatal(n, err)
	}
	return b.Bytes()
}

// TestRoundTrip in virtual time: what goes in comes out, with the exact stamps, from memory and from the file.
func TestRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "watch")
		w := newWriter(t, Options{Path: path, Memory: true})
		start := time.Now()
		a := w.Opened(peer("127.0.0.2:1025"), "open", Accepted)
		time.Sleep(time.Second)
		w.Mail(a, Accepted)
		b := w.Opened(peer("[::ffff:127.0.0.3]:65535"), "open", Limited)
		w.Closed(b)
		time.Sleep(1500 * time.Millisecond)
		w.Mark("killed mta2")
		w.Mail(a, Limited)
		c := w.Opened(peer("[::1]:7"), strings.Repeat("x", maxText+5), Blocked)
		time.Sleep(time.Nanosecond)
		w.Closed(a)
		if r, err := Read(bytes.NewReader(content(t, w))); err != nil || r.Complete || len(r.Mails) != 2 {
			t.Errorf("while it is written: %+v %v", r, err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := 2500 * time.Millisecond
		want := []Conn{
			{Source: 0, Provider: 0, Port: 1025, Close: at + 1, Closed: true},
			{Source: 1, Provider: 0, Port: 65535, Verdict: Limited, Open: time.Second, Close: time.Second, Closed: true},
			{Source: 2, Provider: 1, Port: 7, Verdict: Blocked, Open: at},
		}
		for i := range r.Conns {
			r.Conns[i].opened, r.Conns[i].closed = 0, 0
		}
		if !reflect.DeepEqual(r.Conns, want) || c != 2 {
			t.Errorf("connections\n got %+v\nwant %+v", r.Conns, want)
		}
		if want := []Mail{{time.Second, 0, Accepted}, {at, 0, Limited}}; !reflect.DeepEqual(r.Mails, want) {
			t.Errorf("MAILs %+v", r.Mails)
		}
		if fmt.Sprint(r.Sources) != "[127.0.0.2 127.0.0.3 ::1]" || r.Providers[0] != "open" || len(r.Providers[1]) != maxText {
			t.Errorf("%v %v", r.Sources, r.Providers)
		}
		if len(r.Marks) != 1 || r.Marks[0] != (Mark{at, "killed mta2"}) {
			t.Errorf("marks %+v", r.Marks)
		}
		if !r.Start.Equal(start) || r.Period != DefaultPeriod || r.End != at+1 || !r.Complete {
			t.Errorf("start %v period %v end %v complete %v", r.Start, r.Period, r.End, r.Complete)
		}
		if len(r.Blind()) != 0 || len(r.Stalls(0)) != 0 || len(r.Beats) != 3 {
			t.Errorf("beats %+v", r.Beats)
		}
		whole, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(whole, content(t, w)) {
			t.Error("memory and file differ")
		}
	})
}

// TestStallIsSeen: the clock jumps between two heartbeats, as when the process stands still.
func TestStallIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, Options{})
		time.Sleep(102 * time.Millisecond) // the last beat was 2 ms ago
		w.mu.Lock()
		w.began = w.began.Add(-40 * time.Millisecond)
		w.mu.Unlock()
		time.Sleep(10 * time.Second)
		w.Close()
		r, err := Read(bytes.NewReader(content(t, w)))
		if err != nil {
			t.Fatal(err)
		}
		const ms = time.Millisecond
		want := []Span{{100 * ms, 145 * ms}}
		if got := r.Stalls(StallLimit); !reflect.DeepEqual(got, want) {
			t.Errorf("stalls %v, want %v", got, want)
		}
		if got := r.Stalls(40 * ms); len(got) != 0 {
			t.Errorf("a beat that is 40 ms late is not more than 40 ms late: %v", got)
		}
		if n := len(r.Beats); n < 10 || n > 13 || len(r.Blind()) != 0 {
			t.Errorf("%d beats, blind %v", n, r.Blind())
		}
	})
}

func TestBlind(t *testing.T) {
	r := &Record{Period: DefaultPeriod, End: 9 * time.Second, Beats: []Beat{
		{time.Second, 5 * time.Millisecond}, {5 * time.Second, 3500 * time.Millisecond}, {7 * time.Second, 5 * time.Millisecond}}}
	want := []Span{{5 * time.Second, 6995 * time.Millisecond}, {7 * time.Second, 9 * time.Second}}
	if got := r.Blind(); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestDamage: a torn file gives what stands before; a changed byte is found.
func TestDamage(t *testing.T) {
	w := newWriter(t, Options{})
	c := w.Opened(peer("127.0.0.2:1"), "open", Accepted)
	for range 100 {
		w.Mail(c, Accepted)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	first := len(content(t, w))
	for range 100 {
		w.Mail(c, Accepted)
	}
	w.Close()
	whole := content(t, w)
	for n := range whole {
		r, err := Read(bytes.NewReader(whole[:n]))
		if n != first && !errors.Is(err, ErrTorn) && !errors.Is(err, ErrCorrupt) && (r == nil || r.Complete) {
			t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
		}
		if n >= first && (r == nil || len(r.Mails) < 100) {
			t.Fatalf("%d bytes: the first block is lost", n)
		}
		changed := bytes.Clone(whole)
		changed[n] ^= 0x20
		if _, err := Read(bytes.NewReader(changed)); err == nil {
			t.Fatalf("byte %d was changed and nobody noticed", n)
		}
	}
}

func TestNilWriter(t *testing.T) {
	var w *Writer
	w.Mail(w.Opened(peer("127.0.0.1:1"), "p", Accepted), Accepted)
	w.Closed(0)
	w.Mark("x")
	if w.Flush() != nil || w.Close() != nil {
		t.Error("nil must do nothing")
	}
}

func TestFileErrors(t *testing.T) {
	if _, err := New(Options{Path: filepath.Join(t.TempDir(), "no", "file")}); err == nil {
		t.Error("New made a file in a folder that is not there")
	}
	if _, err := ReadFile(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	w := newWriter(t, Options{Path: filepath.Join(t.TempDir(), "w")})
	w.flushing.Lock()
	w.file.Close()
	w.flushing.Unlock()
	w.Mark("x")
	if w.Flush() == nil {
		t.Error("a write that failed is not told")
	}
	w.flushing.Lock()
	w.file, w.err = nil, nil
	w.flushing.Unlock()
}

// TestConcurrent: whatever is written at once, the order is that of the stamps and nothing is lost.
func TestConcurrent(t *testing.T) {
	w := newWriter(t, Options{Path: filepath.Join(t.TempDir(), "w")})
	const workers, each = 8, 500
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for range each {
				c := w.Opened(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(i)}), 1), "p", Accepted)
				w.Mail(c, Accepted)
				w.Closed(c)
				if i == 0 {
					_ = w.Flush()
				}
			}
		})
	}
	wg.Wait()
	w.Close()
	r, err := Read(bytes.NewReader(content(t, w)))
	if err != nil {
		t.Fatal(err)
	}
	rep := Analyse(r, Query{Default: Limit{Connections: 1}})
	if len(rep.Groups) != workers || len(rep.Faults()) != 0 {
		t.Errorf("%d groups, faults %v", len(rep.Groups), rep.Faults())
	}
	for _, g := range rep.Groups {
		if g.Mails != each || g.Conns != each || g.Open.N != 1 {
			t.Errorf("%+v", g)
		}
	}
	last := time.Duration(0)
	for _, m := range r.Mails {
		if m.At < last {
			t.Fatal("stamps go back")
		}
		last = m.At
	}
}

func FuzzRead(f *testing.F) {
	w := newWriter(f, Options{})
	w.Mail(w.Opened(peer("127.0.0.2:1"), "open", Accepted), Limited)
	w.Mark("m")
	w.Close()
	var b bytes.Buffer
	if _, err := w.WriteTo(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes()[len(Magic)+blockHead:])
	f.Add([]byte{0, kindStart, 0, 1, 2, 3, 4, 5, 6, 7, 8, 5, kindBeat, 5, 4, kindEnd, 0})
	f.Fuzz(func(t *testing.T, payload []byte) {
		head := frame(payload)
		r, err := Read(bytes.NewReader(append(append([]byte(Magic), head[:]...), payload...)))
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTorn) {
			t.Fatal(err)
		}
		if r != nil {
			rep := Analyse(r, Query{Default: Limit{Rate: 1, Connections: 1}})
			rep.Faults()
			if err := rep.WriteText(&bytes.Buffer{}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func BenchmarkMail(b *testing.B) {
	w := newWriter(b, Options{Path: filepath.Join(b.TempDir(), "w")})
	c := w.Opened(peer("127.0.0.2:1"), "open", Accepted)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			w.Mail(c, Accepted)
		}
	})
}

func BenchmarkAnalyse(b *testing.B) {
	r := &Record{Period: DefaultPeriod, Sources: make([]netip.Addr, 4), Providers: []string{"p"}}
	for i := range 4 {
		r.Sources[i] = netip.AddrFrom4([4]byte{127, 0, 0, byte(i)})
		r.Conns = append(r.Conns, Conn{Source: i})
	}
	for i := range 1_000_000 {
		r.Mails = append(r.Mails, Mail{At: time.Duration(i) * 250 * time.Microsecond, Conn: i % 4})
	}
	for b.Loop() {
		Analyse(r, Query{Default: Limit{Rate: 1000}})
	}
}
