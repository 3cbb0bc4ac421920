// Package stream is the partitioned, durable log that the pipeline's stages
// hand each other records through: an embedded one for one node (Open), Kafka for
// more (NewKafka), and one in memory for tests (NewMemory). One conformance suite
// (streamtest) holds all three to this contract.
//
// What a reader sees is durable: it survives a power cut. Offsets rise within a
// partition, with gaps; an offset stays the same for as long as its record is kept.
package stream

import (
	"context"
	"errors"
	"time"
)

// Errors of a Log.
var (
	// ErrClosed says that the log was closed.
	ErrClosed = errors.New("stream: closed")
	// ErrTooOld says that records from the offset asked for on are not kept any more:
	// state has to come from a newer snapshot.
	ErrTooOld = errors.New("stream: offset is older than what is kept")
	// ErrLost says that the log lost records that it had acknowledged, by damage of its medium.
	ErrLost = errors.New("stream: records are damaged")
	// ErrFenced says that this process is no longer the owner of a partition: another one goes on with it.
	ErrFenced = errors.New("stream: another process owns the partition now")
)

// Log is a set of topics. It is safe for concurrent use.
type Log interface {
	// Topic opens a topic, making it with so many partitions if there is none. A
	// topic that exists with another number of partitions is an error that names both.
	Topic(ctx context.Context, name string, partitions int32) (Topic, error)
	// Run calls serve for each partition of a topic that is assigned to this process as a
	// member of a group, each on a goroutine of its own, until ctx ends. The
	// context of serve ends when the partition is taken away; Run hands it out again elsewhere only
	// after serve has returned. An error of serve other than its context's ends Run with it.
	// An embedded log assigns all partitions at once, with generation 1.
	Run(ctx context.Context, group string, t Topic, serve func(ctx context.Context, a Assignment) error) error
	// Hold keeps all records of a partition from an offset on, for a consumer whose oldest
	// synced snapshot has that offset. It is remembered over restarts. A consumer that never
	// called it holds nothing; Release ends it.
	Hold(ctx context.Context, group string, t Topic, partition int32, offset int64) error
	// Release forgets what a group holds of a topic.
	Release(ctx context.Context, group string, t Topic) error
	Close() error
}

// Assignment is a partition that this process serves for a group.
type Assignment struct {
	Partition int32
	// Generation rises with each assignment of the partition, whoever gets it. Outputs carry it, so that
	// those of a process that lost the partition can be told from those of the one that has it.
	Generation int64
}

// Topic is one partitioned log. It is safe for concurrent use.
type Topic interface {
	Name() string
	Partitions() int32
	// Append makes messages durable and returns the offset of each. Messages for
	// one partition keep their order. After an error it is unknown which of them are kept.
	// Data may be used again when it returns.
	Append(ctx context.Context, msgs []Message) ([]int64, error)
	// Start is the offset of the first record of a partition that is kept, or End if there is none.
	Start(ctx context.Context, partition int32) (int64, error)
	// End is the offset behind the newest durable record of a partition, 0 if it never had one: all records durable
	// by now lie before it, and none that comes later does. A consumer that has applied all goes on from it.
	End(ctx context.Context, partition int32) (int64, error)
	// Read starts reading a partition at an offset, 0 for the start of what is kept. It
	// returns ErrTooOld if there were records from it on that are gone.
	Read(ctx context.Context, partition int32, from int64) (Reader, error)
}

// Message is what is appended.
type Message struct {
	Partition int32
	Data      []byte
}

// Record is what is read.
type Record struct {
	Offset   int64
	Appended time.Time // to the millisecond
	Data     []byte
}

// Reader reads one partition in order. It is for one goroutine.
type Reader interface {
	// Next returns the next records, at most max, waiting for the first of them. What it returned is
	// valid until the next call. At the end of ctx it returns its error, and may be called again.
	Next(ctx context.Context, max int) ([]Record, error)
	// Close frees what the reader holds.
	Close() error
}
