package records

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

func mustSim(t *testing.T, dir string) *faultfs.Sim {
	t.Helper()
	sim, err := faultfs.NewSim(dir)
	if err != nil {
		t.Fatal(err)
	}
	return sim
}

// promise is what a key may show after a power cut: what was last acknowledged, or anything tried since.
type promise struct{ allowed map[string]bool }

func (p *promise) acknowledged(value string) { p.allowed = map[string]bool{value: true} }
func (p *promise) tried(value string)        { p.allowed[value] = true }

// TestCrash: through power cuts and disk failures, no acknowledged write is lost or
// altered, nothing appears that nobody wrote, and the store always starts again.
func TestCrash(t *testing.T) {
	dropped, rewritten := 0, 0
	for seed := range 60 {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		dir := t.TempDir()
		keys := map[string]*promise{}
		for i := range 5 {
			keys[fmt.Sprint("k", i)] = &promise{allowed: map[string]bool{"": true}}
		}
		n := 0
		for range 6 {
			sim := mustSim(t, dir)
			s := open(t, dir, "n1", Deps{FS: sim})
			for key, p := range keys {
				got, _ := s.Get(key)
				if !p.allowed[string(got.Value)] {
					t.Fatalf("seed %d: %s is %.20q, want one of %d values", seed, key, got.Value, len(p.allowed))
				}
				if len(p.allowed) > 1 {
					dropped++
				}
				p.acknowledged(string(got.Value)) // it is durable now
			}
			if r.IntN(2) == 0 {
				op := []faultfs.Op{faultfs.OpWrite, faultfs.OpSync, faultfs.OpRename, faultfs.OpSyncDir}[r.IntN(4)]
				sim.Inject(faultfs.Rule{Op: op, Nth: 1 + r.IntN(20), Times: 1 + r.IntN(3), Err: syscall.EIO, Short: r.IntN(600)})
			}
			for range r.IntN(30) {
				n++
				key := fmt.Sprint("k", r.IntN(5))
				value := fmt.Sprint(n, " ", strings.Repeat("x", r.IntN(1500)))
				if r.IntN(10) == 0 {
					s.wmu.Lock()
					s.disk.limit = 0
					s.wmu.Unlock()
					rewritten++
				}
				write := func() error { _, err := s.Put(key, []byte(value), 0); return err }
				if r.IntN(5) == 0 {
					value = ""
					write = func() error { _, err := s.Delete(key); return err }
				}
				keys[key].tried(value)
				if write() == nil {
					keys[key].acknowledged(value)
				}
			}
			// The power goes during one more write.
			remove := sim.Inject(faultfs.Rule{Op: faultfs.OpSync, Err: syscall.EIO})
			if r.IntN(2) == 0 {
				remove() // or between two
			}
			if r.IntN(4) > 0 {
				key, value := fmt.Sprint("k", r.IntN(5)), fmt.Sprint("last ", strings.Repeat("y", r.IntN(2000)))
				keys[key].tried(value)
				if _, err := s.Put(key, []byte(value), 0); err == nil {
					keys[key].acknowledged(value)
				}
			}
			if err := sim.Crash(r); err != nil {
				t.Fatal(err)
			}
			s.Close()
		}
	}
	if dropped == 0 || rewritten == 0 {
		t.Errorf("the test does not reach what it is for: %d %d", dropped, rewritten)
	}
}

// TestTornAtEveryByte: a last write that is cut off or overwritten anywhere is left out, and everything before it kept.
func TestTornAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "n1", Deps{})
	put(t, s, "a", "1", 0)
	put(t, s, "b", "2", 0)
	end := s.disk.size
	put(t, s, "a", "the last", 0)
	s.Close()
	path := filepath.Join(dir, fileName)
	whole := read(t, path)
	for cut := int(end); cut < len(whole); cut++ {
		for _, torn := range [][]byte{whole[:cut], append(bytes.Clone(whole[:cut]), make([]byte, len(whole)-cut)...)} {
			fresh := t.TempDir()
			if err := os.WriteFile(filepath.Join(fresh, fileName), torn, 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, fresh, "n1", Deps{})
			if got := shows(s, ""); got != "a=1 b=2" {
				t.Fatalf("cut at %d: %s", cut, got)
			}
			s.Close()
			if _, err := os.Stat(filepath.Join(fresh, damagedName)); err == nil {
				t.Fatalf("cut at %d: a torn write was taken for damage", cut)
			}
		}
	}
}

// TestTornGroup: of records written together the first may be missing and the others there; that is no damage.
func TestTornGroup(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "n1", Deps{})
	put(t, s, "a", "1", 0)
	end := s.disk.size
	var group []Record
	for _, key := range []string{"b", "c", "d"} {
		group = append(group, Record{Key: key, Version: Version{Time: 5, Node: "n2"}})
	}
	if _, err := s.Merge(group); err != nil {
		t.Fatal(err)
	}
	s.Close()
	torn := read(t, filepath.Join(dir, fileName))
	torn[end] ^= 1
	if err := os.WriteFile(filepath.Join(dir, fileName), torn, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, "n1", Deps{})
	defer s.Close()
	equal(t, "list", shows(s, ""), "a=1")
	if _, err := os.Stat(filepath.Join(dir, damagedName)); err == nil {
		t.Error("a torn write was taken for damage")
	}
}

// TestDamage: a byte changed anywhere costs the record there at most, and is not kept quiet.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "n1", Deps{})
	put(t, s, "a", "1", 0)
	put(t, s, "b", "2", 0)
	s.Close()
	s = open(t, dir, "n1", Deps{}) // a and b are in the part that was written whole
	end := s.disk.size
	tryDamage(t, read(t, filepath.Join(dir, fileName)), end, 2)
	put(t, s, "c", "3", 0)
	end = s.disk.size
	put(t, s, "d", "4", 0)
	s.Close()
	// The last write could be a torn one, so only what comes before it tells.
	tryDamage(t, read(t, filepath.Join(dir, fileName)), end, 4)
}

// tryDamage changes each byte up to end in a file of so many records.
func tryDamage(t *testing.T, whole []byte, end int64, records int) {
	t.Helper()
	for at := range int(end) {
		fresh := t.TempDir()
		bad := bytes.Clone(whole)
		bad[at] ^= 0x40
		if err := os.WriteFile(filepath.Join(fresh, fileName), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		s, err := Open(fresh, "n1", Deps{Logger: textLogger(&log)})
		if at < headerSize {
			if err == nil || !strings.Contains(err.Error(), "move it away") {
				t.Fatalf("header byte %d: %v", at, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := len(s.List("")); got != records-1 {
			t.Fatalf("byte %d: %s", at, shows(s, ""))
		}
		s.Close()
		if !bytes.Equal(read(t, filepath.Join(fresh, damagedName)), bad) || !strings.Contains(log.String(), "damaged") {
			t.Fatalf("byte %d: the damage was kept quiet", at)
		}
	}
}

func TestNewerFormat(t *testing.T) {
	h := fileHeader{generation: 1, whole: headerSize}.encode()
	h[8]++
	binary.LittleEndian.PutUint32(h[headerSize-4:], crc32.Checksum(h[:headerSize-4], castagnoli))
	if _, err := parseFileHeader(h); !errors.Is(err, errNewerFormat) {
		t.Error(err)
	}
}

// TestFileStaysSmall: superseded records do not pile up.
func TestFileStaysSmall(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "n1", Deps{FS: mustSim(t, dir)})
	defer s.Close()
	value := strings.Repeat("v", 10_000)
	for range 200 {
		put(t, s, "k", value, 0)
	}
	if size := len(read(t, filepath.Join(dir, fileName))); size > 2*slack {
		t.Errorf("%d bytes for one record of %d", size, len(value))
	}
	equal(t, "list", shows(s, ""), "k="+value)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
