package seglog

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"syscall"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// maxGroup bounds the bytes of one commit group, and so how long a small
// record can wait behind large ones: about 10 ms on a disk of 500 MB/s.
const maxGroup = 4 << 20

// request is one call waiting for the committer.
type request struct {
	typ    uint8
	roll   bool // no record: seal the segment
	parts  [][]byte
	length int64
	crc    uint32
	header [HeaderSize]byte

	pos  Pos
	err  error
	done chan struct{}
}

// commitState is what only the committer uses.
type commitState struct {
	cur      *segment
	off      int64 // next byte to fill
	capacity int64 // size of the file
	mustRoll bool  // nothing more may go into cur: bytes of a torn group follow its tail
	asked    bool  // the housekeeper was told that cur fills up
	records  uint64

	group struct {
		start    int64
		bytes    int64
		bufs     [][]byte
		requests []*request
	}
	seal     [HeaderSize]byte
	sealData [sealDataSize]byte
}

// Append adds one record made of the concatenated parts and returns its place
// when it is durable. The parts must not change before that. A context that
// ends before the record is queued cancels; later it has no effect.
//
// Errors: mail.ErrTooLarge above Options.MaxRecord; mail.ErrDiskFull when a new
// segment is needed and there is no room for one (later calls may succeed);
// ErrFailed after a failed write or sync; ErrClosed.
func (l *Log) Append(ctx context.Context, typ uint8, parts ...[]byte) (Pos, error) {
	if err := ctx.Err(); err != nil {
		return Pos{}, err
	}
	if typ == typeSeal {
		return Pos{}, ErrBadType
	}
	r := l.requests.Get().(*request)
	r.typ, r.roll, r.length, r.crc = typ, false, 0, 0
	r.parts = append(r.parts[:0], parts...)
	for _, p := range parts {
		r.length += int64(len(p))
	}
	if r.length > int64(l.o.MaxRecord) {
		l.recycleRequest(r)
		return Pos{}, fmt.Errorf("seglog: record: %w", mail.ErrTooLarge)
	}
	for _, p := range parts {
		r.crc = crc32.Update(r.crc, castagnoli, p)
	}
	return l.submit(r)
}

// Roll seals the active segment and goes on in the next one; an empty segment stays.
func (l *Log) Roll() error {
	r := l.requests.Get().(*request)
	r.roll, r.parts, r.length = true, r.parts[:0], 0
	_, err := l.submit(r)
	return err
}

// submit queues r and waits for its end.
func (l *Log) submit(r *request) (Pos, error) {
	l.qmu.Lock()
	err := l.fail
	if l.closed {
		err = ErrClosed
	}
	if err != nil {
		l.qmu.Unlock()
		l.recycleRequest(r)
		return Pos{}, err
	}
	l.queue = append(l.queue, r)
	first := len(l.queue) == 1
	l.qmu.Unlock()
	if first {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	<-r.done
	pos, err := r.pos, r.err
	l.recycleRequest(r)
	return pos, err
}

func (l *Log) recycleRequest(r *request) {
	clear(r.parts)
	r.pos, r.err = Pos{}, nil
	l.requests.Put(r)
}

func (r *request) finish(err error) {
	r.err = err
	r.done <- struct{}{}
}

// committer is the one goroutine that writes records.
func (l *Log) committer() {
	defer l.wg.Done()
	var batch []*request
	for stopping := false; !stopping; {
		select {
		case <-l.wake:
		case <-l.stop: // closed is set: this round takes the last requests
			stopping = true
		}
		for {
			runtime.Gosched() // callers just woken may queue their next record first
			l.qmu.Lock()
			batch, l.queue = l.queue, batch[:0]
			l.qmu.Unlock()
			if len(batch) == 0 {
				break
			}
			l.commit(batch)
			clear(batch)
		}
	}
}

// commit ends every request of batch, in order.
func (l *Log) commit(batch []*request) {
	for _, r := range batch {
		if r.roll {
			r.finish(l.rollOver())
			continue
		}
		if err := l.makeRoom(r); err != nil {
			r.finish(err)
			continue
		}
		l.place(r)
		if l.group.bytes >= maxGroup {
			_ = l.flush() // its requests have the error
		}
	}
	_ = l.flush()
}

// makeRoom sees to it that r fits behind what is placed already.
func (l *Log) makeRoom(r *request) error {
	if err := l.failure(); err != nil {
		return err
	}
	need := HeaderSize + r.length + sealSize
	if !l.mustRoll && l.off+need <= l.capacity {
		return nil
	}
	if l.mustRoll || l.off > FirstOffset {
		if err := l.switchSegment(); err != nil {
			return err
		}
	}
	if l.off+need <= l.capacity {
		return nil
	}
	// Larger than a whole segment: this one grows to hold it alone.
	if err := l.cur.file.Allocate(l.off + need); err != nil {
		if terr := l.cur.file.Truncate(l.capacity); terr != nil {
			return l.poison("truncate", terr)
		}
		return fullOr("large segment", err)
	}
	l.capacity = l.off + need
	return nil
}

// place gives r its position and adds its bytes to the group.
func (l *Log) place(r *request) {
	g := &l.group
	if len(g.bufs) == 0 {
		g.start = l.off
	}
	r.pos = Pos{Seg: l.cur.seq, Off: l.off}
	h := recHeader{dataCRC: r.crc, length: uint32(r.length), typ: r.typ, generation: l.cur.generation, group: g.start}
	h.encode(&r.header, l.off)
	g.bufs = append(g.bufs, r.header[:])
	g.bufs = append(g.bufs, r.parts...)
	g.requests = append(g.requests, r)
	g.bytes += HeaderSize + r.length
	l.off += HeaderSize + r.length
	l.records++
}

// flush makes the group durable and ends its requests.
func (l *Log) flush() error { return l.flushTo(l.off) }

// flushTo is flush where records end at end: before the seal, if the group has
// one, which readers may pass only when the next segment is active.
func (l *Log) flushTo(end int64) error {
	g := &l.group
	if len(g.bufs) == 0 {
		return nil
	}
	begin := time.Now()
	err := l.failure()
	if err == nil {
		err = l.writeGroup()
	}
	if err == nil {
		l.metrics.syncSeconds.Observe(time.Since(begin).Seconds())
		l.metrics.groupRecords.Observe(float64(len(g.requests)))
		l.count.commits.Add(1)
		l.count.records.Add(uint64(len(g.requests)))
		l.count.bytes.Add(uint64(g.bytes) - uint64(len(g.requests))*HeaderSize)
		l.mu.Lock()
		l.tail = Pos{Seg: l.cur.seq, Off: end}
		l.mu.Unlock()
		if !l.asked && l.off >= l.fillMark() {
			l.asked = true
			l.chores.signal()
		}
	}
	for _, r := range g.requests {
		r.finish(err)
	}
	clear(g.bufs)
	clear(g.requests)
	g.bufs, g.requests, g.bytes = g.bufs[:0], g.requests[:0], 0
	return err
}

func (l *Log) writeGroup() error {
	if _, err := l.cur.file.Writev(l.group.bufs, l.group.start); err != nil {
		return l.poison("write", err)
	}
	l.count.syncs.Add(1)
	if err := l.cur.file.Datasync(); err != nil {
		return l.poison("fdatasync", err)
	}
	return nil
}

// rollOver is Roll, in the committer.
func (l *Log) rollOver() error {
	if err := l.failure(); err != nil {
		return err
	}
	if l.off == FirstOffset && !l.mustRoll {
		return nil
	}
	return l.switchSegment()
}

// switchSegment commits the group together with a seal, then makes the next segment the
// active one. The next one is durable before the seal is written, so a sealed
// segment without a successor has lost it.
func (l *Log) switchSegment() error {
	next, err := l.takeSpare()
	if err != nil {
		return err
	}
	g := &l.group
	if len(g.bufs) == 0 {
		g.start = l.off
	}
	l.sealData = sealData(next.seq, l.records)
	h := recHeader{
		dataCRC: crc32.Checksum(l.sealData[:], castagnoli), length: sealDataSize, typ: typeSeal,
		generation: l.cur.generation, group: g.start,
	}
	h.encode(&l.seal, l.off)
	g.bufs = append(g.bufs, l.seal[:], l.sealData[:])
	end := l.off
	l.off += sealSize
	if err := l.flushTo(end); err != nil {
		l.returnSpare(next)
		return err
	}
	l.activate(next)
	return nil
}

// activate makes next the segment that is written to.
func (l *Log) activate(next *segment) {
	old := l.cur
	l.closeIdle()
	l.mu.Lock()
	old.used, old.modified = l.off, time.Now()
	l.segs = append(l.segs, next)
	l.tail = Pos{Seg: next.seq, Off: FirstOffset}
	l.mu.Unlock()
	l.openFiles.Add(1)
	l.cur, l.off, l.capacity, l.mustRoll, l.asked, l.records = next, FirstOffset, next.used, false, false, 0
	l.chores.add(old, nil)
}

// fullOr turns "no space" into mail.ErrDiskFull and gives other errors their context.
func fullOr(what string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("seglog: %s: %w (%w)", what, mail.ErrDiskFull, err)
	}
	return fmt.Errorf("seglog: %s: %w", what, err)
}
