package erase

import (
	"context"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// settlePatience bounds how long a pass waits for the consumers; then it is tried again later. lookAgain is how often it looks.
// snapshotsKept is how many snapshots of each state there are.
const (
	settlePatience = 5 * time.Minute
	lookAgain      = 50 * time.Millisecond
	snapshotsKept  = 2
)

// settle returns when all consumers have applied the deletions and all that came of them, and hold nothing
// that came before. depth is the length of the longest chain of merges that ends in a deletion: what merged profiles had travels along
// it as transfers, one step each time that all consumers have applied what is there.
func (e *Eraser) settle(ctx context.Context, some who, depth int) error {
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	for range depth + 1 {
		if _, err := e.mark(ctx, some, false); err != nil {
			return err
		}
	}
	// When there are two snapshots of after this moment, nobody holds what is before it.
	since, err := e.mark(ctx, some, true)
	for range snapshotsKept {
		if err == nil {
			_, err = e.mark(ctx, some, true)
		}
		if err == nil {
			err = e.renew(ctx, func(*Consumer) bool { return true })
		}
	}
	if err != nil {
		return err
	}
	return e.released(ctx, since)
}

// marks are offsets by topic and partition.
type marks map[string][]int64

// mark appends a record that changes nothing to each partition, of the first log too if it is asked for, and waits until all
// consumers have it in their state. So all that lies before it is.
func (e *Eraser) mark(ctx context.Context, some who, both bool) (marks, error) {
	at := marks{}
	topics := []stream.Topic{e.d.Facts}
	if both {
		topics = append(topics, e.d.Intake)
	}
	for _, t := range topics {
		data := noFact(e.d.Now())
		if t == e.d.Intake {
			data = noIntake(some, e.d.Now())
		}
		msgs := make([]stream.Message, t.Partitions())
		for p := range msgs {
			msgs[p] = stream.Message{Partition: int32(p), Data: data}
		}
		offsets, err := t.Append(ctx, msgs)
		if err != nil {
			return nil, err
		}
		at[t.Name()] = offsets
	}
	for _, c := range e.d.Consumers {
		if err := e.passedBy(ctx, c, at[c.Input]); err != nil {
			return nil, err
		}
	}
	return at, nil
}

// noFact is a fact that no consumer does anything with: a part of a profile's state for a level that has none.
func noFact(now time.Time) []byte {
	f := fact.Fact{Kind: fact.KindTransfer, At: now, Transfer: &fact.Transfer{Level: fact.StageIntake}}
	return f.Append(nil)
}

// noIntake is a claim for a deleted profile, which changes nothing.
func noIntake(deleted who, now time.Time) []byte {
	none := fact.Identifier{Kind: fact.ByAnonymous}
	in := fact.Intake{Kind: fact.KindClaim, Tenant: deleted.tenant, At: now, Claim: &fact.Claim{ID: none, By: none, Profile: deleted.profile}}
	return in.Append(nil)
}

// passedBy waits until a consumer has committed the records at some offsets.
func (e *Eraser) passedBy(ctx context.Context, c Consumer, offsets []int64) error {
	for {
		at, err := c.Committed(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		behind := -1
		for p, offset := range offsets {
			if p >= len(at) || at[p] <= offset {
				behind = p
			}
		}
		if behind < 0 {
			return nil
		}
		if rest(ctx, lookAgain); ctx.Err() != nil {
			return fmt.Errorf("consumer %s has not applied partition %d up to offset %d: it is behind, stopped or stuck", c.Name, behind, offsets[behind])
		}
	}
}

// renew makes snapshots of the states of some consumers.
func (e *Eraser) renew(ctx context.Context, of func(*Consumer) bool) error {
	for i := range e.d.Consumers {
		c := &e.d.Consumers[i]
		if c.Renew == nil || !of(c) {
			continue
		}
		if err := c.Renew(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return nil
}

// released waits until every consumer holds nothing before some offsets.
func (e *Eraser) released(ctx context.Context, since marks) error {
	for {
		why, err := e.holder(since)
		if err != nil || why == "" {
			return err
		}
		if rest(ctx, lookAgain); ctx.Err() != nil {
			return fmt.Errorf("%s", why)
		}
	}
}

// holder tells who holds what is before some offsets; "" if nobody does.
func (e *Eraser) holder(since marks) (string, error) {
	for topic, offsets := range since {
		held, err := e.d.Log.Held(topic)
		if err != nil {
			return "", err
		}
		for _, c := range e.d.Consumers {
			if c.Input == topic && held[c.Name] == nil {
				return fmt.Sprintf("consumer %s has no snapshot yet", c.Name), nil
			}
		}
		for group, at := range held {
			for p, offset := range offsets {
				if h, there := at[int32(p)]; !there || h < offset {
					return fmt.Sprintf("%s holds partition %d of %s from offset %d on, which is before the deletions were applied", group, p, topic, h), nil
				}
			}
		}
	}
	return "", nil
}
