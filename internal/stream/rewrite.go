package stream

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/seglog"
)

const (
	rewrittenMagic  = "GODWTOLD"
	rewrittenHeader = 52
	rewrittenSuffix = ".old"
	tempSuffix      = ".tmp"
	frameHeader     = 8 // checksum and length of a batch
)

// Keep decides over a record when a topic is rewritten: it returns the data to go on with, or
// false to empty the record. It must not change data, and must answer the same when asked again, also about what it answered:
// after a crash it is asked about records that are rewritten already.
type Keep func(partition int32, offset int64, data []byte) ([]byte, bool)

// rewrite replaces each piece in which keep changes something by a file of its own. All records
// that were durable at the call are looked at.
func (t *topic) rewrite(ctx context.Context, keep Keep) error {
	t.chores.Lock()
	defer t.chores.Unlock()
	return t.eachSealed(func(i int, p *piece, limit int64) error {
		changes, err := t.changes(ctx, p, keep)
		if err != nil || !changes {
			return err
		}
		fresh, err := t.writeAnew(ctx, p, keep)
		if err != nil {
			return err
		}
		return t.replace(i, fresh, limit)
	})
}

// eachSealed seals the active segment and calls f for each piece there is then, with its number and the offset behind
// it. The chores are held: no piece goes or comes before the active one meanwhile.
func (t *topic) eachSealed(f func(i int, p *piece, limit int64) error) error {
	if err := t.roll(); err != nil {
		return err
	}
	active := t.records.Tail().Seg
	for i := 0; ; i++ {
		t.mu.RLock()
		var p *piece
		var limit int64
		if i < len(t.pieces) && t.pieces[i].seg < active {
			p, limit = t.pieces[i], t.pieceEnd(i)
		}
		t.mu.RUnlock()
		if p == nil {
			return nil
		}
		if err := f(i, p, limit); err != nil {
			return err
		}
	}
}

// each calls f for all records that are durable now, in the order of their offsets.
func (t *topic) each(ctx context.Context, f func(partition int32, offset int64, data []byte) error) error {
	t.chores.Lock()
	defer t.chores.Unlock()
	return t.eachSealed(func(_ int, p *piece, _ int64) error {
		_, err := t.scan(p, 0, func(s stored) (bool, error) {
			if err := t.goOn(ctx); err != nil {
				return false, err
			}
			return true, s.each(func(partition int32, offset int64, data []byte) error {
				if data == nil {
					return nil
				}
				return f(partition, offset, data)
			})
		})
		return err
	})
}

// goOn returns an error when a chore has to end.
func (t *topic) goOn(ctx context.Context) error {
	select {
	case <-t.done:
		return ErrClosed
	default:
		return ctx.Err()
	}
}

// changes reports whether keep changes anything in a piece.
func (t *topic) changes(ctx context.Context, p *piece, keep Keep) (changes bool, err error) {
	_, err = t.scan(p, 0, func(s stored) (bool, error) {
		if err := t.goOn(ctx); err != nil {
			return false, err
		}
		err := s.each(func(partition int32, offset int64, data []byte) error {
			if data == nil || changes {
				return nil
			}
			kept, ok := keep(partition, offset, data)
			changes = !ok || !bytes.Equal(kept, data)
			return nil
		})
		return !changes, err
	})
	return changes, err
}

// replace puts the rewritten piece in the place of piece i and gives the old file back.
func (t *topic) replace(i int, fresh *piece, limit int64) error {
	t.mu.Lock()
	was := t.pieces[i]
	pieces := append([]*piece(nil), t.pieces...)
	pieces[i] = fresh
	t.pieces = pieces
	t.recent.dropBefore(limit)
	t.forgetStarts()
	t.mu.Unlock()
	if was.old {
		return nil // the rename has replaced it
	}
	return t.free(was.seg)
}

// writeAnew writes the file of a rewritten piece, durable when it returns.
func (t *topic) writeAnew(ctx context.Context, p *piece, keep Keep) (_ *piece, err error) {
	path := t.rewrittenPath(p.seg)
	f, err := t.fs.OpenFile(path+tempSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return nil, err
	}
	fresh := &piece{seg: p.seg, old: true, first: p.first, began: p.began, newest: p.newest, ends: p.ends}
	w := bufio.NewWriterSize(&fileWriter{f: f}, 1<<20)
	end, err := t.copyKept(ctx, p, fresh, keep, w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		_, err = f.WriteAt(encodeRewritten(fresh, end), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = t.fs.Rename(path+tempSuffix, path)
	}
	if err != nil {
		return nil, errors.Join(err, t.fs.Remove(path+tempSuffix))
	}
	return fresh, t.fs.SyncDir(filepath.Dir(path))
}

// copyKept writes the batches of p as keep wants them, and returns the offset behind the last one.
func (t *topic) copyKept(ctx context.Context, p, fresh *piece, keep Keep, w *bufio.Writer) (end int64, err error) {
	fresh.bytes = seglog.FirstOffset
	if _, err := w.Write(make([]byte, seglog.FirstOffset)); err != nil {
		return 0, err
	}
	var frame []byte
	_, err = t.scan(p, 0, func(s stored) (bool, error) {
		if err := t.goOn(ctx); err != nil {
			return false, err
		}
		var err error
		if frame, err = appendFrame(frame[:0], s, keep); err != nil {
			return false, err
		}
		fresh.mark(s.base, fresh.bytes)
		fresh.bytes += int64(len(frame))
		end = s.end()
		_, err = w.Write(frame)
		return true, err
	})
	return end, err
}

// appendFrame appends a batch as it lies in a rewritten file.
func appendFrame(b []byte, s stored, keep Keep) ([]byte, error) {
	b = s.appendTo(append(b, make([]byte, frameHeader)...))
	var entries []byte
	first := s.base
	for body := s.body; len(body) > 0; {
		r, rest, err := nextRun(body)
		if err != nil {
			return nil, err
		}
		body, entries = rest, entries[:0]
		err = r.each(first, func(offset int64, data []byte) {
			ok := data != nil
			if ok {
				data, ok = keep(r.partition, offset, data)
			}
			if !ok {
				entries = append(entries, 0)
				return
			}
			entries = append(binary.AppendUvarint(entries, uint64(len(data)+1)), data...)
		})
		if err != nil {
			return nil, err
		}
		b = append(appendRunHeader(b, r.partition, int(r.entries), len(entries)), entries...)
		first += r.entries
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-frameHeader))
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b, nil
}

// encodeRewritten is the header of a rewritten file.
func encodeRewritten(p *piece, end int64) []byte {
	b := append(make([]byte, 0, rewrittenHeader), rewrittenMagic...)
	b = binary.LittleEndian.AppendUint32(b, format)
	for _, v := range []int64{int64(p.seg), p.first, end, p.began.UnixMilli()} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(p.newest.Unix()))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func parseRewritten(b []byte) (p *piece, end int64, err error) {
	sum := rewrittenHeader - 4
	switch {
	case len(b) < rewrittenHeader || string(b[:8]) != rewrittenMagic:
		return nil, 0, errors.New("not a rewritten segment")
	case crc32.Checksum(b[:sum], castagnoli) != binary.LittleEndian.Uint32(b[sum:]):
		return nil, 0, errors.New("the header's checksum is wrong")
	case binary.LittleEndian.Uint32(b[8:]) != format:
		return nil, 0, fmt.Errorf("format %d, this program reads %d", binary.LittleEndian.Uint32(b[8:]), format)
	}
	v := func(i int) int64 { return int64(binary.LittleEndian.Uint64(b[12+8*i:])) }
	return &piece{
		seg: uint64(v(0)), old: true, first: v(1), began: time.UnixMilli(v(3)),
		newest: time.Unix(int64(binary.LittleEndian.Uint32(b[44:])), 0),
	}, v(2), nil
}

// loadRewritten adds the pieces that were rewritten, and deletes half-made ones.
func (t *topic) loadRewritten() error {
	entries, err := t.fs.ReadDir(t.path(rewrittenDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(t.path(rewrittenDir), e.Name())
		if strings.HasSuffix(e.Name(), tempSuffix) {
			if err := t.fs.Remove(path); err != nil {
				return err
			}
			continue
		}
		if err := t.loadOld(path); err != nil {
			// Its range is a gap, which readers report; the file stays for whoever repairs it.
			t.log.Error("a rewritten segment cannot be read", "path", path, "error", err)
		}
	}
	return nil
}

func (t *topic) loadOld(path string) error {
	f, err := t.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, rewrittenHeader)
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return err
	}
	p, end, err := parseRewritten(b[:n])
	if err != nil {
		return err
	}
	if path != t.rewrittenPath(p.seg) {
		return fmt.Errorf("it holds segment %d", p.seg)
	}
	if p.bytes, err = f.Size(); err != nil {
		return err
	}
	t.end = max(t.end, end)
	t.pieces = append(t.pieces, p)
	return nil
}

// scanRewritten is scan for a piece that was rewritten. Behind damage nothing of it can be read.
func (t *topic) scanRewritten(p *piece, at int64, f func(stored) (bool, error)) (damage, err error) {
	file, err := t.fs.OpenFile(t.rewrittenPath(p.seg), os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, seglog.ErrFreed
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	at = max(at, seglog.FirstOffset)
	in := bufio.NewReaderSize(io.NewSectionReader(file, at, max(0, size-at)), 64<<10)
	var buf []byte
	for at < size {
		data, err := readFrame(in, size-at, &buf)
		if err == nil {
			var h header
			var body []byte
			if h, body, err = parseBatch(data); err == nil {
				more, err := f(stored{h, body, at})
				if err != nil || !more {
					return nil, err
				}
				at += int64(frameHeader + len(data))
				continue
			}
		}
		return fmt.Errorf("%s at %d: %w", t.rewrittenPath(p.seg), at, err), nil
	}
	return nil, nil
}

// readFrame reads one batch of a rewritten file, which has rest bytes left.
func readFrame(in io.Reader, rest int64, buf *[]byte) ([]byte, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(head[4:]))
	if n > rest-frameHeader {
		return nil, errors.New("the batch is cut off")
	}
	if int64(cap(*buf)) < n {
		*buf = make([]byte, n+n/4)
	}
	data := (*buf)[:n]
	if _, err := io.ReadFull(in, data); err != nil {
		return nil, err
	}
	sum := crc32.Update(crc32.Checksum(head[4:], castagnoli), castagnoli, data)
	if sum != binary.LittleEndian.Uint32(head[:]) {
		return nil, errors.New("the batch is damaged")
	}
	return data, nil
}

func (t *topic) rewrittenPath(seg uint64) string {
	return filepath.Join(t.path(rewrittenDir), fmt.Sprintf("%016x%s", seg, rewrittenSuffix))
}

// fileWriter writes a file from its begin to its end.
type fileWriter struct {
	f   faultfs.File
	off int64
}

func (w *fileWriter) Write(p []byte) (int, error) {
	n, err := w.f.WriteAt(p, w.off)
	w.off += int64(n)
	return n, err
}
