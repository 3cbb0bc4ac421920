package seglog

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

// segmentFiles returns the paths of the segment files in dir, by number.
func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	return files
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTornTailAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	o := Options{SegmentBytes: 16 << 10, MaxRecord: 1 << 20}
	l := open(t, dir, o, nil)
	want := text("keep", 3, 500)
	add(t, l, want...)
	last := add(t, l, "the last record, which is torn")[0]
	end := l.Tail().Off
	l.Close()
	path := segmentFiles(t, dir)[0]
	whole := readFile(t, path)
	for _, junk := range []byte{0, 0xff} {
		for cut := last.Off; cut < end; cut++ {
			torn := append([]byte(nil), whole...)
			for i := cut; i < end; i++ {
				torn[i] = junk
			}
			sub := t.TempDir()
			writeFile(t, filepath.Join(sub, filepath.Base(path)), torn)
			l := open(t, sub, o, nil)
			got, damage := contents(t, l)
			same(t, got, want)
			if damage != nil {
				t.Fatalf("cut at %d: %v", cut, damage[0])
			}
			add(t, l, "next")
			l.Close()
			l = open(t, sub, o, nil)
			got, damage = contents(t, l)
			same(t, got, append(want[:3:3], "next"))
			if damage != nil {
				t.Fatalf("cut at %d, after one more: %v", cut, damage[0])
			}
			l.Close()
		}
	}
}

// TestTruncatedTail cuts the unsealed segment's file short instead of overwriting it.
func TestTruncatedTail(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small(), nil)
	want := text("keep", 3, 500)
	last := add(t, l, append(want, "torn")...)[3]
	l.Close()
	path := segmentFiles(t, dir)[0]
	if err := os.Truncate(path, last.Off+HeaderSize+2); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, small(), nil)
	add(t, l, "next")
	got, damage := contents(t, l)
	same(t, got, append(want, "next"))
	if damage != nil {
		t.Fatal(damage[0])
	}
}

// TestStaleGroupMemberStaysDead: of a torn group the first record is lost and the second is whole. A new record as
// long as the lost one must not bring the second to life.
func TestStaleGroupMemberStaysDead(t *testing.T) {
	dir := t.TempDir()
	o := Options{SegmentBytes: 16 << 10, MaxRecord: 1 << 20}
	l := open(t, dir, o, nil)
	add(t, l, "kept")
	gen, off := l.cur.generation, l.Tail().Off
	l.Close()
	path := segmentFiles(t, dir)[0]
	b := readFile(t, path)
	second := off + HeaderSize + 4
	forge(b, second, off, gen, "dead")
	b[off] = 1 // some of the first record's header arrived, but no valid one
	writeFile(t, path, b)
	l = open(t, dir, o, nil)
	add(t, l, "1234")
	l.Close()
	l = open(t, dir, o, nil)
	got, damage := contents(t, l)
	same(t, got, []string{"kept", "1234"})
	if damage != nil {
		t.Fatal(damage[0])
	}
}

// forge puts a valid record into b.
func forge(b []byte, off, group int64, generation uint64, data string) {
	h := recHeader{
		dataCRC: crc32.Checksum([]byte(data), castagnoli), length: uint32(len(data)), typ: 1, generation: generation, group: group,
	}
	var head [HeaderSize]byte
	h.encode(&head, off)
	copy(b[off:], head[:])
	copy(b[off+HeaderSize:], data)
}

// TestLaterGroupProvesCorruption: damage followed by a later commit is reported, in the last segment too, and
// what follows is kept.
func TestLaterGroupProvesCorruption(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small(), nil)
	pos := add(t, l, "one", "two", "three")
	l.Close()
	for _, at := range []int64{pos[1].Off, pos[1].Off + 17, pos[1].Off + HeaderSize} {
		sub := t.TempDir()
		path := segmentFiles(t, dir)[0]
		b := readFile(t, path)
		b[at] ^= 0x40
		writeFile(t, filepath.Join(sub, filepath.Base(path)), b)
		l := open(t, sub, small(), nil)
		add(t, l, "four")
		got, damage := contents(t, l)
		same(t, got, []string{"one", "three", "four"})
		if len(damage) != 1 || damage[0].Offset != pos[1].Off || damage[0].Segment != 1 || damage[0].Resume != pos[2] {
			t.Fatalf("flip at %d: %+v", at, damage)
		}
		l.Close()
	}
}

func TestBitFlipsInSealedSegments(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small(), nil)
	want := text("r", 30, 1000)
	pos := add(t, l, want...)
	l.Close()
	path := segmentFiles(t, dir)[0]
	whole := readFile(t, path)
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		at := FirstOffset + r.IntN(len(whole)-FirstOffset-sealSize)
		b := append([]byte(nil), whole...)
		b[at] ^= 1 << r.IntN(8)
		writeFile(t, path, b)
		hit := 0
		for hit+1 < len(pos) && pos[hit+1].Seg == 1 && pos[hit+1].Off <= int64(at) {
			hit++
		}
		l := open(t, dir, small(), nil)
		got, damage := contents(t, l)
		same(t, got, append(append([]string(nil), want[:hit]...), want[hit+1:]...))
		if len(damage) != 1 || damage[0].Offset != pos[hit].Off {
			t.Fatalf("flip at %d: %+v", at, damage)
		}
		if _, err := l.Read(pos[hit], nil); err == nil {
			t.Fatalf("flip at %d: Read did not notice", at)
		}
		l.Close()
	}
	// A damaged seal is noticed too: the segment then looks cut short.
	b := append([]byte(nil), whole...)
	b[len(b)-1] ^= 1
	writeFile(t, path, b)
	l = open(t, dir, small(), nil)
	got, damage := contents(t, l)
	same(t, got, want)
	if len(damage) != 1 {
		t.Fatal(damage)
	}
}

func TestTruncatedSealedSegment(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small(), nil)
	want := text("r", 30, 1000)
	pos := add(t, l, want...)
	l.Close()
	whole := readFile(t, segmentFiles(t, dir)[0])
	for _, size := range []int64{0, 10, FirstOffset, pos[3].Off - 1, pos[3].Off, pos[3].Off + 1, pos[3].Off + 500, int64(len(whole)) - 1} {
		sub := copyDir(t, dir)
		if err := os.Truncate(segmentFiles(t, sub)[0], size); err != nil {
			t.Fatal(err)
		}
		l := open(t, sub, small(), nil)
		got, damage := contents(t, l)
		if len(damage) != 1 || damage[0].Segment != 1 {
			t.Fatalf("size %d: %v", size, damage)
		}
		lost := 0
		for _, p := range pos {
			if p.Seg == 1 && p.Off+HeaderSize+1000 > size {
				lost++
			}
		}
		if len(got) != len(want)-lost {
			t.Fatalf("size %d: %d records, want %d", size, len(got), len(want)-lost)
		}
		l.Close()
	}
}

func copyDir(t testing.TB, dir string) string {
	t.Helper()
	sub := t.TempDir()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		writeFile(t, filepath.Join(sub, e.Name()), readFile(t, filepath.Join(dir, e.Name())))
	}
	return sub
}

func TestMissingSegment(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small(), nil)
	add(t, l, text("r", 60, 1000)...)
	if err := l.Free(2); err != nil {
		t.Fatal(err)
	}
	active := l.Tail().Seg
	l.Close()
	for _, lost := range []uint64{3, active} {
		sub := copyDir(t, dir)
		if err := os.Remove(filepath.Join(sub, segmentName(lost))); err != nil {
			t.Fatal(err)
		}
		if lost == active { // else the spare behind it would be an empty, sound segment
			for _, f := range segmentFiles(t, sub) {
				if seq, _ := parseSegmentName(filepath.Base(f)); seq > active {
					os.Remove(f)
				}
			}
		}
		l := open(t, sub, small(), nil)
		add(t, l, "goes on")
		got, damage := contents(t, l)
		if len(damage) != 1 || damage[0].Segment != lost || !strings.Contains(damage[0].Error(), "missing") {
			t.Fatalf("lost %d: %v", lost, damage)
		}
		if got[len(got)-1] != "goes on" {
			t.Fatalf("lost %d: last record %.20q", lost, got[len(got)-1])
		}
		if err := l.Free(lost); err != nil { // acknowledged: no longer reported
			t.Fatal(err)
		}
		if _, damage = contents(t, l); damage != nil {
			t.Fatal(damage[0])
		}
		l.Close()
		l = open(t, sub, small(), nil)
		if _, damage = contents(t, l); damage != nil {
			t.Fatal(damage[0])
		}
		l.Close()
	}
}

// TestRecycledStaleData: a recycled file is full of old records, whole ones at the very places where new ones go.
func TestRecycledStaleData(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small(), nil)
	add(t, l, text("old", 20, 1000)...)
	l.Close()
	old := readFile(t, segmentFiles(t, dir)[0])
	sub := t.TempDir()
	l = open(t, sub, small(), nil)
	l.Close()
	path := segmentFiles(t, sub)[0]
	b := readFile(t, path)
	copy(b[FirstOffset:], old[FirstOffset:])
	writeFile(t, path, b)
	l = open(t, sub, small(), nil)
	add(t, l, text("new", 2, 1000)...)
	l.Close()
	l = open(t, sub, small(), nil)
	got, damage := contents(t, l)
	same(t, got, text("new", 2, 1000))
	if damage != nil {
		t.Fatal(damage[0])
	}
}

// TestDamagedHeaders damages the header of each segment, the active one too, with a spare behind it and without: a spare may
// or may not be ready when a log is closed.
func TestDamagedHeaders(t *testing.T) {
	for _, spares := range []int{0, 1} {
		t.Run(fmt.Sprint(spares), func(t *testing.T) { damagedHeaders(t, spares) })
	}
}

func damagedHeaders(t *testing.T, spares int) {
	dir := t.TempDir()
	o := small()
	o.Spares = spares
	l := open(t, dir, o, nil)
	want := text("r", 30, 1000)
	pos := add(t, l, want...)
	l.Close()
	for i, file := range segmentFiles(t, dir) {
		if uint64(i+1) > pos[len(pos)-1].Seg {
			break // a spare
		}
		sub := copyDir(t, dir)
		path := filepath.Join(sub, filepath.Base(file))
		b := readFile(t, path)
		b[20] ^= 1
		writeFile(t, path, b)
		for range 2 {
			l := open(t, sub, o, nil)
			add(t, l, "goes on")
			got, damage := contents(t, l)
			if len(damage) != 1 || damage[0].Segment != uint64(i+1) || got[len(got)-1] != "goes on" {
				t.Fatalf("segment %d: %d records, %v", i+1, len(got), damage)
			}
			l.Close()
		}
	}
}

// TestDamagedHeaderBeforeLostSegment: a seal behind the damaged header proves that there was a segment after it.
func TestDamagedHeaderBeforeLostSegment(t *testing.T) {
	dir := t.TempDir()
	o := small()
	o.Spares = 0
	l := open(t, dir, o, nil)
	pos := add(t, l, text("r", 30, 1000)...)
	l.Close()
	last := pos[len(pos)-1].Seg
	if err := os.Remove(filepath.Join(dir, segmentName(last))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, segmentName(last-1))
	b := readFile(t, path)
	b[20] ^= 1
	writeFile(t, path, b)
	l = open(t, dir, o, nil)
	next := add(t, l, "goes on")[0]
	_, damage := contents(t, l)
	if len(damage) != 2 || damage[0].Segment != last-1 || damage[1].Segment != last || next.Seg != last+1 {
		t.Fatalf("went on at %v, damage %v", next, damage)
	}
}

func TestDamagedManifestIsNotFatal(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small(), nil)
	add(t, l, text("r", 60, 1000)...)
	l.Free(2)
	l.Close()
	writeFile(t, filepath.Join(dir, manifestName), []byte("nonsense"))
	l = open(t, dir, small(), nil)
	got, damage := contents(t, l)
	if len(damage) != 1 || damage[0].Segment != 2 || len(got) == 0 {
		t.Fatalf("%d records, %v", len(got), damage)
	}
}

func TestManifestRoundTrip(t *testing.T) {
	m := manifest{oldest: 12, freed: map[uint64]bool{14: true, 15: true, 18: true, 1 << 40: true}}
	got, err := parseManifest(m.encode())
	if err != nil || got.oldest != 12 || len(got.freed) != 4 || !got.freed[1<<40] {
		t.Fatalf("%+v, %v", got, err)
	}
	if !bytes.Contains(m.encode(), []byte("freed 14-15 18 1099511627776\n")) {
		t.Errorf("%s", m.encode())
	}
	for i := range m.encode() {
		b := m.encode()
		b[i] ^= 1
		if _, err := parseManifest(b); err == nil {
			t.Fatalf("change of byte %d was not noticed", i)
		}
	}
}

// TestPowerCut runs concurrent appends, frees and rolls against power cuts at random
// moments. After each restart everything acknowledged and not freed is there, in order, and nothing that was never appended.
func TestPowerCut(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	for seed := range rounds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { powerCuts(t, rand.New(rand.NewPCG(uint64(seed), 7))) })
	}
}

func powerCuts(t *testing.T, r *rand.Rand) {
	dir := t.TempDir()
	model := &history{acked: map[string]Pos{}, sent: map[string]bool{}, freed: map[uint64]bool{}}
	o := Options{SegmentBytes: 16 << 10, Spares: r.IntN(3), MaxRecord: 1 << 20}
	for range 4 {
		fsys := simulate(t, dir)
		l, err := Open(dir, o, Deps{FS: fsys})
		if err != nil {
			t.Fatal(err)
		}
		model.check(t, l)
		stop := r.IntN(120)
		var wg sync.WaitGroup
		for caller := range 4 {
			wg.Add(1)
			mine := rand.New(rand.NewPCG(r.Uint64(), 1))
			go func() {
				defer wg.Done()
				for model.append(l, mine, caller) {
					if model.count() >= stop && mine.IntN(8) == 0 {
						_ = fsys.Crash(mine) // all but the first get ErrCrashed
						return
					}
				}
			}()
		}
		wg.Wait()
		_ = fsys.Crash(r)
		_ = l.Close()
		model.reset()
	}
	l, err := Open(dir, o, Deps{FS: simulate(t, dir)})
	if err != nil {
		t.Fatal(err)
	}
	model.check(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSeenRecordsAreDurable: a record whose sync failed may show up after a
// restart of the process. From then on it must survive a power cut.
func TestSeenRecordsAreDurable(t *testing.T) {
	for seed := range 8 {
		dir := t.TempDir()
		fsys := simulate(t, dir)
		l := open(t, dir, small(), fsys)
		add(t, l, "good")
		fsys.Inject(faultfs.Rule{Op: faultfs.OpSync, Name: "*.seg", Times: 1, Err: syscall.EIO})
		if _, err := l.Append(context.Background(), 1, []byte("doubtful")); err == nil {
			t.Fatal("the sync did not fail")
		}
		l.Close()
		l = open(t, dir, small(), fsys)
		seen, _ := contents(t, l)
		if len(seen) != 2 {
			t.Fatalf("%q", seen)
		}
		if err := fsys.Crash(rand.New(rand.NewPCG(uint64(seed), 1))); err != nil {
			t.Fatal(err)
		}
		l.Close()
		l = open(t, dir, small(), nil)
		got, _ := contents(t, l)
		same(t, got, seen)
		l.Close()
	}
}

// history is what the appenders know.
type history struct {
	mu    sync.Mutex
	n     int
	run   int
	acked map[string]Pos
	sent  map[string]bool
	freed map[uint64]bool
}

func (h *history) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.run
}

func (h *history) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.run = 0
}

// append adds one random record, sometimes frees or rolls; false when the log is gone.
func (h *history) append(l *Log, r *rand.Rand, caller int) bool {
	h.mu.Lock()
	h.n++
	h.run++
	size := r.IntN(2500)
	if r.IntN(40) == 0 {
		size = 30_000
	}
	data := fmt.Sprintf("%d/%d/", h.n, caller) + strings.Repeat(string(rune('a'+h.n%26)), size)
	h.sent[data] = true
	h.mu.Unlock()
	pos, err := l.Append(context.Background(), 3, []byte(data))
	if err != nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked[data] = pos
	switch r.IntN(30) {
	case 0:
		return l.Roll() == nil
	case 1:
		segs := l.Segments()
		if s := segs[r.IntN(len(segs))]; s.Sealed && l.Free(s.Seq) == nil {
			h.freed[s.Seq] = true
		}
	}
	return true
}

// check compares the log with what must and may be in it.
func (h *history) check(t *testing.T, l *Log) {
	t.Helper()
	seen := map[string]bool{}
	var last Pos
	for rec, err := range l.Scan(Pos{}) {
		if err != nil {
			t.Fatal(err)
		}
		data := string(rec.Data)
		if !h.sent[data] || seen[data] || rec.Type != 3 {
			t.Fatalf("record at %v was never appended, or comes twice: %.30q", rec.Pos, data)
		}
		if pos, ok := h.acked[data]; ok && pos != rec.Pos {
			t.Fatalf("acknowledged at %v, found at %v", pos, rec.Pos)
		}
		if rec.Pos.Compare(last) <= 0 {
			t.Fatalf("%v after %v", rec.Pos, last)
		}
		last, seen[data] = rec.Pos, true
		h.acked[data] = rec.Pos // it survived a restart: from now on it must stay
	}
	for data, pos := range h.acked {
		if !seen[data] && !h.freed[pos.Seg] {
			t.Fatalf("acknowledged at %v and lost: %.30q", pos, data)
		}
	}
	for data, pos := range h.acked {
		if h.freed[pos.Seg] && !seen[data] {
			delete(h.acked, data)
		}
	}
}

// FuzzSegment feeds any bytes to the reader as the records of a segment.
func FuzzSegment(f *testing.F) {
	const gen = 77
	b := make([]byte, 400)
	forge(b, 0, 0, gen, "first")
	forge(b, HeaderSize+5, HeaderSize+5, gen, "second")
	f.Add(b, false)
	f.Add(b[:60], false)
	f.Add(append([]byte{}, b[40:]...), true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, body []byte, fix bool) {
		file := append(make([]byte, FirstOffset), body...)
		if fix && len(body) >= HeaderSize { // let the fuzzer past the checksum
			binary.LittleEndian.PutUint64(body[16:], gen)
			copy(file[FirstOffset:], body)
			binary.LittleEndian.PutUint32(file[FirstOffset:], headerCRC(file[FirstOffset+4:FirstOffset+HeaderSize], FirstOffset))
		}
		r := &segReader{file: bytes.NewReader(file), generation: gen, end: int64(len(file))}
		tail, err := findTail(r)
		if err != nil || tail.end < FirstOffset || tail.end > int64(len(file)) {
			t.Fatalf("%+v, %v", tail, err)
		}
		if cap(r.buf) > len(file)*2+2*scanBuffer {
			t.Fatalf("%d bytes allocated for a file of %d", cap(r.buf), len(file))
		}
		_, _ = parseSegHeader(body)
		_, _ = parseManifest(body)
	})
}
