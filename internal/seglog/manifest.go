package seglog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

// manifest tells which segments are gone because their user freed them. Without
// it a segment file that was lost could not be told from one that was freed.
//
// It is a text file, written before any file of a freed segment is touched:
//
//	godwit-seglog 1
//	oldest 12
//	freed 14-15 18
//	crc32c 0a1b2c3d
type manifest struct {
	oldest uint64          // all segments below were freed
	freed  map[uint64]bool // freed ones above
}

const (
	manifestFirstLine = "godwit-seglog 1"
	maxManifest       = 16 << 20
)

func (m manifest) encode() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\noldest %d\nfreed", manifestFirstLine, m.oldest)
	seqs := make([]uint64, 0, len(m.freed))
	for seq := range m.freed {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	for i := 0; i < len(seqs); {
		j := i
		for j+1 < len(seqs) && seqs[j+1] == seqs[j]+1 {
			j++
		}
		fmt.Fprintf(&b, " %d", seqs[i])
		if j > i {
			fmt.Fprintf(&b, "-%d", seqs[j])
		}
		i = j + 1
	}
	b.WriteByte('\n')
	fmt.Fprintf(&b, "crc32c %08x\n", crc32.Checksum([]byte(b.String()), castagnoli))
	return []byte(b.String())
}

var errBadManifest = errors.New("not a valid manifest")

func parseManifest(data []byte) (manifest, error) {
	m := manifest{freed: map[uint64]bool{}}
	lines := strings.Split(string(data), "\n")
	if len(lines) != 5 || lines[0] != manifestFirstLine || lines[4] != "" {
		return m, errBadManifest
	}
	body := strings.Join(lines[:3], "\n") + "\n"
	if lines[3] != fmt.Sprintf("crc32c %08x", crc32.Checksum([]byte(body), castagnoli)) {
		return m, errBadManifest
	}
	oldest, ok := strings.CutPrefix(lines[1], "oldest ")
	freed, ok2 := strings.CutPrefix(lines[2], "freed")
	if !ok || !ok2 {
		return m, errBadManifest
	}
	var err error
	if m.oldest, err = strconv.ParseUint(oldest, 10, 64); err != nil {
		return m, errBadManifest
	}
	for _, word := range strings.Fields(freed) {
		if err := m.addRange(word); err != nil {
			return m, err
		}
	}
	return m, nil
}

// addRange adds "14-15" or "18".
func (m *manifest) addRange(word string) error {
	low, high, isRange := strings.Cut(word, "-")
	if !isRange {
		high = low
	}
	first, err1 := strconv.ParseUint(low, 10, 64)
	last, err2 := strconv.ParseUint(high, 10, 64)
	if err1 != nil || err2 != nil || last < first || last-first > maxManifest {
		return errBadManifest
	}
	for seq := first; seq <= last; seq++ {
		m.freed[seq] = true
	}
	return nil
}

// readManifest returns the manifest of the folder; found is false when there is none or it cannot be read.
func (l *Log) readManifest() (m manifest, found bool, err error) {
	data, err := faultfs.ReadFile(l.fs, l.path(manifestName), maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return manifest{freed: map[uint64]bool{}}, false, nil
	}
	if err != nil {
		return m, false, err
	}
	m, err = parseManifest(data)
	if err != nil {
		l.log.Warn("manifest is damaged: freed segments cannot be told from lost ones", "path", l.path(manifestName))
		return manifest{freed: map[uint64]bool{}}, false, nil
	}
	return m, true, nil
}

// writeManifest makes the present set of freed segments durable.
func (l *Log) writeManifest() error {
	l.mu.RLock()
	data := manifest{oldest: l.oldest, freed: l.freed}.encode()
	l.mu.RUnlock()
	return faultfs.WriteFile(l.fs, l.dir, manifestName, data, filePerm)
}
