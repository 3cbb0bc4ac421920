package erase

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// The files of the eraser's folder. Each is one JSON document and a line with its checksum.
const (
	stateName = "state"
	planName  = "plan"
	format    = 1
	maxFile   = 1 << 30
)

// who is a profile of a tenant.
type who struct {
	tenant  string
	profile fact.ProfileID
}

// MarshalText implements encoding.TextMarshaler.
func (w who) MarshalText() ([]byte, error) { return []byte(w.profile.String() + " " + w.tenant), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *who) UnmarshalText(b []byte) (err error) {
	id, tenant, _ := strings.Cut(string(b), " ")
	w.tenant = tenant
	w.profile, err = fact.ParseProfileID(id)
	return err
}

// waiting is a deletion that is not erased yet.
type waiting struct {
	at  time.Time      // accepted
	met map[int32]bool // the partitions of the first log whose markers were met
}

// state is what is collected. The log has it too, so what is not written down is not lost.
type state struct {
	next    []int64 // by partition of the second log: what lies before it is collected
	waiting map[who]*waiting
	origins map[source]place // of the last marker
	last    Report
}

// source is a partition of the first log as one of the second log knows it.
type source struct{ to, from int32 }

// place is where in a source a record was made, and the number among those made there.
type place struct {
	offset int64
	n      int32
}

type stateFile struct {
	Format  int
	Next    []int64
	Waiting []waitingFile
	Origins []originFile
	Last    Report
}

type originFile struct {
	To, From int32
	Offset   int64
	N        int32
}

type waitingFile struct {
	Profile who
	At      time.Time
	Met     []int32
}

// load reads what was written down. What is damaged is collected from the log again.
func (e *Eraser) load() error {
	e.st = state{next: make([]int64, e.d.Facts.Partitions()), waiting: map[who]*waiting{}, origins: map[source]place{}}
	var f stateFile
	err := e.read(stateName, &f)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, errDamaged) || err == nil && (f.Format != format || len(f.Next) != len(e.st.next)):
		e.log.Error("erase: the list of what waits cannot be used; it is made anew from the log", "file", filepath.Join(e.dir, stateName), "error", err)
		return nil
	case err != nil:
		return err
	}
	e.st.next, e.st.last = f.Next, f.Last
	for _, o := range f.Origins {
		e.st.origins[source{o.To, o.From}] = place{o.Offset, o.N}
	}
	for _, w := range f.Waiting {
		x := &waiting{at: w.At, met: map[int32]bool{}}
		for _, p := range w.Met {
			x.met[p] = true
		}
		e.st.waiting[w.Profile] = x
	}
	return nil
}

// save writes down what is collected, if it changed.
func (e *Eraser) save() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.dirty {
		return nil
	}
	f := stateFile{Format: format, Next: e.st.next, Last: e.st.last}
	for w, x := range e.st.waiting {
		one := waitingFile{Profile: w, At: x.at}
		for p := range x.met {
			one.Met = append(one.Met, p)
		}
		slices.Sort(one.Met)
		f.Waiting = append(f.Waiting, one)
	}
	for s, p := range e.st.origins {
		f.Origins = append(f.Origins, originFile{s.to, s.from, p.offset, p.n})
	}
	slices.SortFunc(f.Waiting, func(a, b waitingFile) int { return a.At.Compare(b.At) })
	if err := e.write(stateName, f); err != nil {
		return err
	}
	e.dirty = false
	return nil
}

var errDamaged = errors.New("erase: a file is damaged")

func (e *Eraser) write(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b = fmt.Appendf(append(b, '\n'), "crc32c %08x\n", sum(b))
	return faultfs.WriteFile(e.d.FS, e.dir, name, b, 0o640)
}

func (e *Eraser) read(name string, v any) error {
	b, err := faultfs.ReadFile(e.d.FS, filepath.Join(e.dir, name), maxFile)
	if err != nil {
		return err
	}
	text, tail, _ := bytes.Cut(b, []byte("\n"))
	if string(tail) != fmt.Sprintf("crc32c %08x\n", sum(text)) {
		return fmt.Errorf("%w: %s: its checksum is wrong", errDamaged, name)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%w: %s: %w", errDamaged, name, err)
	}
	return nil
}

func sum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func (e *Eraser) planPath() string { return filepath.Join(e.dir, planName) }
