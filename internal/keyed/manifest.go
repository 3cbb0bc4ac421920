package keyed

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// manifestName is the file that makes a folder a snapshot. It is written last.
const manifestName = "SNAPSHOT"

const (
	manifestTitle = "godwit-keyed-snapshot 1"
	maxManifest   = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// manifest says what a snapshot is and of which files it consists.
type manifest struct {
	consumer  string
	partition int32
	version   uint32 // Spec.Version
	offset    int64
	taken     time.Time
	files     []snapFile
}

type snapFile struct {
	name string
	size int64
	crc  uint32
}

// encode gives the text that parseManifest reads; see docs/formats/keyed.md.
func (m *manifest) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nconsumer %s\npartition %d\nversion %d\noffset %d\ntaken %s\n",
		manifestTitle, m.consumer, m.partition, m.version, m.offset, m.taken.UTC().Format(time.RFC3339Nano))
	for _, f := range m.files {
		fmt.Fprintf(&b, "file %s %d %08x\n", f.name, f.size, f.crc)
	}
	fmt.Fprintf(&b, "crc32c %08x\n", crc32.Checksum(b.Bytes(), castagnoli))
	return b.Bytes()
}

var errManifest = errors.New("keyed: snapshot manifest is damaged")

// parseManifest reads what encode wrote, and nothing else.
func parseManifest(data []byte) (*manifest, error) {
	at := bytes.LastIndex(data, []byte("crc32c "))
	if at < 0 || string(data[at:]) != fmt.Sprintf("crc32c %08x\n", crc32.Checksum(data[:at], castagnoli)) {
		return nil, errManifest
	}
	lines := strings.Split(strings.TrimSuffix(string(data[:at]), "\n"), "\n")
	if lines[0] != manifestTitle {
		return nil, fmt.Errorf("%w: it begins with %q, not %q", errManifest, lines[0], manifestTitle)
	}
	var m manifest
	for _, l := range lines[1:] {
		if err := m.line(l); err != nil {
			return nil, fmt.Errorf("%w: line %q: %w", errManifest, l, err)
		}
	}
	if m.consumer == "" || m.offset < 0 || m.partition < 0 || len(m.files) == 0 || !bytes.Equal(m.encode(), data) {
		return nil, errManifest
	}
	return &m, nil
}

func (m *manifest) line(l string) error {
	name, value, _ := strings.Cut(l, " ")
	var n int64
	var u uint64
	var err error
	switch name {
	case "consumer":
		m.consumer = value
	case "partition":
		n, err = strconv.ParseInt(value, 10, 32)
		m.partition = int32(n)
	case "version":
		u, err = strconv.ParseUint(value, 10, 32)
		m.version = uint32(u)
	case "offset":
		m.offset, err = strconv.ParseInt(value, 10, 64)
	case "taken":
		m.taken, err = time.Parse(time.RFC3339Nano, value)
	case "file":
		err = m.file(value)
	default:
		err = errors.New("it is not known")
	}
	return err
}

func (m *manifest) file(value string) (err error) {
	fields := strings.Split(value, " ")
	if len(fields) != 3 || fields[0] == "" || strings.ContainsAny(fields[0], `/\`) || fields[0] == ".." || fields[0] == "." {
		return errors.New("it is not a name, a size and a checksum")
	}
	f := snapFile{name: fields[0]}
	if f.size, err = strconv.ParseInt(fields[1], 10, 64); err != nil {
		return err
	}
	crc, err := strconv.ParseUint(fields[2], 16, 32)
	f.crc = uint32(crc)
	m.files = append(m.files, f)
	return err
}

// bytes is the size of all files.
func (m *manifest) bytes() (n int64) {
	for _, f := range m.files {
		n += f.size
	}
	return n
}

// sum reads a whole file.
func sum(fs vfs.FS, path string, stop func() error) (snapFile, error) {
	out := snapFile{name: fs.PathBase(path)}
	f, err := fs.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return out, err
	}
	defer f.Close()
	buf := make([]byte, 256<<10)
	for {
		if err := stop(); err != nil {
			return out, err
		}
		n, err := f.Read(buf)
		out.size += int64(n)
		out.crc = crc32.Update(out.crc, castagnoli, buf[:n])
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
	}
}

func readManifest(fs vfs.FS, dir string) (*manifest, error) {
	f, err := fs.Open(fs.PathJoin(dir, manifestName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxManifest {
		return nil, errManifest
	}
	return parseManifest(data)
}

// writeSynced writes a file and makes it durable; its name is after a syncDir.
func writeSynced(fs vfs.FS, path string, data []byte) error {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes the names in a folder durable.
func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDir makes a folder and those above it, all durable.
func makeDir(fs vfs.FS, dir string) error {
	var made []string
	for d := dir; ; d = fs.PathDir(d) {
		made = append(made, d)
		if _, err := fs.Stat(d); err == nil || fs.PathDir(d) == d {
			break
		}
	}
	if err := fs.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for _, d := range made {
		if err := syncDir(fs, d); err != nil {
			return err
		}
	}
	return nil
}
