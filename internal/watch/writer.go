package watch

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"time"
)

const (
	// DefaultPeriod is the time between heartbeats.
	DefaultPeriod = 5 * time.Millisecond

	lateBeat   = 10 * time.Millisecond // a beat that is later is written down
	beatEvery  = time.Second           // so that the record shows that the heart beat
	flushEvery = 200 * time.Millisecond
	blockRoom  = 64 << 10 // what a block has at first
)

// Options say where a record goes.
type Options struct {
	Path   string        // file, created or emptied; "" for none
	Memory bool          // keep it in memory too; without a file it always is
	Period time.Duration // of the heartbeat; 0 for DefaultPeriod
}

// Writer writes a record. It is safe for concurrent use, and a nil *Writer
// does nothing. An entry costs some 150 ns and six bytes.
type Writer struct {
	o     Options
	began time.Time

	mu        sync.Mutex
	block     []byte // payload of the block that is being filled; empty between blocks
	last      time.Duration
	sources   map[netip.Addr]uint64
	providers map[string]uint64
	conns     uint64
	beat      time.Duration // the last one
	noted     time.Duration // the last one that was written down
	ended     bool

	flushing sync.Mutex // one flush at a time; taken before mu
	spare    []byte
	file     *os.File
	pages    [][]byte
	err      error

	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

// New begins a record at the present instant and starts its heart.
func New(o Options) (*Writer, error) {
	if o.Period <= 0 {
		o.Period = DefaultPeriod
	}
	o.Memory = o.Memory || o.Path == ""
	w := &Writer{o: o, began: time.Now(), sources: map[netip.Addr]uint64{}, providers: map[string]uint64{},
		block: make([]byte, 0, blockRoom), stop: make(chan struct{})}
	if o.Path != "" {
		f, err := os.Create(o.Path)
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		if _, err := f.WriteString(Magic); err != nil {
			f.Close()
			return nil, fmt.Errorf("watch: %w", err)
		}
		w.file = f
	}
	w.entry(kindStart)
	w.block = binary.LittleEndian.AppendUint64(w.block, uint64(w.began.UnixNano()))
	w.block = binary.AppendUvarint(w.block, uint64(o.Period))
	w.wg.Go(w.beats)
	w.wg.Go(w.flushes)
	return w, nil
}

// entry begins an entry and returns its stamp. The caller holds mu.
func (w *Writer) entry(kind byte) time.Duration {
	now := max(time.Since(w.began), w.last)
	if len(w.block) == 0 {
		w.block = binary.AppendUvarint(w.block, uint64(now))
		w.last = now
	}
	w.block = append(w.block, kind)
	w.block = binary.AppendUvarint(w.block, uint64(now-w.last))
	w.last = now
	return now
}

// Opened notes a connection from source and returns its number for the other
// calls. Call it when the connection has been accepted, even if it is turned away.
func (w *Writer) Opened(source netip.AddrPort, provider string, v Verdict) uint64 {
	if w == nil {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	addr := source.Addr().Unmap()
	s, ok := w.sources[addr]
	if !ok {
		s = uint64(len(w.sources))
		w.sources[addr] = s
		w.entry(kindSource)
		w.block = appendText(w.block, addr.String())
	}
	p, ok := w.providers[provider]
	if !ok {
		p = uint64(len(w.providers))
		w.providers[provider] = p
		w.entry(kindProvider)
		w.block = appendText(w.block, provider)
	}
	w.entry(kindOpen)
	w.block = binary.AppendUvarint(w.block, s)
	w.block = binary.AppendUvarint(w.block, p)
	w.block = binary.AppendUvarint(w.block, uint64(source.Port()))
	w.block = append(w.block, byte(v))
	w.conns++
	return w.conns - 1
}

// Closed notes the end of a connection. Call it just before the socket is
// closed: then whoever waits for that never finds its next connection counted beside this one.
func (w *Writer) Closed(conn uint64) {
	if w == nil {
		return
	}
	w.mu.Lock()
	w.entry(kindClose)
	w.block = binary.AppendUvarint(w.block, conn)
	w.mu.Unlock()
}

// Mail notes a MAIL command on a connection.
func (w *Writer) Mail(conn uint64, v Verdict) {
	if w == nil {
		return
	}
	w.mu.Lock()
	w.entry(kindMail)
	w.block = binary.AppendUvarint(w.block, conn)
	w.block = append(w.block, byte(v))
	w.mu.Unlock()
}

// Mark notes a word of whoever runs the test, such as "killed mta2".
func (w *Writer) Mark(text string) {
	if w == nil {
		return
	}
	w.mu.Lock()
	w.entry(kindMark)
	w.block = appendText(w.block, text)
	w.mu.Unlock()
}

func (w *Writer) beats() {
	t := time.NewTimer(w.o.Period)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-w.stop:
			return
		}
		w.mu.Lock()
		w.takeBeat(false)
		w.mu.Unlock()
		t.Reset(w.o.Period)
	}
}

// takeBeat is one heartbeat, which is written down if it is late, if none was
// for a second, or if it must be. It waits for the lock as all others do, so a stall of the lock is seen too.
func (w *Writer) takeBeat(must bool) {
	now := max(time.Since(w.began), w.last)
	if must || now-w.beat-w.o.Period > lateBeat || now-w.noted >= beatEvery-w.o.Period {
		now = w.entry(kindBeat)
		w.block = binary.AppendUvarint(w.block, uint64(now-w.beat))
		w.noted = now
	}
	w.beat = now
}

func (w *Writer) flushes() {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if w.Flush() != nil {
				return // sticky; Close tells
			}
		case <-w.stop:
			return
		}
	}
}

// Flush brings all entries to the file, without fsync. The error is sticky.
func (w *Writer) Flush() error {
	if w == nil {
		return nil
	}
	w.flushing.Lock()
	defer w.flushing.Unlock()
	return w.flush()
}

// flush ends the present block. The write is outside mu: a slow disk must not stop the clock.
func (w *Writer) flush() error {
	if w.spare == nil {
		w.spare = make([]byte, 0, blockRoom)
	}
	w.mu.Lock()
	payload := w.block
	if len(payload) > 0 {
		w.block = w.spare
	}
	w.mu.Unlock()
	if len(payload) == 0 {
		return w.err
	}
	head := frame(payload)
	whole := append(head[:], payload...)
	w.spare = payload[:0]
	if w.o.Memory {
		w.pages = append(w.pages, whole)
	}
	if w.file != nil && w.err == nil {
		if _, err := w.file.Write(whole); err != nil {
			w.err = fmt.Errorf("watch: %w", err)
		}
	}
	return w.err
}

// Close stops the heart, notes the end and closes the file. What is in memory
// stays readable. A second call does nothing.
func (w *Writer) Close() error {
	if w == nil {
		return nil
	}
	w.once.Do(func() { close(w.stop) })
	w.wg.Wait()
	w.flushing.Lock()
	defer w.flushing.Unlock()
	w.mu.Lock()
	if !w.ended {
		w.ended = true
		w.takeBeat(true)
		w.entry(kindEnd)
	}
	w.mu.Unlock()
	err := w.flush()
	if w.file != nil {
		if cerr := w.file.Close(); cerr != nil && err == nil {
			err = fmt.Errorf("watch: %w", cerr)
		}
		w.file = nil
	}
	return err
}

// WriteTo writes the record up to now: from memory, or else the file.
func (w *Writer) WriteTo(to io.Writer) (int64, error) {
	if w == nil {
		return 0, nil
	}
	w.flushing.Lock()
	err := w.flush()
	pages := w.pages[:len(w.pages):len(w.pages)]
	w.flushing.Unlock()
	if err != nil {
		return 0, err
	}
	if !w.o.Memory {
		return copyFile(to, w.o.Path)
	}
	n, err := io.WriteString(to, Magic)
	total := int64(n)
	for _, p := range pages {
		if err != nil {
			break
		}
		n, err = to.Write(p)
		total += int64(n)
	}
	return total, err
}

func copyFile(to io.Writer, path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("watch: %w", err)
	}
	defer f.Close()
	return io.Copy(to, f)
}
