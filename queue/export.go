package queue

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/queue/spool"
)

// ExportFormat is the version of the lines that Export writes;
// docs/formats/export.md describes them.
const ExportFormat = 1

// ErrBadImport is wrapped by what Import returns for lines that are not an
// export. The lines before it are stored.
var ErrBadImport = errors.New("not an export")

// exportLine is one line: a body, or a message that refers to an earlier body.
type exportLine struct {
	Format  int           `json:"format,omitempty"`
	Body    *exportBody   `json:"body,omitempty"`
	Message *mail.Message `json:"message,omitempty"`
	Due     time.Time     `json:"due,omitzero"`
}

type exportBody struct {
	ID       mail.ID       `json:"id"`
	Kind     mail.BodyKind `json:"kind"`
	EightBit bool          `json:"eight_bit,omitempty"`
	Data     []byte        `json:"data"`
}

// Export writes the messages that match as JSON lines and leaves them in the
// queue. Suspend them first and bounce them afterwards to move them elsewhere.
func (q *Queue) Export(ctx context.Context, f Filter, w io.Writer) (n int, err error) {
	if err := f.Validate(); err != nil {
		return 0, err
	}
	out := json.NewEncoder(w)
	if err := out.Encode(exportLine{Format: ExportFormat}); err != nil {
		return 0, err
	}
	bodies := map[mail.ID]bool{}
	write := func(m *mail.Message, loc spool.Loc, due int64) error {
		n++
		return q.exportOne(ctx, out, bodies, m, loc, due)
	}
	type row struct {
		m   mail.Message
		loc spool.Loc
		due int64
	}
	var rows []row
	q.mu.Lock()
	for _, it := range q.live {
		if f.queue(it.queue) && f.message(it.msg) {
			rows = append(rows, row{*it.msg, it.loc, it.due})
		}
	}
	q.mu.Unlock()
	for i := range rows {
		if err := write(&rows[i].m, rows[i].loc, rows[i].due); err != nil {
			return n, fmt.Errorf("export: %w", err)
		}
	}
	err = q.onDiskRows(ctx, f, func(entries []spool.Entry, msgs []*mail.Message, _ *sched) (bool, error) {
		for i, m := range msgs {
			if m == nil {
				continue
			}
			if err := write(m, entries[i].Loc, entries[i].Due); err != nil {
				return false, err
			}
		}
		return true, nil
	})
	if err != nil {
		return n, fmt.Errorf("export: %w", err)
	}
	return n, nil
}

// exportOne writes a message, and its body before it if that was not written yet.
func (q *Queue) exportOne(ctx context.Context, out *json.Encoder, bodies map[mail.ID]bool, m *mail.Message, loc spool.Loc, due int64) error {
	if !bodies[m.Body.ID] {
		data, release, err := q.spool.Body(ctx, m, loc)
		if err != nil {
			return err
		}
		err = out.Encode(exportLine{Body: &exportBody{m.Body.ID, m.Body.Kind, m.Body.EightBit, data}})
		release()
		if err != nil {
			return err
		}
		bodies[m.Body.ID] = true
	}
	return out.Encode(exportLine{Message: m, Due: time.UnixMilli(due)})
}

// importBatch is how many messages of one body are stored in one write.
const importBatch = 1000

// importer collects lines into batches.
type importer struct {
	q      *Queue
	bodies map[mail.ID]*exportBody
	batch  *mail.Batch
	body   mail.ID
	stored int
	known  int
	have   map[mail.ID]struct{} // in the queue when the import began
}

// Import reads what Export wrote. Messages keep their ids, attempts and due
// times; those that are already in the queue are counted and skipped.
func (q *Queue) Import(ctx context.Context, r io.Reader) (stored, known int, err error) {
	in := json.NewDecoder(bufio.NewReaderSize(r, 64<<10))
	imp := &importer{q: q, bodies: map[mail.ID]*exportBody{}}
	if imp.have, err = q.allIDs(); err != nil {
		return 0, 0, fmt.Errorf("import: %w", err)
	}
	for line := 1; ; line++ {
		var l exportLine
		if err := in.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			return imp.stored, imp.known, fmt.Errorf("import: line %d: %w: %w", line, ErrBadImport, err)
		}
		if err := imp.line(ctx, line, &l); err != nil {
			return imp.stored, imp.known, fmt.Errorf("import: line %d: %w", line, err)
		}
	}
	err = imp.flush(ctx)
	return imp.stored, imp.known, err
}

func (imp *importer) line(ctx context.Context, n int, l *exportLine) error {
	switch {
	case n == 1 && l.Format != ExportFormat:
		return fmt.Errorf("%w of format %d", ErrBadImport, ExportFormat)
	case l.Body != nil:
		imp.bodies[l.Body.ID] = l.Body
	case l.Message != nil:
		return imp.message(ctx, l)
	}
	return nil
}

func (imp *importer) message(ctx context.Context, l *exportLine) error {
	m := l.Message
	body := imp.bodies[m.Body.ID]
	if body == nil {
		return fmt.Errorf("%w: message %v refers to body %v, which no earlier line holds", ErrBadImport, m.ID, m.Body.ID)
	}
	if m.ID.IsZero() || m.Domain() == "" {
		return fmt.Errorf("%w: message has no id or recipient", ErrBadImport)
	}
	if _, known := imp.have[m.ID]; known {
		imp.known++
		return nil
	}
	if imp.q.recent.has(m.ID, time.Now()) {
		imp.known++
		return nil
	}
	imp.have[m.ID] = struct{}{}
	if imp.batch != nil && (imp.body != m.Body.ID || len(imp.batch.Messages) >= importBatch) {
		if err := imp.flush(ctx); err != nil {
			return err
		}
	}
	if imp.batch == nil {
		imp.body = m.Body.ID
		// A body of its own: an imported message must not depend on content of another node.
		id := imp.q.ids.New(time.Now())
		imp.batch = &mail.Batch{Origin: mail.Origin{Protocol: "import"},
			Body: &mail.Body{ID: id, Kind: body.Kind, EightBit: body.EightBit, Size: int64(len(body.Data)), Data: body.Data}}
	}
	b := imp.batch.Body
	m.Body = mail.BodyRef{ID: b.ID, Kind: b.Kind, Size: b.Size, EightBit: b.EightBit}
	m.NextAttempt = l.Due
	imp.batch.Messages = append(imp.batch.Messages, m)
	return nil
}

func (imp *importer) flush(ctx context.Context) error {
	if imp.batch == nil {
		return nil
	}
	n := len(imp.batch.Messages)
	if err := imp.q.Put(ctx, imp.batch); err != nil {
		return err
	}
	for _, m := range imp.batch.Messages {
		imp.q.recent.add(m.ID, time.Now())
	}
	imp.stored += n
	imp.batch = nil
	return nil
}

// allIDs is every message of the queue, in memory and on disk. Memory comes
// first: what moves to disk meanwhile is then in either.
func (q *Queue) allIDs() (map[mail.ID]struct{}, error) {
	q.mu.Lock()
	ids := make(map[mail.ID]struct{}, q.queued)
	for id := range q.live {
		ids[id] = struct{}{}
	}
	q.mu.Unlock()
	err := q.spool.Index().Scan(0, func(e spool.Entry) bool {
		if !q.isGone(e.Key) {
			ids[e.ID] = struct{}{}
		}
		return true
	})
	return ids, err
}
