package spool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
)

// recovery is the work of one Open.
type recovery struct {
	s       *Spool
	out     Recovery
	rebuild bool // the index is empty: all comes from the logs
	repair  bool // the operator asked for it: what cannot be read is left out
	// onDisk, when rebuilding, holds the ids whose changes matter.
	onDisk   map[mail.ID]bool
	places   map[mail.ID]int // when rebuilding: where in update.put a message is
	states   map[mail.ID]*state
	injected map[mail.ID]bool // first ids of batches whose injected events are logged
	since    time.Time        // when the oldest of them came in
	queues   map[queueName]uint32
	nextID   uint32
	shared   map[uint64]int64 // rows per shared body number
	missing  []event.Event
	update   indexUpdate
}

type queueName struct {
	priority               mail.Priority
	tenant, stream, domain string
	pool                   string
}

// state is what the logged changes say of one message.
type state struct {
	key      Key  // where the index has it, if it does: as of the first change after the checkpoint
	changed  bool // there is a change after the checkpoint
	seen     bool // its row is in a record after the checkpoint
	ended    bool
	due      int64
	attempts int
	reply    string
}

// recover brings the index up to the tails of both logs. It is one index
// transaction at its end, so a crash in the middle just starts it again.
func (s *Spool) recover(ctx context.Context, rebuild bool) (*Recovery, error) {
	r := &recovery{s: s, repair: rebuild, states: map[mail.ID]*state{}, places: map[mail.ID]int{}, injected: map[mail.ID]bool{}, queues: map[queueName]uint32{}}
	err := r.load()
	if err != nil {
		return nil, err
	}
	// An index without a checkpoint is new: the old one was lost, or a repair
	// did not get to its end.
	r.rebuild = rebuild || s.checkpoint == Checkpoint{}
	if r.rebuild {
		if err := r.collectIDs(); err != nil {
			return nil, err
		}
	}
	if err := r.replay(); err != nil {
		return nil, err
	}
	if err := r.scan(); err != nil {
		return nil, err
	}
	if r.rebuild && !r.repair && r.out.Replayed > 0 {
		s.slog.Warn("the queue index was missing; it was rebuilt from the segments", "messages", r.out.Replayed)
	}
	if err := r.moveIndexed(); err != nil {
		return nil, err
	}
	return &r.out, r.commit(ctx)
}

// load reads what the index knows.
func (r *recovery) load() (err error) {
	s := r.s
	if s.checkpoint, err = s.index.checkpoint(); err != nil {
		return err
	}
	if r.shared, err = s.index.counts(bucketSharedRows); err != nil {
		return err
	}
	bodies, err := s.index.sharedBodies()
	if err != nil {
		return err
	}
	for _, c := range bodies {
		c.rows = r.shared[uint64(c.num)]
		s.shared[c.ref.ID] = c
		s.nextShared = max(s.nextShared, c.num)
		s.segment(c.pos.Seg).fresh++
	}
	rows, err := s.index.counts(bucketSegments)
	if err != nil {
		return err
	}
	for seg, n := range rows {
		s.segment(seg).indexed = n
	}
	queues, err := s.index.Queues()
	if err != nil {
		return err
	}
	for _, q := range queues {
		r.queues[queueName{q.Priority, q.Tenant, q.Stream, q.Domain, q.Pool}] = q.ID
		r.nextID = max(r.nextID, q.ID)
	}
	return nil
}

// collectIDs finds which messages have rows in the segments at all.
func (r *recovery) collectIDs() error {
	r.onDisk = map[mail.ID]bool{}
	return r.records(seglog.Pos{}, func(_ seglog.Record, b *decodedBatch) error {
		for _, m := range b.messages {
			r.onDisk[m.ID] = true
		}
		return nil
	})
}

func (r *recovery) records(from seglog.Pos, f func(seglog.Record, *decodedBatch) error) error {
	for rec, err := range r.s.log.Scan(from) {
		if err != nil {
			if err := r.leaveOut(err); err != nil {
				return fmt.Errorf("spool: %w", err)
			}
			continue
		}
		if rec.Type != recordBatch && (rec.Type != recordMoved || !r.rebuild) {
			continue
		}
		b, err := r.s.codec.decodeBatch(rec.Data)
		if err != nil {
			return fmt.Errorf("spool: record at %v: %w", rec.Pos, err)
		}
		if err := f(rec, b); err != nil {
			return err
		}
	}
	return nil
}

// leaveOut decides about a part of a log that cannot be read. A start refuses,
// since somebody was promised what stood there; a repair takes note and goes on.
func (r *recovery) leaveOut(err error) error {
	var corrupt *seglog.CorruptError
	switch {
	case !errors.As(err, &corrupt):
		return err
	case !r.repair:
		return fmt.Errorf("%w; restore the file from a copy, or run `godwit queue repair` to go on without what cannot be read there", err)
	}
	if place := corrupt.Error(); !slices.Contains(r.out.Damage, place) {
		r.out.Damage = append(r.out.Damage, place)
	}
	return nil
}

// replay reads the event log's changes: of rows in the index those since the
// checkpoint, of records that the index does not have yet all, also older ones.
func (r *recovery) replay() error {
	from := r.s.checkpoint
	for entry, err := range r.s.events.Replay(minPos(from.Injected, from.Events)) {
		if err != nil {
			if err := r.leaveOut(err); err != nil {
				return fmt.Errorf("spool: event log: %w", err)
			}
			continue
		}
		old := entry.Pos.Compare(from.Events) < 0
		err := parseChanges(entry.Changes, func(c *Change) {
			if c.Kind == ChangeInjected {
				r.injected[c.ID] = true
				if born := c.ID.Time(); r.since.IsZero() || born.Before(r.since) {
					r.since = born
				}
			} else if r.onDisk == nil || r.onDisk[c.ID] {
				r.change(c, old)
			}
		})
		if err != nil {
			return fmt.Errorf("spool: event log at %v: %w", entry.Pos, err)
		}
	}
	return nil
}

func (r *recovery) change(c *Change, old bool) {
	r.out.Changes++
	st := r.states[c.ID]
	if st == nil {
		st = &state{}
		r.states[c.ID] = st
	}
	if !old && !st.changed {
		st.key, st.changed = c.Key(), true
	}
	switch c.Kind {
	case ChangeEnded:
		st.ended = true
	case ChangeDeferred:
		st.due, st.attempts, st.reply = c.NewDue, c.Attempts, c.Reply
	}
}

// scan reads the records after the checkpoint; their live rows go to the index.
func (r *recovery) scan() error {
	return r.records(r.s.checkpoint.Records, func(rec seglog.Record, b *decodedBatch) error {
		r.batch(rec, b)
		return nil
	})
}

func (r *recovery) batch(rec seglog.Record, b *decodedBatch) {
	s, pos := r.s, rec.Pos
	h := b.header
	if (h.bodyLarge || h.body.Content && h.bodyInline) && s.shared[h.body.ID] == nil {
		s.nextShared++
		c := &sharedBody{num: s.nextShared, ref: h.body, tenant: h.contentOwner, until: h.contentUntil,
			large: h.bodyLarge, pos: pos, off: b.bodyOff}
		s.shared[h.body.ID] = c
		s.segment(pos.Seg).fresh++
		r.update.shared = append(r.update.shared, c)
	}
	if b.receipt != nil {
		r.update.receipts = append(r.update.receipts, b.receipt)
	}
	for i, m := range b.messages {
		if rec.Type == recordBatch && r.untold(h) {
			r.missing = append(r.missing, s.injectedEvent(m))
		}
		r.row(Loc{Seg: pos.Seg, Off: uint32(pos.Off), Row: b.rows[i].off, Len: b.rows[i].len}, m)
	}
}

// untold reports whether the injected events of a batch were lost. Those of
// batches older than what the event log keeps, which only a rebuild meets, were not.
func (r *recovery) untold(h *header) bool {
	if r.s.injectedEvent == nil || r.injected[h.first] {
		return false
	}
	return !r.rebuild || !r.since.After(h.first.Time())
}

func (r *recovery) row(loc Loc, m *mail.Message) {
	e := Entry{Key: Key{Queue: r.queue(m), Due: DueOf(m), ID: m.ID}, Loc: loc, Attempts: m.Attempts, LastReply: m.LastReply}
	if st := r.states[m.ID]; st != nil {
		st.seen = true
		if st.ended {
			return
		}
		if st.due != 0 {
			e.Due, e.Attempts, e.LastReply = st.due, st.attempts, st.reply
		}
	}
	c := r.s.shared[m.Body.ID]
	if c != nil {
		e.Shared = c.num
	}
	if r.put(e) && c != nil {
		c.rows++
	}
}

// put adds a row; false if it was there. Only a rebuild can meet a message
// twice, at its first place and where it was moved to: the later one counts.
func (r *recovery) put(e Entry) bool {
	if i, again := r.places[e.ID]; again {
		r.update.put[i] = e
		return false
	}
	if r.rebuild {
		r.places[e.ID] = len(r.update.put)
	}
	r.out.Replayed++
	r.update.put = append(r.update.put, e)
	return true
}

func (r *recovery) queue(m *mail.Message) uint32 {
	name := queueName{m.Priority, m.Tenant, m.Stream, m.Domain(), m.Pool}
	id := r.queues[name]
	if id == 0 {
		r.nextID++
		id = r.nextID
		r.queues[name] = id
		r.update.queues = append(r.update.queues, QueueRecord{ID: id, Priority: m.Priority, Tenant: m.Tenant, Stream: m.Stream, Domain: name.domain, Pool: m.Pool})
	}
	return id
}

// moveIndexed applies the changes of rows that the index holds.
func (r *recovery) moveIndexed() error {
	if r.rebuild {
		return nil // there are none
	}
	astray := map[mail.ID]*state{}
	for id, st := range r.states {
		if !st.changed || st.seen {
			continue
		}
		e, ok, err := r.s.index.entry(st.key)
		switch {
		case err != nil:
			return err
		case ok:
			r.move(st, e)
		default:
			astray[id] = st
		}
	}
	if len(astray) == 0 {
		return nil
	}
	// An operator's action between two flushes may have moved a row without
	// a change of its own: then it lies elsewhere, and only reading all finds it.
	return r.s.index.Scan(0, func(e Entry) bool {
		if st := astray[e.ID]; st != nil {
			r.move(st, e)
			delete(astray, e.ID)
		}
		return len(astray) > 0
	})
}

// move removes a row, or puts it at its new due time.
func (r *recovery) move(st *state, e Entry) {
	r.update.remove = append(r.update.remove, e.Key)
	switch {
	case st.ended:
		r.endShared(e.Shared)
	case st.due != 0:
		e.Due, e.Attempts, e.LastReply = st.due, st.attempts, st.reply
		r.update.put = append(r.update.put, e)
	}
}

func (r *recovery) endShared(num uint32) {
	if num == 0 {
		return
	}
	for _, c := range r.s.shared {
		if c.num == num {
			c.rows--
		}
	}
}

// commit writes everything in one transaction and starts from the logs' tails.
func (r *recovery) commit(ctx context.Context) error {
	s := r.s
	if len(r.missing) > 0 {
		if _, err := s.events.Append(ctx, nil, r.missing); err != nil {
			return fmt.Errorf("spool: event log: %w", err)
		}
	}
	tail := s.events.Tail()
	r.update.checkpoint = Checkpoint{Records: s.log.Tail(), Events: tail, Injected: tail}
	d, err := s.index.apply(&r.update)
	if err != nil {
		return err
	}
	err = s.committed(&pendingFlush{update: &r.update}, d)
	if err != nil {
		return err
	}
	if err := s.sweepLarge(); err != nil {
		return err
	}
	if r.out.Queues, err = s.index.Queues(); err != nil {
		return err
	}
	r.out.Actions, err = s.index.Actions()
	return err
}
