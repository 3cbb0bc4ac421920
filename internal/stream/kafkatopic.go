package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafkaTopic is a Topic of a Kafka log.
type kafkaTopic struct {
	k          *Kafka
	name, full string
	partitions int32
	metrics    *topicMetrics
}

// Name implements Topic.
func (t *kafkaTopic) Name() string { return t.name }

// Partitions implements Topic.
func (t *kafkaTopic) Partitions() int32 { return t.partitions }

func (t *kafkaTopic) wrap(err error) error {
	if errors.Is(err, kgo.ErrClientClosed) {
		return ErrClosed
	}
	return fmt.Errorf("stream: topic %s: %w", t.name, err)
}

// Append implements Topic. Under the context of a partition that this process serves and has lost, it returns ErrFenced.
func (t *kafkaTopic) Append(ctx context.Context, msgs []Message) ([]int64, error) {
	if err := held(ctx); err != nil {
		return nil, err
	}
	if len(msgs) == 0 {
		return nil, nil
	}
	size, records, all := 0, make([]kgo.Record, len(msgs)), make([]*kgo.Record, len(msgs))
	for i, m := range msgs {
		if err := checkPartition(t, m.Partition); err != nil {
			return nil, err
		}
		records[i] = kgo.Record{Topic: t.full, Partition: m.Partition, Value: m.Data}
		all[i] = &records[i]
		size += len(m.Data)
	}
	begin := time.Now()
	err := t.k.client.ProduceSync(ctx, all...).FirstErr()
	if lost := held(ctx); errors.Is(lost, ErrFenced) {
		return nil, ErrFenced
	}
	if err != nil {
		return nil, t.wrap(err)
	}
	offsets := make([]int64, len(msgs))
	for i := range records {
		offsets[i] = records[i].Offset
	}
	t.metrics.appended(len(msgs), size, time.Since(begin))
	return offsets, nil
}

// Start implements Topic.
func (t *kafkaTopic) Start(ctx context.Context, partition int32) (int64, error) {
	return t.listed(ctx, partition, t.k.admin.ListStartOffsets)
}

// End implements Topic.
func (t *kafkaTopic) End(ctx context.Context, partition int32) (int64, error) {
	return t.listed(ctx, partition, t.k.admin.ListEndOffsets)
}

func (t *kafkaTopic) listed(ctx context.Context, partition int32, list func(context.Context, ...string) (kadm.ListedOffsets, error)) (int64, error) {
	if err := checkPartition(t, partition); err != nil {
		return 0, err
	}
	found, err := list(ctx, t.full)
	if err != nil {
		return 0, t.wrap(err)
	}
	o, ok := found.Lookup(t.full, partition)
	if !ok {
		return 0, t.wrap(fmt.Errorf("partition %d: %w", partition, kerr.UnknownTopicOrPartition))
	}
	if o.Err != nil {
		return 0, t.wrap(o.Err)
	}
	return o.Offset, nil
}

// Read implements Topic. Each reader has connections of its own.
func (t *kafkaTopic) Read(ctx context.Context, partition int32, from int64) (Reader, error) {
	start, err := t.Start(ctx, partition)
	if err != nil {
		return nil, err
	}
	r := &kafkaReader{t: t, partition: partition, next: max(from, start)}
	switch {
	case from < 0:
		return nil, fmt.Errorf("stream: topic %s: offset %d is negative", t.name, from)
	case from > 0 && from < start:
		return nil, r.tooOld(from)
	}
	// A fetch waits no longer than this, so that a reader that closes need not wait for the broker.
	const fetchWait = time.Second
	r.client, err = kgo.NewClient(t.k.options(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{t.full: {partition: kgo.NewOffset().At(r.next)}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchMaxWait(fetchWait),
	)...)
	if err != nil {
		return nil, t.wrap(err)
	}
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	if t.k.closed {
		r.client.Close()
		return nil, ErrClosed
	}
	t.k.readers[r] = true
	return r, nil
}

// kafkaReader consumes one partition.
type kafkaReader struct {
	t         *kafkaTopic
	partition int32
	next      int64 // offset to go on at
	client    *kgo.Client
	recs      []Record
	err       error
}

func (r *kafkaReader) tooOld(offset int64) error {
	return fmt.Errorf("%w: topic %s, partition %d, offset %d", ErrTooOld, r.t.name, r.partition, offset)
}

// Next implements Reader. After ErrLost and ErrTooOld it returns the same again.
func (r *kafkaReader) Next(ctx context.Context, max int) ([]Record, error) {
	if max < 1 {
		max = 1
	}
	for {
		if r.err != nil {
			return nil, r.err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		fetched := r.client.PollRecords(ctx, max)
		if fetched.IsClientClosed() {
			return nil, ErrClosed
		}
		got, err := r.take(ctx, fetched)
		if len(got) > 0 || err != nil {
			return got, err
		}
	}
}

// take returns what was fetched: records, or an error that does not pass by itself.
func (r *kafkaReader) take(ctx context.Context, fetched kgo.Fetches) ([]Record, error) {
	r.recs = r.recs[:0]
	for it := fetched.RecordIter(); !it.Done(); {
		rec := it.Next()
		if rec.Offset > r.next { // dropped meanwhile, or offsets that the broker has used itself
			start, err := r.t.Start(ctx, r.partition)
			if err != nil {
				return nil, err
			}
			if start > r.next {
				r.err = r.tooOld(r.next)
				return nil, r.err
			}
		}
		r.next = rec.Offset + 1
		r.recs = append(r.recs, Record{Offset: rec.Offset, Appended: rec.Timestamp, Data: rec.Value})
	}
	if len(r.recs) > 0 {
		return r.recs, nil
	}
	for _, e := range fetched.Errors() {
		if err := r.judge(ctx, e.Err); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// judge returns what a failed fetch means, nil if it is tried again.
func (r *kafkaReader) judge(ctx context.Context, err error) error {
	var loss *kgo.ErrDataLoss
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &loss):
		r.err = fmt.Errorf("%w: topic %s, partition %d: %w", ErrLost, r.t.name, r.partition, err)
		return r.err
	case errors.Is(err, kerr.OffsetOutOfRange):
		start, serr := r.t.Start(ctx, r.partition)
		switch {
		case serr != nil:
			return serr
		case start > r.next:
			r.err = r.tooOld(r.next)
		default:
			r.err = fmt.Errorf("%w: topic %s, partition %d ends before offset %d", ErrLost, r.t.name, r.partition, r.next)
		}
		return r.err
	case kerr.IsRetriable(err):
		return nil
	}
	return r.t.wrap(err)
}

// Close implements Reader.
func (r *kafkaReader) Close() error {
	r.t.k.mu.Lock()
	delete(r.t.k.readers, r)
	r.t.k.mu.Unlock()
	r.client.Close()
	return nil
}
