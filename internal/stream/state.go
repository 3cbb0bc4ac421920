package stream

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

// Names in a topic's folder; docs/formats/stream.md describes each.
const (
	metaName     = "META"
	keptName     = "KEPT"
	segmentsName = "segments"
	rewrittenDir = "rewritten"
)

// format is the version of a topic's folder and everything in it.
const format = 1

const maxStateFile = 64 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealText ends a text file with its checksum.
func sealText(text string) []byte {
	return fmt.Appendf(nil, "%scrc32c %08x\n", text, crc32.Checksum([]byte(text), castagnoli))
}

// unsealText returns the lines of a text file without its checksum.
func unsealText(data []byte) ([]string, error) {
	i := bytes.LastIndex(data, []byte("crc32c "))
	if i < 0 || !bytes.Equal(data, sealText(string(data[:i]))) {
		return nil, errors.New("its checksum is wrong")
	}
	return strings.Split(strings.TrimSuffix(string(data[:i]), "\n"), "\n"), nil
}

// openMeta checks the topic's META against what is asked for, or makes it for a new topic.
func openMeta(fsys faultfs.FS, dir, name string, partitions int32) error {
	path := filepath.Join(dir, metaName)
	data, err := faultfs.ReadFile(fsys, path, maxStateFile)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := fsys.Stat(filepath.Join(dir, segmentsName)); err == nil {
			return fmt.Errorf("%s is missing though the topic has segments; it names the format of everything beside it: restore it from a copy", path)
		}
		text := fmt.Sprintf("godwit-stream %d\ntopic %s\npartitions %d\n", format, name, partitions)
		return faultfs.WriteFile(fsys, dir, metaName, sealText(text), 0o640)
	}
	if err != nil {
		return err
	}
	lines, err := unsealText(data)
	if err != nil {
		return fmt.Errorf("%s: %w; it names the format of everything beside it: restore it from a copy", path, err)
	}
	return checkMeta(path, lines, name, partitions)
}

func checkMeta(path string, lines []string, name string, partitions int32) error {
	var version, have int32
	var topic string
	if _, err := fmt.Sscanf(lines[0], "godwit-stream %d", &version); err != nil {
		return fmt.Errorf("%s: not the description of a topic", path)
	}
	if version != format {
		return fmt.Errorf("%s: the topic has format %d, this program reads %d", path, version, format)
	}
	for _, line := range lines[1:] {
		key, value, _ := strings.Cut(line, " ")
		switch key {
		case "topic":
			topic = value
		case "partitions":
			if _, err := fmt.Sscan(value, &have); err != nil {
				return fmt.Errorf("%s: partitions: %w", path, err)
			}
		}
	}
	switch {
	case topic != name:
		return fmt.Errorf("%s: the folder holds topic %q, not %q", path, topic, name)
	case have != partitions:
		return fmt.Errorf("topic %s has %d partitions, not %d; their number cannot be changed", name, have, partitions)
	}
	return nil
}

// kept is what a topic knows of its own past and of its consumers. KEPT holds it.
type kept struct {
	dropped int64                      // all records before it were dropped
	gone    []int64                    // by partition: the offset behind its last dropped record
	holds   map[string]map[int32]int64 // by group and partition
}

func (k *kept) clone() *kept {
	c := &kept{dropped: k.dropped, gone: slices.Clone(k.gone), holds: map[string]map[int32]int64{}}
	for group, held := range k.holds {
		c.holds[group] = maps.Clone(held)
	}
	return c
}

// lowest is the offset from which on records must stay, the largest one if no group holds any.
func (k *kept) lowest() int64 {
	low := int64(1<<63 - 1)
	for _, held := range k.holds {
		for _, offset := range held {
			low = min(low, offset)
		}
	}
	return low
}

func (k *kept) encode() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "godwit-stream-kept %d\ndropped %d\n", format, k.dropped)
	for p, offset := range k.gone {
		if offset > 0 {
			fmt.Fprintf(&b, "gone %d %d\n", p, offset)
		}
	}
	for _, group := range slices.Sorted(maps.Keys(k.holds)) {
		for _, p := range slices.Sorted(maps.Keys(k.holds[group])) {
			fmt.Fprintf(&b, "hold %d %d %q\n", p, k.holds[group][p], group)
		}
	}
	return sealText(b.String())
}

func parseKept(data []byte, partitions int32) (*kept, error) {
	lines, err := unsealText(data)
	if err != nil {
		return nil, err
	}
	var version int
	if _, err := fmt.Sscanf(lines[0], "godwit-stream-kept %d", &version); err != nil || version != format {
		return nil, fmt.Errorf("begins with %q, not with format %d", lines[0], format)
	}
	k := &kept{gone: make([]int64, partitions), holds: map[string]map[int32]int64{}}
	for _, line := range lines[1:] {
		if err := k.parseLine(line); err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
	}
	return k, nil
}

func (k *kept) parseLine(line string) error {
	var p int32
	var offset int64
	var group string
	key, value, _ := strings.Cut(line, " ")
	switch key {
	case "dropped":
		_, err := fmt.Sscanf(value, "%d", &k.dropped)
		return err
	case "gone":
		if _, err := fmt.Sscanf(value, "%d %d", &p, &offset); err != nil {
			return err
		}
	case "hold":
		if _, err := fmt.Sscanf(value, "%d %d %q", &p, &offset, &group); err != nil {
			return err
		}
	default:
		return errors.New("unknown key")
	}
	switch {
	case p < 0 || int(p) >= len(k.gone):
		return errors.New("no such partition")
	case key == "gone":
		k.gone[p] = offset
	case k.holds[group] == nil:
		k.holds[group] = map[int32]int64{p: offset}
	default:
		k.holds[group][p] = offset
	}
	return nil
}

// readKept returns what KEPT holds, nothing if there is none yet.
func readKept(fsys faultfs.FS, dir string, partitions int32) (*kept, error) {
	path := filepath.Join(dir, keptName)
	data, err := faultfs.ReadFile(fsys, path, maxStateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return &kept{gone: make([]int64, partitions), holds: map[string]map[int32]int64{}}, nil
	}
	if err != nil {
		return nil, err
	}
	k, err := parseKept(data, partitions)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; without it nothing tells what consumers still need: restore it from a copy", path, err)
	}
	return k, nil
}
