package stream

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
)

// small makes segments that a few records fill, and keeps one batch in memory.
func small() Options {
	return Options{SegmentBytes: 16 << 10, MaxAppend: 1 << 20, Recent: 1}
}

func openLog(t testing.TB, dir string, o Options, d Deps) *Embedded {
	t.Helper()
	e, err := Open(dir, o, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func openFacts(t testing.TB, e *Embedded) *topic {
	t.Helper()
	top, err := e.Topic(t.Context(), "facts", 2)
	if err != nil {
		t.Fatal(err)
	}
	return top.(*topic)
}

// fill appends n records of about a kilobyte, two a batch, and returns what is in each partition.
func fill(t testing.TB, top Topic, n int) [2]map[int64]string {
	t.Helper()
	all := [2]map[int64]string{{}, {}}
	for i := range n {
		data := fmt.Sprintf("%d %s", i, strings.Repeat("z", 1000))
		offsets, err := top.Append(t.Context(), []Message{{Partition: int32(i % 2), Data: []byte(data)}, {Partition: 1, Data: []byte("b" + data)}})
		if err != nil {
			t.Fatal(err)
		}
		all[i%2][offsets[0]] = data
		all[1][offsets[1]] = "b" + data
	}
	return all
}

// salvage reads a partition to its end, over what is lost.
func salvage(t *testing.T, top *topic, partition int32) (got map[int64]string, lost []*LostError) {
	t.Helper()
	got = map[int64]string{}
	from := int64(0)
	for {
		all, err := top.Read(t.Context(), partition, from)
		if err != nil {
			t.Fatal(err)
		}
		r := all.(*reader)
		for err == nil && r.next < top.end {
			if err = r.fill(t.Context(), 7); err == nil {
				for _, rec := range r.pending {
					got[rec.Offset] = string(rec.Data)
				}
				r.pending = nil
			}
		}
		if err == nil {
			return got, lost
		}
		var l *LostError
		if !errors.As(err, &l) || !errors.Is(err, ErrLost) || l.From != r.next || l.To <= l.From {
			t.Fatalf("at %d: %v", r.next, err)
		}
		if _, again := r.Next(t.Context(), 1); !errors.Is(again, ErrLost) {
			t.Fatalf("the same again: %v", again)
		}
		lost, from = append(lost, l), l.To
	}
}

// TestDamage flips bits in segments: what cannot be read is reported with its offsets, and nothing else is missing.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	e := openLog(t, dir, small(), Deps{})
	all := fill(t, openFacts(t, e), 60)
	if err := e.Rewrite(t.Context(), "facts", func(_ int32, _ int64, data []byte) ([]byte, bool) { return data, string(data[:3]) != "20 " }); err != nil {
		t.Fatal(err)
	}
	more := fill(t, openFacts(t, e), 30)
	for p := range all {
		maps.Copy(all[p], more[p])
		maps.DeleteFunc(all[p], func(offset int64, data string) bool { return offset < 100 && strings.HasPrefix(data, "20 ") })
	}
	_ = e.Close()
	files, _ := filepath.Glob(filepath.Join(dir, "facts", "*", "*"))
	r := rand.New(rand.NewPCG(1, 5))
	for range 300 {
		path := files[r.IntN(len(files))]
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, "MANIFEST") || len(whole) <= 5000 {
			continue
		}
		b := slices.Clone(whole)
		at := r.IntN(len(b))
		b[at] ^= 1 << r.IntN(8)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		checkDamage(t, dir, all, fmt.Sprintf("%s at %d", filepath.Base(path), at))
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func checkDamage(t *testing.T, dir string, all [2]map[int64]string, what string) {
	t.Helper()
	e := openLog(t, dir, small(), Deps{})
	defer e.Close()
	top := openFacts(t, e)
	for p := range int32(2) {
		got, lost := salvage(t, top, p)
		for offset, data := range got {
			if all[p][offset] != data {
				t.Fatalf("%s: offset %d is %.20q, not %.20q", what, offset, data, all[p][offset])
			}
		}
		newest := slices.Max(slices.Collect(maps.Keys(all[p])))
		for offset := range all[p] {
			_, there := got[offset]
			covered := slices.ContainsFunc(lost, func(l *LostError) bool { return offset >= l.From && offset < l.To })
			// The newest commit looks like one that was never finished.
			if !there && !covered && offset < newest-2 {
				t.Fatalf("%s: offset %d is missing and nothing says so: %v", what, offset, lost)
			}
		}
	}
}

// TestNoOffsetTwice: when the newest segment cannot be read, offsets go on behind all that may have been given.
func TestNoOffsetTwice(t *testing.T) {
	dir := t.TempDir()
	e := openLog(t, dir, small(), Deps{})
	top := openFacts(t, e)
	fill(t, top, 40)
	end := top.end
	active := top.records.Tail().Seg
	_ = e.Close()
	path := filepath.Join(dir, "facts", segmentsName, fmt.Sprintf("%016x.seg", active))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[17] ^= 4
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		e = openLog(t, dir, small(), Deps{})
		top = openFacts(t, e)
		offsets, err := top.Append(t.Context(), []Message{{Data: []byte("new")}})
		if err != nil || offsets[0] < end {
			t.Fatalf("offset %v after an end of %d: %v", offsets, end, err)
		}
		end = top.end
		got, lost := salvage(t, top, 0)
		if got[offsets[0]] != "new" || len(lost) != 1 {
			t.Fatalf("%d records, lost %v", len(got), lost)
		}
		_ = e.Close()
	}
}

// TestTornTail cuts and garbles the last commit at every byte: it is gone or whole, and its offsets are given again.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	e := openLog(t, dir, small(), Deps{})
	top := openFacts(t, e)
	all := fill(t, top, 3)
	begin := top.records.Tail()
	if _, err := top.Append(t.Context(), []Message{{Data: []byte("torn")}, {Partition: 1, Data: []byte("too")}}); err != nil {
		t.Fatal(err)
	}
	end := top.records.Tail()
	_ = e.Close()
	path := filepath.Join(dir, "facts", segmentsName, fmt.Sprintf("%016x.seg", begin.Seg))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := begin.Off; cut < end.Off; cut++ {
		b := slices.Clone(whole)
		for i := cut; i < end.Off; i++ {
			b[i] = 0xff
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		e := openLog(t, copyTree(t, dir), small(), Deps{})
		top := openFacts(t, e)
		offsets, err := top.Append(t.Context(), []Message{{Data: []byte("next")}})
		if err != nil || offsets[0] != 6 {
			t.Fatalf("cut at %d: next offset %v, %v", cut, offsets, err)
		}
		got, lost := salvage(t, top, 0)
		if len(got) != len(all[0])+1 || got[6] != "next" || lost != nil {
			t.Fatalf("cut at %d: %d records, lost %v", cut, len(got), lost)
		}
		_ = e.Close()
	}
}

func copyTree(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestRewrite: records are emptied and changed, offsets stay; again and over restarts.
func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	reg := prometheus.NewRegistry()
	for _, recent := range []int64{1, 1 << 20} {
		sub := filepath.Join(dir, fmt.Sprint(recent))
		o := small()
		o.Recent = 1 << 20
		e := openLog(t, sub, o, Deps{Registerer: reg})
		top := openFacts(t, e)
		all := fill(t, top, 50)
		before, _ := top.usage()
		for round, prefix := range []string{"1", "b1", "2", "b"} {
			err := e.Rewrite(t.Context(), "facts", func(p int32, _ int64, data []byte) ([]byte, bool) {
				if strings.HasPrefix(string(data), "3") {
					return fmt.Appendf(nil, "3changed %d", round), true
				}
				return data, !strings.HasPrefix(string(data), prefix)
			})
			if err != nil {
				t.Fatal(err)
			}
			for p := range all {
				maps.DeleteFunc(all[p], func(_ int64, data string) bool { return strings.HasPrefix(data, prefix) })
				for offset, data := range all[p] {
					if strings.HasPrefix(data, "3") {
						all[p][offset] = fmt.Sprintf("3changed %d", round)
					}
				}
				got, lost := salvage(t, top, int32(p))
				if !maps.Equal(got, all[p]) || lost != nil {
					t.Fatalf("round %d, partition %d: %d records, want %d; lost %v", round, p, len(got), len(all[p]), lost)
				}
			}
			if round%2 == 1 {
				_ = e.Close()
				e = openLog(t, sub, o, Deps{Registerer: reg})
				top = openFacts(t, e)
			}
		}
		if after, _ := top.usage(); after >= before {
			t.Errorf("%d bytes before, %d after", before, after)
		}
		start, err := top.Start(t.Context(), 1)
		if first := slices.Min(slices.Collect(maps.Keys(all[1]))); err != nil || start != first {
			t.Errorf("start %d, want %d: %v", start, first, err)
		}
		_ = e.Close()
	}
}

// TestRewriteWhileReading: readers in the midst of a segment go on when it is rewritten under them.
func TestRewriteWhileReading(t *testing.T) {
	e := openLog(t, t.TempDir(), small(), Deps{})
	top := openFacts(t, e)
	all := fill(t, top, 80)
	r, err := top.Read(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for n, offset := range slices.Sorted(maps.Keys(all[0])) {
		recs, err := r.Next(t.Context(), 1)
		if err != nil || recs[0].Offset != offset {
			t.Fatalf("%v, want offset %d: %v", recs, offset, err)
		}
		if n%5 == 0 {
			err := e.Rewrite(t.Context(), "facts", func(p int32, _ int64, data []byte) ([]byte, bool) { return data, p == 0 || data[n%4+1] != '1' })
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestQuietPartition: a reader that waits while others' records go by the memory goes on where its next record is.
func TestQuietPartition(t *testing.T) {
	e := openLog(t, t.TempDir(), small(), Deps{})
	top := openFacts(t, e)
	r, err := top.Read(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan int64)
	go func() {
		recs, err := r.Next(t.Context(), 1)
		if err != nil {
			t.Error(err)
			close(got)
			return
		}
		got <- recs[0].Offset
	}()
	for {
		top.mu.RLock()
		waits := top.waits[0] != nil
		top.mu.RUnlock()
		if waits {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for range 100 {
		if _, err := top.Append(t.Context(), []Message{{Partition: 1, Data: make([]byte, 2000)}}); err != nil {
			t.Fatal(err)
		}
	}
	w := top.waits[0]
	if _, err := top.Append(t.Context(), []Message{{Data: []byte("at last")}}); err != nil {
		t.Fatal(err)
	}
	if offset := <-got; offset != 100 || w.base != 100 {
		t.Errorf("offset %d, woken at %d", offset, w.base)
	}
}

func TestOpenRefusals(t *testing.T) {
	dir := t.TempDir()
	e := openLog(t, dir, small(), Deps{})
	if _, err := Open(dir, small(), Deps{}); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	top := openFacts(t, e)
	fill(t, top, 3)
	if err := e.Hold(t.Context(), "a \"group\"", top, 1, 2); err != nil {
		t.Fatal(err)
	}
	_ = e.Close()
	meta, kept := filepath.Join(dir, "facts", metaName), filepath.Join(dir, "facts", keptName)
	for name, bad := range map[string]struct{ path, old, new, want string }{
		"newer":      {meta, "godwit-stream 1", "godwit-stream 2", "format 2"},
		"other name": {meta, "topic facts", "topic fakts", "not \"facts\""},
		"partitions": {meta, "partitions 2", "partitions 3", "3 partitions, not 2"},
		"torn":       {meta, "crc32c", "crc", "checksum"},
		"kept":       {kept, "hold", "hole", "unknown key"},
		"kept torn":  {kept, "crc32c", "crc", "checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			whole, err := os.ReadFile(bad.path)
			if err != nil {
				t.Fatal(err)
			}
			text, _, _ := strings.Cut(string(whole), "crc32c ")
			text = strings.Replace(text, bad.old, bad.new, 1)
			data := sealText(text)
			if bad.old == "crc32c" {
				data = []byte(text)
			}
			if err := os.WriteFile(bad.path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			e := openLog(t, dir, small(), Deps{})
			if _, err := e.Topic(t.Context(), "facts", 2); err == nil || !strings.Contains(err.Error(), bad.want) {
				t.Errorf("got %v", err)
			}
			_ = e.Close()
			if err := os.WriteFile(bad.path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	e = openLog(t, dir, small(), Deps{})
	if held := openFacts(t, e).kept.holds["a \"group\""]; held[1] != 2 {
		t.Errorf("held %v", held)
	}
}

func TestTooLargeAndFull(t *testing.T) {
	dir := t.TempDir()
	sim, err := faultfs.NewSim(dir)
	if err != nil {
		t.Fatal(err)
	}
	e := openLog(t, dir, small(), Deps{FS: sim})
	top := openFacts(t, e)
	if _, err := top.Append(t.Context(), []Message{{Data: make([]byte, 1<<20)}}); !errors.Is(err, mail.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	fill(t, top, 3)
	remove := sim.Inject(faultfs.Rule{Op: faultfs.OpAllocate, Err: errNoSpace})
	for err == nil {
		_, err = top.Append(t.Context(), []Message{{Data: make([]byte, 3000)}})
	}
	if !errors.Is(err, mail.ErrDiskFull) {
		t.Fatalf("got %v", err)
	}
	remove()
	fill(t, top, 20) // room again: offsets go on without a gap
	if _, lost := salvage(t, top, 1); lost != nil {
		t.Error(lost)
	}
	sim.Inject(faultfs.Rule{Op: faultfs.OpSync, Name: "*.seg", Err: errNoSpace})
	if _, err := top.Append(t.Context(), []Message{{}}); !errors.Is(err, seglog.ErrFailed) {
		t.Errorf("a failed sync: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	e := openLog(t, t.TempDir(), small(), Deps{Registerer: reg})
	top := openFacts(t, e)
	fill(t, top, 20)
	found := map[string]float64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if m := f.GetMetric()[0]; m.GetCounter() != nil {
			found[f.GetName()] = m.GetCounter().GetValue()
		} else if m.GetGauge() != nil {
			found[f.GetName()] = m.GetGauge().GetValue()
		}
	}
	if found["godwit_stream_records_total"] != 40 || found["godwit_stream_bytes_total"] < 40_000 ||
		found["godwit_stream_kept_bytes"] < 40_000 || found["godwit_stream_oldest_age_seconds"] <= 0 {
		t.Errorf("%v", found)
	}
}

// TestAgeOfIdleTopic: records of a topic that nothing is appended to any more are dropped too.
func TestAgeOfIdleTopic(t *testing.T) {
	dir := t.TempDir()
	o := small()
	o.KeepFor = 3600e9
	e := openLog(t, dir, o, Deps{})
	top := openFacts(t, e)
	fill(t, top, 3)
	end := top.end
	if err := e.Trim(time.Now()); err != nil || len(top.pieces) == 0 {
		t.Fatalf("%d pieces, %v", len(top.pieces), err)
	}
	if err := e.Trim(time.Now().Add(2 * time.Hour)); err != nil || len(top.pieces) != 0 {
		t.Fatalf("%d pieces, %v", len(top.pieces), err)
	}
	_ = e.Close()
	e = openLog(t, dir, o, Deps{})
	top = openFacts(t, e)
	offsets, err := top.Append(t.Context(), []Message{{}})
	if err != nil || offsets[0] != end {
		t.Errorf("offset %v after %d: %v", offsets, end, err)
	}
}
