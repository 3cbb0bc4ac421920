// Package importer reads events or profiles from CSV and NDJSON files and hands them on in batches,
// as items of the bulk jobs of the API.
//
// Rows that cannot be used go to a file of rejects, with their lines, and the others are imported. After each batch
// that was taken a checkpoint is written beside the input: an import that was interrupted goes on behind it. The batch
// that was under way comes a second time, and that is harmless: the unique id of an event is derived from
// the file's content and the line.
package importer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/godwit-mta/godwit/pipeline/ingest/mapping"
)

// Kinds of what a file has.
const (
	Events   = "events"
	Profiles = "profiles"
)

// Formats of a file.
const (
	CSV    = "csv"
	NDJSON = "ndjson"
)

// Options say what a file has and where it is found.
type Options struct {
	Kind      string        `toml:"kind" doc:"events or profiles."`
	Format    string        `toml:"format" doc:"csv, with the names of the columns in the first line, or ndjson, one JSON object a line."`
	Delimiter string        `toml:"delimiter" doc:"What separates columns: one character, a comma if empty."`
	Text      []string      `toml:"text" doc:"Columns that stay text where they look like numbers or booleans."`
	Mapping   mapping.Event `toml:"mapping"`
	Batch     int           `toml:"batch" doc:"Rows of one batch."`
	MaxBatch  int           `toml:"max_batch" doc:"Largest batch in bytes."`
	MaxRow    int           `toml:"max_row" doc:"Largest row in bytes."`

	// Checkpoint is a file beside the input; empty: the import always begins at the start.
	Checkpoint string `toml:"-"`
	// Rejects is the file for rows that are not imported; empty: they are only counted.
	Rejects string `toml:"-"`
	// Seed is what unique ids begin with if the input cannot be read twice, as a pipe cannot.
	Seed string `toml:"-"`
}

// DefaultOptions read events from CSV, in batches of 1000 rows and 4 MiB.
func DefaultOptions() Options {
	return Options{Kind: Events, Format: CSV, Batch: 1000, MaxBatch: 4 << 20, MaxRow: 1 << 20}
}

// Validate returns an error that begins with the key at fault.
func (o Options) Validate() error {
	switch {
	case o.Kind != Events && o.Kind != Profiles:
		return errors.New("kind: must be events or profiles")
	case o.Format != CSV && o.Format != NDJSON:
		return errors.New("format: must be csv or ndjson")
	case len(o.Delimiter) > 1 || o.Delimiter == `"` || o.Delimiter == "\n" || o.Delimiter == "\r":
		return errors.New("delimiter: must be one character of ASCII that is no quote and ends no line")
	case o.Batch < 1 || o.MaxBatch < 1 || o.MaxRow < 1:
		return errors.New("batch: batch, max_batch and max_row must be at least 1")
	}
	_, err := mapping.New(o.Mapping)
	if err == nil && o.Kind == Events {
		err = o.Mapping.CheckEvent()
	}
	if err != nil {
		return fmt.Errorf("mapping.%w", err)
	}
	return nil
}

// Row is one of a batch: an item of a bulk job.
type Row struct {
	Line int64 // of the file, from 1
	Item []byte
}

// Reject is a row that is not imported.
type Reject struct {
	Line   int64  `json:"line"`
	Column string `json:"column,omitempty"` // or path
	Reason string `json:"reason"`
}

// Sink takes a batch in. It returns the rows that were refused; when it returns without an error the
// others are durable. After an error the import ends, and can be resumed.
type Sink func(ctx context.Context, rows []Row) ([]Reject, error)

// Progress tells how far an import is.
type Progress struct {
	Bytes    int64 // read
	Total    int64 // of the input; 0 if that is not known
	Rows     int64
	Rejected int64
}

// Document is the body of the bulk job for a batch.
func (o Options) Document(rows []Row) []byte {
	items := make([][]byte, len(rows))
	for i := range rows {
		items[i] = rows[i].Item
	}
	if o.Kind == Profiles {
		return mapping.ProfileJob(items)
	}
	return mapping.Job(items)
}

// Import reads in to its end and gives all rows to sink in batches. If in is an io.ReadSeeker and o.Checkpoint is set, it goes on
// where an import of the same content and options was interrupted; on success the checkpoint is removed. progress may be nil and is
// called after each batch.
func Import(ctx context.Context, in io.Reader, o Options, sink Sink, progress func(Progress)) (Progress, error) {
	im, err := begin(in, o, sink)
	if err != nil {
		return Progress{}, err
	}
	defer im.close()
	if progress == nil {
		progress = func(Progress) {}
	}
	progress(im.at)
	for done := false; !done; {
		if err := ctx.Err(); err != nil {
			return im.at, err
		}
		rows, rejects, err := im.batch()
		if done = err == io.EOF; err != nil && !done {
			return im.at, err
		}
		if err := im.take(ctx, rows, rejects); err != nil {
			return im.at, err
		}
		progress(im.at)
	}
	return im.at, im.finish()
}

// importing is an import under way.
type importing struct {
	o      Options
	mapper *mapping.Mapper
	sink   Sink
	rows   *source
	state  *state
	uid    string // what unique ids begin with
	at     Progress
}

// begin finds out where to begin.
func begin(in io.Reader, o Options, sink Sink) (*importing, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	m, err := mapping.New(o.Mapping)
	if err != nil {
		return nil, err
	}
	im := &importing{o: o, mapper: m, sink: sink}
	seeker, _ := in.(io.ReadSeeker)
	fingerprint := ""
	if seeker != nil {
		if fingerprint, im.at.Total, err = fingerprintOf(seeker); err != nil {
			return nil, err
		}
		im.uid = "import-" + fingerprint[:24] + "-"
	} else {
		if o.Checkpoint != "" || o.Seed == "" {
			return nil, errors.New("an input that cannot be read twice has no checkpoint and needs a seed")
		}
		im.uid = "import-" + o.Seed + "-"
	}
	im.rows = o.source(in)
	if err := im.rows.start(); err != nil {
		return nil, err
	}
	if err := im.checkColumns(); err != nil {
		return nil, err
	}
	if im.state, err = openState(o, fingerprint); err != nil {
		return nil, err
	}
	if c := im.state.checkpoint; c.Offset > 0 {
		if _, err := seeker.Seek(c.Offset, io.SeekStart); err != nil {
			return nil, errors.Join(err, im.state.close())
		}
		im.rows.r.Reset(in)
		im.rows.offset, im.rows.line = c.Offset, c.Line
		im.at.Bytes, im.at.Rows, im.at.Rejected = c.Offset, c.Rows, c.Rejected
	}
	return im, nil
}

func (o Options) source(in io.Reader) *source {
	s := &source{r: bufio.NewReaderSize(in, 1<<16), most: o.MaxRow, text: map[string]bool{}}
	if o.Format == CSV {
		s.comma = ','
		if o.Delimiter != "" {
			s.comma = o.Delimiter[0]
		}
	}
	for _, name := range o.Text {
		s.text[name] = true
	}
	return s
}

// fingerprintOf hashes the whole input, and returns to its start.
func fingerprintOf(in io.ReadSeeker) (string, int64, error) {
	h := sha256.New()
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return "", 0, err
	}
	n, err := io.Copy(h, in)
	if err != nil {
		return "", 0, err
	}
	_, err = in.Seek(0, io.SeekStart)
	return hex.EncodeToString(h.Sum(nil)), n, err
}

// checkColumns reports a configured column that a CSV file does not have.
func (im *importing) checkColumns() error {
	if im.rows.comma == 0 {
		return nil
	}
	names := map[string]any{}
	for _, name := range im.rows.header {
		names[name] = name
	}
	for _, p := range im.mapper.Paths() {
		if _, ok := p.Get(names); !ok {
			return fmt.Errorf("the file has no column %q", p.Name())
		}
	}
	// Whatever is not a property of its own must be taken as it stands there: ids have leading zeros.
	for _, name := range im.rows.header {
		if im.mapper.Uses(name) {
			im.rows.text[name] = true
		}
	}
	return nil
}

// batch reads the next rows. io.EOF comes with the last ones.
func (im *importing) batch() (rows []Row, rejects []Reject, err error) {
	size := 0
	for len(rows)+len(rejects) < im.o.Batch && size < im.o.MaxBatch {
		r, err := im.rows.next()
		if err != nil {
			return rows, rejects, err
		}
		im.at.Rows++
		var item []byte
		if r.err == nil {
			item, r.err = im.item(r)
		}
		if r.err == nil {
			rows = append(rows, Row{r.line, item})
			size += len(item)
			continue
		}
		reject := Reject{Line: r.line, Reason: r.err.Error()}
		if bad := new(mapping.Error); errors.As(r.err, &bad) {
			reject.Column, reject.Reason = bad.Path, bad.Detail
		}
		rejects = append(rejects, reject)
	}
	return rows, rejects, nil
}

func (im *importing) item(r row) ([]byte, error) {
	if im.o.Kind == Profiles {
		return im.mapper.Profile(r.value)
	}
	rest := make(map[string]any, len(r.value))
	for name, v := range r.value {
		if !im.mapper.Uses(name) {
			rest[name] = v
		}
	}
	return im.mapper.Item(r.value, rest, im.uid+strconv.FormatInt(r.line, 10))
}

// Where tells the column or path that a pointer of the API's errors is about, for a Sink that gets them.
func (o Options) Where(pointer string) string {
	m, err := mapping.New(o.Mapping)
	if err != nil {
		return ""
	}
	return m.Where(pointer)
}

// take gives a batch to the sink and notes what became of it.
func (im *importing) take(ctx context.Context, rows []Row, rejects []Reject) error {
	if len(rows) > 0 {
		refused, err := im.sink(ctx, rows)
		if err != nil {
			return err
		}
		rejects = append(rejects, refused...)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for _, r := range rejects {
		if err := e.Encode(r); err != nil {
			return err
		}
	}
	im.at.Rejected += int64(len(rejects))
	im.at.Bytes = im.rows.offset
	return im.state.commit(b.Bytes(), im.rows, im.at)
}

func (im *importing) finish() error { return im.state.finish() }

func (im *importing) close() { _ = im.state.close() }
