package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/queue/spool"
)

// Bounds of what one call of a Taker gets.
const (
	handoffMessages = 2000
	handoffBytes    = 32 << 20
)

// ErrNotTaken is wrapped by what a Taker returns when the other node certainly
// stored nothing: the messages stay here.
var ErrNotTaken = errors.New("not taken")

// Taker gives messages, as Export writes them, to another node, and returns
// when that has made them durable. With an error that wraps ErrNotTaken they stay
// here. With any other it is not known whether they are there: the call is repeated with
// the same messages, and must go to the same node, which skips what it has.
type Taker func(ctx context.Context, lines []byte, messages int) error

// Handoff gives the messages that match to another node and ends them here, as
// moved. What is being delivered at this moment is left alone; call it again.
// New messages go on coming in unless the queue is draining. It returns how many were moved.
func (q *Queue) Handoff(ctx context.Context, f Filter, take Taker) (n int, err error) {
	if err := f.Validate(); err != nil {
		return 0, err
	}
	q.mu.Lock()
	items := q.takeMatching(f)
	q.mu.Unlock()
	for len(items) > 0 && err == nil {
		var moved int
		moved, err = q.handoff(ctx, items, take)
		n += moved
		items = items[moved:]
	}
	q.giveBack(items)
	if err != nil {
		return n, err
	}
	err = q.onDiskRows(ctx, f, func(entries []spool.Entry, msgs []*mail.Message, s *sched) (bool, error) {
		items := q.adopt(entries, msgs, s, placeFinished)
		for len(items) > 0 {
			moved, err := q.handoff(ctx, items, take)
			n += moved
			items = items[moved:]
			if err != nil {
				q.giveBack(items)
				return false, err
			}
		}
		return true, nil
	})
	return n, err
}

// handoff moves the first of the items, as many as fit into one call.
func (q *Queue) handoff(ctx context.Context, items []*item, take Taker) (int, error) {
	lines, n, err := q.exportLines(ctx, items)
	if err != nil {
		return 0, err
	}
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := take(ctx, lines, n)
		if err == nil {
			break
		}
		if errors.Is(err, ErrNotTaken) || ctx.Err() != nil {
			return 0, err
		}
		q.log.Warn("handoff not confirmed; asking the same node again", "messages", n, "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return 0, fmt.Errorf("handoff: %d messages may be on both nodes: %w", n, err)
		}
	}
	out := mail.Outcome{Kind: mail.Moved, Class: mail.ClassAdmin, Started: time.Now()}
	q.finishAndWait(items[:n], &out)
	return n, nil
}

// exportLines writes items in the export format, up to the bounds.
func (q *Queue) exportLines(ctx context.Context, items []*item) ([]byte, int, error) {
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	if err := out.Encode(exportLine{Format: ExportFormat}); err != nil {
		return nil, 0, err
	}
	bodies := map[mail.ID]bool{}
	n := 0
	for ; n < len(items) && n < handoffMessages && (n == 0 || b.Len() < handoffBytes); n++ {
		it := items[n]
		if err := q.exportOne(ctx, out, bodies, it.msg, it.loc, it.due); err != nil {
			return nil, 0, fmt.Errorf("handoff: message %v: %w", it.msg.ID, err)
		}
	}
	return b.Bytes(), n, nil
}

// giveBack returns items that were taken out to where they were.
func (q *Queue) giveBack(items []*item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now().UnixMilli()
	for _, it := range items {
		if it.due <= now {
			q.ready(it)
			continue
		}
		it.place = placeParked
	}
}
