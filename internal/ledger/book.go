package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

const (
	pageSize  = 1 << 20 // memory is taken in pages that are never copied or moved
	pageSlack = 32 << 10
)

// Book keeps records in memory, in the file format, and copies them to a file
// as pages fill. It is safe for concurrent use. Records cost their encoded
// size (about 120 bytes) and nothing to the garbage collector.
type Book struct {
	mu      sync.Mutex
	pages   [][]byte // the last one is being filled
	count   int64
	dropped bool // records are counted, not kept in memory
	file    *os.File
	written int // bytes of the last page that the file has
	err     error
}

// BookOptions say where records go.
type BookOptions struct {
	Path string // file to write, created or emptied; "" for none
	// Forget drops records from memory once they are in the file (or at once
	// when there is none): a long run then needs no memory for them.
	Forget bool
}

// NewBook returns an empty book.
func NewBook(o BookOptions) (*Book, error) {
	b := &Book{dropped: o.Forget}
	if o.Path == "" {
		return b, nil
	}
	f, err := os.Create(o.Path)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if _, err := f.WriteString(Magic); err != nil {
		f.Close()
		return nil, fmt.Errorf("ledger: %w", err)
	}
	b.file = f
	return b, nil
}

// AddAck appends a record.
func (b *Book) AddAck(a *Ack) {
	b.mu.Lock()
	page := b.page()
	*page = AppendAck(*page, a)
	b.mu.Unlock()
}

// AddDelivery appends a record.
func (b *Book) AddDelivery(d *Delivery) {
	b.mu.Lock()
	page := b.page()
	*page = AppendDelivery(*page, d)
	b.mu.Unlock()
}

// page returns a page with room for one more record, which it counts.
func (b *Book) page() *[]byte {
	b.count++
	last := len(b.pages) - 1
	if last >= 0 && cap(b.pages[last])-len(b.pages[last]) >= pageSlack {
		return &b.pages[last]
	}
	b.flushLocked()
	if b.dropped && last >= 0 {
		b.pages[last] = b.pages[last][:0]
		b.written = 0
		return &b.pages[last]
	}
	b.pages = append(b.pages, make([]byte, 0, pageSize))
	b.written = 0
	return &b.pages[last+1]
}

// Flush writes what the file does not have yet. The error is sticky.
func (b *Book) Flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flushLocked()
}

func (b *Book) flushLocked() error {
	if b.file == nil || len(b.pages) == 0 || b.err != nil {
		return b.err
	}
	last := b.pages[len(b.pages)-1]
	if _, err := b.file.Write(last[b.written:]); err != nil {
		b.err = fmt.Errorf("ledger: %w", err)
		return b.err
	}
	b.written = len(last)
	return nil
}

// Close flushes and closes the file. The records in memory stay readable. A second call does nothing.
func (b *Book) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.flushLocked()
	if b.file == nil {
		return err
	}
	if cerr := b.file.Close(); cerr != nil && err == nil {
		err = fmt.Errorf("ledger: %w", cerr)
	}
	b.file = nil
	return err
}

// Len is the number of records added since the start or the last Reset.
func (b *Book) Len() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count
}

// Reset forgets all records and empties the file.
func (b *Book) Reset() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pages, b.count, b.written, b.err = nil, 0, 0, nil
	if b.file == nil {
		return nil
	}
	err := b.file.Truncate(int64(len(Magic)))
	if err == nil {
		_, err = b.file.Seek(int64(len(Magic)), io.SeekStart)
	}
	if err != nil {
		b.err = fmt.Errorf("ledger: %w", err)
	}
	return b.err
}

// WriteTo writes the file format: every record that is in memory at the time of the call.
func (b *Book) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, Magic)
	total := int64(n)
	for _, page := range b.snapshot() {
		if err != nil {
			break
		}
		n, err = w.Write(page)
		total += int64(n)
	}
	return total, err
}

// snapshot returns the pages as they are now. Bytes below a page's length are never changed again, unless pages are reused.
func (b *Book) snapshot() [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dropped {
		return nil
	}
	return append([][]byte(nil), b.pages...)
}

// Deliveries returns the deliveries in memory.
func (b *Book) Deliveries() []Delivery { _, d := b.read(); return d }

// Acks returns the acks in memory.
func (b *Book) Acks() []Ack { a, _ := b.read(); return a }

func (b *Book) read() (acks []Ack, deliveries []Delivery) {
	readers := []io.Reader{bytes.NewReader([]byte(Magic))}
	for _, page := range b.snapshot() {
		readers = append(readers, bytes.NewReader(page))
	}
	acks, deliveries, _ = Read(io.MultiReader(readers...)) // our own memory cannot be damaged
	return acks, deliveries
}

// WriteNDJSON writes the records of r as JSON, one to a line, each with its kind ("ack" or "delivery").
func WriteNDJSON(w io.Writer, r io.Reader) error {
	lr, enc := NewReader(r), json.NewEncoder(w)
	for {
		rec, err := lr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var line any
		if rec.Kind == KindAck {
			line = struct {
				Kind string `json:"kind"`
				Ack
			}{"ack", rec.Ack}
		} else {
			line = struct {
				Kind string `json:"kind"`
				Delivery
			}{"delivery", rec.Delivery}
		}
		if err := enc.Encode(line); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
	}
}
