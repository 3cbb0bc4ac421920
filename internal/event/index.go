package event

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"sort"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/mail"
)

// indexEntry says that the record at off of a segment holds an event of a message whose key is key.
type indexEntry struct {
	key uint64
	off uint32
}

// keyOf is the low half of an id: its random part.
func keyOf(id mail.ID) uint64 { return binary.BigEndian.Uint64(id[8:]) }

func compareEntries(a, b indexEntry) int {
	return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.off, b.off))
}

// table is the index of a segment that has no sidecar yet. Entries gather
// unsorted and are sorted in runs, so adding is cheap and finding takes a few binary searches.
type table struct {
	tail   []indexEntry
	runs   [][]indexEntry
	events int64
	newest int64 // Unix nanoseconds of the latest event
}

const runLength = 4096

func (t *table) add(key uint64, off uint32) {
	if n := len(t.tail); n > 0 && t.tail[n-1] == (indexEntry{key, off}) {
		return
	}
	t.tail = append(t.tail, indexEntry{key, off})
	if len(t.tail) == runLength {
		slices.SortFunc(t.tail, compareEntries)
		t.runs = append(t.runs, t.tail)
		t.tail = make([]indexEntry, 0, runLength)
	}
}

// find returns the offsets for key, rising.
func (t *table) find(key uint64) []uint32 {
	var out []uint32
	for _, run := range t.runs {
		i, _ := slices.BinarySearchFunc(run, indexEntry{key: key}, compareEntries)
		for ; i < len(run) && run[i].key == key; i++ {
			out = append(out, run[i].off)
		}
	}
	for _, e := range t.tail {
		if e.key == key {
			out = append(out, e.off)
		}
	}
	return distinct(out)
}

// sorted returns all entries in order, without repetition.
func (t *table) sorted() []indexEntry {
	all := slices.Concat(t.runs...)
	all = append(all, t.tail...)
	slices.SortFunc(all, compareEntries)
	return slices.Compact(all)
}

func distinct(offs []uint32) []uint32 {
	slices.Sort(offs)
	return slices.Compact(offs)
}

// A sidecar is the index of a sealed segment in a file beside it:
// a header of 64 bytes, then entries of 12 bytes sorted by key.
const (
	sidecarMagic   = "GODWTIDX"
	sidecarVersion = 1
	sidecarHeader  = 64
	sidecarEntry   = 12
)

var errBadSidecar = errors.New("event: index file is damaged")

// sidecar is an index file that was opened once; its entries stay on disk.
type sidecar struct {
	path    string
	entries int64
	events  int64 // in the segment
	newest  int64 // Unix nanoseconds of the segment's latest event
}

// encodeSidecar returns the content of the index file for t.
func encodeSidecar(t *table) []byte {
	entries := t.sorted()
	b := make([]byte, 0, sidecarHeader+len(entries)*sidecarEntry)
	b = append(b, sidecarMagic...)
	b = binary.LittleEndian.AppendUint32(b, sidecarVersion)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(entries)))
	b = binary.LittleEndian.AppendUint64(b, uint64(t.events))
	b = binary.LittleEndian.AppendUint64(b, uint64(t.newest))
	b = append(b, make([]byte, sidecarHeader-4-len(b))...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	for _, e := range entries {
		b = binary.BigEndian.AppendUint64(b, e.key)
		b = binary.BigEndian.AppendUint32(b, e.off)
	}
	return b
}

// openSidecar checks an index file's header and length.
func openSidecar(fsys faultfs.FS, path string) (*sidecar, error) {
	f, err := fsys.OpenFile(path, readOnly, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var h [sidecarHeader]byte
	if n, err := f.ReadAt(h[:], 0); n < sidecarHeader {
		if err == io.EOF {
			return nil, errBadSidecar
		}
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	sum := crc32.Checksum(h[:sidecarHeader-4], crc32.MakeTable(crc32.Castagnoli))
	s := &sidecar{
		path:    path,
		entries: int64(binary.LittleEndian.Uint64(h[16:])),
		events:  int64(binary.LittleEndian.Uint64(h[24:])),
		newest:  int64(binary.LittleEndian.Uint64(h[32:])),
	}
	if string(h[:8]) != sidecarMagic || binary.LittleEndian.Uint32(h[8:]) != sidecarVersion ||
		binary.LittleEndian.Uint32(h[sidecarHeader-4:]) != sum ||
		s.entries < 0 || s.entries > (size-sidecarHeader)/sidecarEntry || size != sidecarHeader+s.entries*sidecarEntry {
		return nil, errBadSidecar
	}
	return s, nil
}

// find returns the offsets for key, rising. It reads a few dozen bytes per step
// of a binary search, then one window.
func (s *sidecar) find(fsys faultfs.FS, key uint64) ([]uint32, error) {
	f, err := fsys.OpenFile(s.path, readOnly, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var want [8]byte
	binary.BigEndian.PutUint64(want[:], key)
	const window = 256
	var failed error
	// The first window whose last entry is not below the key.
	windows := int((s.entries + window - 1) / window)
	w := sort.Search(windows, func(i int) bool {
		var b [8]byte
		last := min(int64(i+1)*window, s.entries) - 1
		if _, err := f.ReadAt(b[:], sidecarHeader+last*sidecarEntry); err != nil && failed == nil {
			failed = err
		}
		return bytes.Compare(b[:], want[:]) >= 0
	})
	var out []uint32
	buf := make([]byte, window*sidecarEntry)
	for at := int64(w) * window; at < s.entries && failed == nil; at += window {
		n := min(window, s.entries-at) * sidecarEntry
		if _, failed = f.ReadAt(buf[:n], sidecarHeader+at*sidecarEntry); failed != nil {
			break
		}
		for e := buf[:n]; len(e) > 0; e = e[sidecarEntry:] {
			switch bytes.Compare(e[:8], want[:]) {
			case 0:
				out = append(out, binary.BigEndian.Uint32(e[8:]))
			case 1:
				return distinct(out), nil
			}
		}
	}
	if failed != nil {
		return nil, failed
	}
	return distinct(out), nil
}
