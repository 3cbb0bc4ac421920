package accept

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/godwit-mta/godwit/internal/mail"
)

// chunkSize is the unit in which a message is read: a common one fits in one.
const chunkSize = 32 << 10

// memoryWait is how long an injection waits for memory. Nothing is read from
// the client meanwhile, so no other timeout ends it.
const memoryWait = 30 * time.Second

type chunk [chunkSize]byte

// memory is the budget that all injections share, and the chunks they read with.
type memory struct {
	budget *semaphore.Weighted
	size   int64
	chunks sync.Pool
}

func newMemory(size int64) *memory {
	m := &memory{budget: semaphore.NewWeighted(size), size: size}
	m.chunks.New = func() any { return new(chunk) }
	return m
}

// intake reads one message. It waits for memory only while it holds none, and
// goes to a file when it cannot get more, so injections cannot block each other for ever.
type intake struct {
	door *Door
	r    io.Reader
	held int64 // bytes of the budget

	first []byte // the message's beginning, whole header included
	full  []*chunk
	tail  int // bytes used of the last of full
	eof   bool
	size  int64 // bytes read so far

	pooled *chunk // what first lies in, nil when it outgrew a chunk
	file   LargeFile
}

// wait takes n bytes of the budget, at once or within memoryWait.
func (m *memory) wait(ctx context.Context, n int64) *Error {
	if m.budget.TryAcquire(n) {
		return nil
	}
	short, cancel := context.WithTimeout(ctx, memoryWait)
	defer cancel()
	err := m.budget.Acquire(short, n)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return failed(fmt.Errorf("wait for memory: %w", ctx.Err()))
	}
	return &Error{Code: 452, Enhanced: [3]int{4, 3, 1}, Message: "Insufficient memory, try again later",
		Err: fmt.Errorf("wait for memory: %w", err)}
}

// open takes the first chunk's memory, waiting for it if need be.
func (d *Door) open(ctx context.Context, r io.Reader) (*intake, *Error) {
	if refusal := d.memory.wait(ctx, chunkSize); refusal != nil {
		return nil, refusal
	}
	in := &intake{door: d, r: r, held: chunkSize}
	in.pooled = d.memory.chunks.Get().(*chunk)
	in.first = in.pooled[:0]
	return in, nil
}

// close gives memory back and removes the file unless the queue has it.
func (in *intake) close() {
	in.recycle()
	in.shrink(0)
	if in.file != nil {
		in.file.Abort()
		in.file = nil
	}
}

func (in *intake) recycle() {
	if in.pooled != nil {
		in.door.memory.chunks.Put(in.pooled)
		in.pooled = nil
	}
	for _, c := range in.full {
		in.door.memory.chunks.Put(c)
	}
	in.first, in.full = nil, nil
}

// shrink gives back what is held beyond keep.
func (in *intake) shrink(keep int64) {
	if in.held > keep {
		in.door.memory.budget.Release(in.held - keep)
		in.held = keep
	}
}

func (in *intake) grow(n int64) bool {
	if !in.door.memory.budget.TryAcquire(n) {
		return false
	}
	in.held += n
	return true
}

// read fills b as far as the stream goes and sets in.eof at its end.
func (in *intake) read(b []byte) (int, *Error) {
	for idle := 0; idle < 100; idle++ {
		n, err := in.r.Read(b)
		in.size += int64(n)
		if in.size > int64(in.door.opts.MaxSize) {
			return n, tooLarge(in.door.opts.MaxSize.String())
		}
		if err == io.EOF {
			in.eof = true
			return n, nil
		}
		if err != nil {
			return n, brokenRead(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, brokenRead(io.ErrNoProgress)
}

func tooLarge(limit string) *Error {
	return refuse(552, 5, 3, 4, "", "Message too large, at most "+limit)
}

func headerTooLarge(limit string) *Error {
	return refuse(552, 5, 3, 4, "", "Message header too large, at most "+limit)
}

func brokenRead(err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	return &Error{Code: 451, Enhanced: [3]int{4, 4, 2}, Message: "Message was not received whole",
		Err: fmt.Errorf("read message: %w", err)}
}

// header reads until the header block is complete and scanned.
func (in *intake) header() (*header, *Error) {
	h := &header{}
	limit := int(in.door.opts.MaxHeader)
	for {
		if err := h.scan(in.first, in.eof); err != nil {
			return nil, err
		}
		if (h.done && h.end > limit) || (!h.done && len(in.first) > limit) {
			return nil, headerTooLarge(in.door.opts.MaxHeader.String())
		}
		if h.done {
			return h, nil
		}
		if err := in.more(); err != nil {
			return nil, err
		}
	}
}

// more reads on into first, moving it to a larger place when it is full.
func (in *intake) more() *Error {
	if len(in.first) == cap(in.first) {
		n := int64(in.door.opts.MaxHeader) + chunkSize
		if !in.grow(n) {
			return refuse(452, 4, 3, 1, "", "Insufficient memory for this header, try again later")
		}
		in.first = append(make([]byte, 0, n), in.first...)
		in.door.memory.chunks.Put(in.pooled)
		in.pooled = nil
	}
	used := len(in.first)
	n, err := in.read(in.first[used:cap(in.first)])
	in.first = in.first[:used+n]
	return err
}

// body reads the rest. The answer's Data or Path is set and, for Path, the file committed.
func (in *intake) body(ctx context.Context, h *header, fields []byte, hint int64) (*mail.Body, *Error) {
	inline := int64(in.door.opts.Inline) - int64(len(fields))
	for hint <= inline && in.size <= inline && !in.eof {
		if len(in.first) < cap(in.first) && len(in.full) == 0 {
			if err := in.more(); err != nil {
				return nil, err
			}
			continue
		}
		if in.room() == 0 && !in.addChunk() {
			break
		}
		last := in.full[len(in.full)-1]
		n, err := in.read(last[in.tail:])
		in.tail += n
		if err != nil {
			return nil, err
		}
	}
	if in.eof && in.size <= inline {
		return in.inMemory(h, fields), nil
	}
	return in.toFile(ctx, h, fields)
}

func (in *intake) room() int {
	if len(in.full) == 0 {
		return 0
	}
	return chunkSize - in.tail
}

func (in *intake) addChunk() bool {
	if !in.grow(chunkSize) {
		return false
	}
	in.full = append(in.full, in.door.memory.chunks.Get().(*chunk))
	in.tail = 0
	return true
}

// rest calls f with what has been read after first, in order.
func (in *intake) rest(f func([]byte) error) error {
	for i, c := range in.full {
		n := chunkSize
		if i == len(in.full)-1 {
			n = in.tail
		}
		if err := f(c[:n]); err != nil {
			return err
		}
	}
	return nil
}

// inMemory puts the message together at its exact size. The queue will own the
// bytes; the chunks go back, and the budget keeps only the message's own size.
func (in *intake) inMemory(h *header, fields []byte) *mail.Body {
	data := make([]byte, 0, len(fields)+int(in.size)+4)
	data = append(data, fields...)
	data = h.appendKept(data, in.first)
	data = append(data, in.first[h.body:]...)
	_ = in.rest(func(b []byte) error { data = append(data, b...); return nil })
	in.recycle()
	in.shrink(int64(len(data)))
	return &mail.Body{Data: data, Size: int64(len(data)), EightBit: hasHigh(data)}
}

// toFile writes what was read to a file on the spool volume and the rest of the stream after it.
func (in *intake) toFile(ctx context.Context, h *header, fields []byte) (*mail.Body, *Error) {
	var err error
	if in.file, err = in.door.deps.Queue.Large(ctx); err != nil {
		return nil, failed(fmt.Errorf("open file for large body: %w", err))
	}
	in.door.metrics.large.Inc()
	w := &bodyWriter{w: in.file}
	w.put(h.appendKept(append(make([]byte, 0, len(fields)+h.kept()+4), fields...), in.first))
	w.put(in.first[h.body:])
	_ = in.rest(func(b []byte) error { w.put(b); return w.err })
	in.recycle()
	in.shrink(chunkSize)
	if refusal := in.stream(ctx, w); refusal != nil {
		return nil, refusal
	}
	if err := in.file.Commit(); err != nil {
		return nil, failed(fmt.Errorf("store large body: %w", err))
	}
	return &mail.Body{Path: in.file.Path(), Size: w.size, EightBit: w.high}, nil
}

func (in *intake) stream(ctx context.Context, w *bodyWriter) *Error {
	c := in.door.memory.chunks.Get().(*chunk)
	defer in.door.memory.chunks.Put(c)
	for w.err == nil && !in.eof {
		if err := ctx.Err(); err != nil {
			return failed(err)
		}
		n, err := in.fill(c[:])
		if err != nil {
			return err
		}
		w.put(c[:n])
	}
	if w.err != nil {
		return failed(fmt.Errorf("write large body: %w", w.err))
	}
	return nil
}

// fill reads until b is full or the stream ends, so that writes are large.
func (in *intake) fill(b []byte) (int, *Error) {
	n := 0
	for n < len(b) && !in.eof {
		m, err := in.read(b[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// bodyWriter counts and looks for bytes above 127; it keeps the first error.
type bodyWriter struct {
	w    io.Writer
	size int64
	high bool
	err  error
}

// put passes b on unless something failed before.
func (w *bodyWriter) put(b []byte) {
	if w.err != nil || len(b) == 0 {
		return
	}
	w.high = w.high || hasHigh(b)
	n, err := w.w.Write(b)
	w.size += int64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	w.err = err
}

// crlf returns b with every line end CR LF, and b itself where they are so already.
func crlf(b []byte) []byte {
	lone := bytes.Count(b, []byte("\n")) + bytes.Count(b, []byte("\r")) - 2*bytes.Count(b, []byte("\r\n"))
	if lone == 0 {
		return b
	}
	out := make([]byte, 0, len(b)+lone)
	for i, c := range b {
		switch {
		case c == '\r':
			out = append(out, "\r\n"...)
		case c == '\n' && (i == 0 || b[i-1] != '\r'):
			out = append(out, "\r\n"...)
		case c != '\n':
			out = append(out, c)
		}
	}
	return out
}
