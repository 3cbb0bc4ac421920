package keyset

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/sys/unix"
)

const (
	suffix     = ".keys"
	magic      = "GWKEYS"
	version    = 1
	headerSize = 40
	keySize    = 16
	blockSize  = 32 // of the filter
	bitsPerKey = 12 // 0.5 % false positives
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// file is a mapped file.
type file struct {
	path   string
	count  int
	blocks uint64
	data   []byte // the whole file
	filter []byte
	keys   []byte
}

func (f *file) name() string { return filepath.Base(f.path) }

// close unmaps the file.
func (f *file) close() error {
	data := f.data
	f.data, f.filter, f.keys = nil, nil, nil
	if data == nil {
		return nil
	}
	return unix.Munmap(data)
}

func openFile(path string) (*file, error) {
	h, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer func() { _ = h.Close() }()
	info, err := h.Stat()
	if err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	if info.Size() < headerSize {
		return nil, fmt.Errorf("%w %s: %d bytes", ErrDamaged, path, info.Size())
	}
	data, err := unix.Mmap(int(h.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("keyset: map %s: %w", path, err)
	}
	f := &file{path: path, data: data}
	if err := f.parse(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *file) parse() error {
	h := f.data[:headerSize]
	count, blocks := binary.LittleEndian.Uint64(h[8:]), binary.LittleEndian.Uint64(h[16:])
	if string(h[:6]) != magic || crc32.Checksum(h[:headerSize-4], castagnoli) != binary.LittleEndian.Uint32(h[headerSize-4:]) {
		return fmt.Errorf("%w %s: its header", ErrDamaged, f.path)
	}
	if h[6] != version {
		return fmt.Errorf("keyset: %s has version %d, not %d", f.path, h[6], version)
	}
	size := uint64(len(f.data)) - headerSize
	if blocks > size/blockSize || count > size/keySize || blocks*blockSize+count*keySize != size {
		return fmt.Errorf("%w %s: its length", ErrDamaged, f.path)
	}
	f.count, f.blocks = int(count), blocks
	f.filter = f.data[headerSize : headerSize+blocks*blockSize]
	f.keys = f.data[headerSize+blocks*blockSize:]
	return nil
}

func (f *file) at(i int) Key {
	b := f.keys[i*keySize:]
	return Key{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (f *file) has(k Key) bool {
	if f.count == 0 || !f.maybe(k) {
		return false
	}
	// The keys are spread evenly, so k is near its share of the way.
	guess, _ := bits.Mul64(k.Hi, uint64(f.count))
	for step := 64; ; step *= 4 {
		from, to := max(int(guess)-step, 0), min(int(guess)+step, f.count)
		if from > 0 && compare(f.at(from), k) > 0 || to < f.count && compare(f.at(to), k) < 0 {
			continue
		}
		i := from + sort.Search(to-from, func(i int) bool { return compare(f.at(from+i), k) >= 0 })
		return i < f.count && f.at(i) == k
	}
}

// The filter is a split block Bloom filter: a key has one bit in each of the eight words of one block.
// Blocks are in the order of the keys, so a file is written from front to back.
var salts = [8]uint32{0x47b6137b, 0x44974d91, 0x8824ad5b, 0xa2b7289d, 0x705495c7, 0x2df1424b, 0x9efc4947, 0x5c6bfb31}

func blockOf(k Key, blocks uint64) uint64 {
	b, _ := bits.Mul64(k.Hi, blocks)
	return b
}

func (f *file) maybe(k Key) bool {
	b := f.filter[blockOf(k, f.blocks)*blockSize:][:blockSize]
	for i, salt := range salts {
		if binary.LittleEndian.Uint32(b[4*i:])>>(uint32(k.Lo)*salt>>27)&1 == 0 {
			return false
		}
	}
	return true
}

func mark(b *[blockSize]byte, k Key) {
	for i, salt := range salts {
		w := binary.LittleEndian.Uint32(b[4*i:]) | 1<<(uint32(k.Lo)*salt>>27)
		binary.LittleEndian.PutUint32(b[4*i:], w)
	}
}

// write makes a synced file of at most room keys, which feed puts in rising order.
func (s *Set) write(room int, feed func(put func(Key) error) error) (_ *file, err error) {
	h, err := os.CreateTemp(s.dir, "*"+suffix)
	if err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	defer func() {
		if e := h.Close(); err == nil && e != nil {
			err = fmt.Errorf("keyset: %w", e)
		}
		if err != nil {
			err = errors.Join(err, os.Remove(h.Name()))
		}
	}()
	w := newWriter(h, room)
	if err := feed(w.put); err != nil {
		return nil, err
	}
	if err := w.finish(); err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	if err := syncDir(s.dir); err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	return openFile(h.Name())
}

// writer writes filter and keys side by side.
type writer struct {
	h      *os.File
	blocks uint64
	filter *bufio.Writer
	keys   *bufio.Writer
	block  [blockSize]byte
	at     uint64 // number of the block being filled
	count  uint64
}

func newWriter(h *os.File, room int) *writer {
	blocks := uint64(room)*bitsPerKey/(8*blockSize) + 1
	return &writer{
		h: h, blocks: blocks,
		filter: bufio.NewWriterSize(io.NewOffsetWriter(h, headerSize), 1<<16),
		keys:   bufio.NewWriterSize(io.NewOffsetWriter(h, int64(headerSize+blocks*blockSize)), 1<<18),
	}
}

func (w *writer) put(k Key) error {
	if err := w.upTo(blockOf(k, w.blocks)); err != nil {
		return err
	}
	mark(&w.block, k)
	var b [keySize]byte
	binary.BigEndian.PutUint64(b[:], k.Hi)
	binary.BigEndian.PutUint64(b[8:], k.Lo)
	w.count++
	_, err := w.keys.Write(b[:])
	return err
}

// upTo writes out the blocks before one.
func (w *writer) upTo(block uint64) error {
	for ; w.at < block; w.at++ {
		if _, err := w.filter.Write(w.block[:]); err != nil {
			return err
		}
		w.block = [blockSize]byte{}
	}
	return nil
}

func (w *writer) finish() error {
	var h [headerSize]byte
	copy(h[:], magic)
	h[6] = version
	binary.LittleEndian.PutUint64(h[8:], w.count)
	binary.LittleEndian.PutUint64(h[16:], w.blocks)
	binary.LittleEndian.PutUint32(h[headerSize-4:], crc32.Checksum(h[:headerSize-4], castagnoli))
	err := errors.Join(w.upTo(w.blocks), w.filter.Flush(), w.keys.Flush())
	if err != nil {
		return err
	}
	if _, err := w.h.WriteAt(h[:], 0); err != nil {
		return err
	}
	return w.h.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// fan is how many files of about one size are merged.
const fan = 4

// Merge makes one file of several of about one size, or returns nil if there is nothing to merge. It takes
// a while, during which the set can be used. One Merge at a time, until its file is installed or discarded.
func (s *Set) Merge() (*File, error) {
	s.merging.Lock()
	defer s.merging.Unlock()
	s.mu.RLock()
	in := s.alike()
	s.mu.RUnlock()
	if in == nil {
		return nil, nil
	}
	room := 0
	names := make([]string, len(in))
	for i, f := range in {
		room += f.count
		names[i] = f.name()
	}
	out, err := s.write(room, func(put func(Key) error) error { return merge(in, put) })
	if err != nil {
		return nil, err
	}
	return &File{f: out, merged: names}, nil
}

// alike finds fan files of a size: what is under 4 times another counts as its size.
func (s *Set) alike() []*file {
	classes := map[int][]*file{}
	for _, f := range s.files {
		c := bits.Len(uint(f.count)) / 2
		if classes[c] = append(classes[c], f); len(classes[c]) >= fan {
			return classes[c]
		}
	}
	return nil
}

// merge puts the keys of all files in order, each once.
func merge(in []*file, put func(Key) error) error {
	at := make([]int, len(in))
	for {
		best := -1
		var least Key
		for i, f := range in {
			if at[i] < f.count {
				if k := f.at(at[i]); best < 0 || compare(k, least) < 0 {
					best, least = i, k
				}
			}
		}
		if best < 0 {
			return nil
		}
		if err := put(least); err != nil {
			return fmt.Errorf("keyset: %w", err)
		}
		for i, f := range in {
			if at[i] < f.count && f.at(at[i]) == least {
				at[i]++
			}
		}
	}
}
