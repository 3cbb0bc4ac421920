// Package peer lets the nodes of one pipeline read from each other: each serves some partitions of each consumer,
// and any of them answers any question.
//
// A node serves what it has over HTTP (Server): values and rows of a partition's state, questions for its counts, waiting until a
// record is applied, and which partitions it has. A Finder asks the others for that table every
// second, finds the owner of a partition, and asks it. An owner answers only for
// what it serves at that moment; otherwise it says so, and the question goes to the next owner as soon as there is one.
// docs/formats/peer.md has the requests, docs/adr/0011-several-nodes.md the reasons.
package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/godwit-mta/godwit/internal/keyed"
)

// Options are what a configuration file can set.
type Options struct {
	Listen    string `toml:"listen" doc:"Address host:port at which this node's pipeline answers the other nodes; empty is for one node alone. It needs pipeline.kafka.brokers, the section [cluster], and unless it is on loopback cluster.key_file."`
	Advertise string `toml:"advertise" doc:"Address host:port that the other nodes are told, when they reach it at another one; empty is what listen bound."`
}

// Enabled reports whether other nodes are to be answered, and asked.
func (o Options) Enabled() bool { return o.Listen != "" }

// Validate returns an error that begins with the key at fault.
func (o Options) Validate() error {
	if o.Listen != "" {
		if _, _, err := net.SplitHostPort(o.Listen); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	if o.Advertise == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(o.Advertise)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" {
		return fmt.Errorf("advertise: %q is not host:port", o.Advertise)
	}
	return nil
}

// Advertised is the address that other nodes are told, of one that listens; "" if it has none. A loopback address
// counts only where the whole cluster is on loopback.
func (o Options) Advertised(bound net.Addr, loopback bool) string {
	if o.Advertise != "" {
		return o.Advertise
	}
	if t, ok := bound.(*net.TCPAddr); ok && !t.IP.IsUnspecified() && (loopback || !t.IP.IsLoopback()) {
		return t.String()
	}
	return ""
}

// Node is a node and where it answers.
type Node struct{ Name, Address string }

// Claim says that a node serves a partition.
type Claim struct {
	Partition  int32 `json:"partition"`
	Generation int64 `json:"generation"` // of two nodes that claim a partition the one with the higher has it
}

// Table is what a node has.
type Table struct {
	Node      string             `json:"node"`
	Consumers map[string][]Claim `json:"consumers"`
	// Answers are what it answers besides, for all partitions.
	Answers []string `json:"answers,omitempty"`
}

// Store is the committed state of a partition: *keyed.Store is one.
type Store interface {
	Get(key []byte) ([]byte, error)
	Page(from, to []byte, back bool, size int) (rows []keyed.Row, more bool, err error)
}

// Progress is how far a partition of a consumer is.
type Progress struct {
	Committed int64 `json:"committed"` // records before it show in the state
	// Sent are the offsets of the last records that the consumer's node appended to each partition of the next log, or -1.
	Sent []int64 `json:"sent,omitempty"`
}

// Local is what this node has. What it serves may change at any time: then its methods return an error that wraps keyed.ErrClosed.
type Local interface {
	Table() Table
	// Serves reports whether this node serves a partition, and no other can.
	Serves(consumer string, partition int32) bool
	// Store is the state of a partition that is served.
	Store(consumer string, partition int32) (Store, bool)
	// Wait returns when a record is applied, or the error of ctx.
	Wait(ctx context.Context, consumer string, partition int32, offset int64) (Progress, error)
	// Ask answers a question about a partition.
	Ask(ctx context.Context, consumer string, partition int32, question []byte) ([]byte, error)
	// Answer answers a question about everything.
	Answer(ctx context.Context, what string, question []byte) ([]byte, error)
}

// Errors of questions.
var (
	// ErrNobody says that no node that can be reached serves the partition at the moment.
	ErrNobody = fmt.Errorf("peer: no node has the partition at the moment: %w", keyed.ErrClosed)
	// ErrNoAnswer says that no node that can be reached answers questions of this kind.
	ErrNoAnswer = errors.New("peer: no node that can be reached answers that")
)

// Of one call. The first two are tried again, at whoever has the partition then.
var (
	errNotMine     = errors.New("peer: the node does not have the partition")
	errUnreachable = errors.New("peer: the node does not answer")
	errFormat      = errors.New("peer: the answer cannot be read")
)

// passes reports whether a question is worth asking again.
func passes(err error) bool {
	return errors.Is(err, errNotMine) || errors.Is(err, errUnreachable) || errors.Is(err, keyed.ErrClosed)
}
