package adminapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/openapi"
	"github.com/godwit-mta/godwit/internal/wire"
)

// Paths of what concerns the pipeline.
const (
	PathPipeline    = "/admin/v1/pipeline"
	PathPipelineAct = "/admin/v1/pipeline/act"
	PathPipelineSQL = "/admin/v1/pipeline/sql"
)

// Pipeline is the customer side: events, profiles and counts.
type Pipeline interface {
	PipelineStatus(ctx context.Context) (PipelineStatus, error)
	// PipelineAct does something to a consumer. What cannot be done wraps ErrPipeline.
	PipelineAct(ctx context.Context, r PipelineAct) error
	// PipelineSQL asks the warehouse. A query that it does not take wraps ErrPipeline.
	PipelineSQL(ctx context.Context, r SQLRequest) (SQLResponse, error)
}

// ErrPipeline is wrapped by what the pipeline refuses; its text tells why.
var ErrPipeline = errors.New("the pipeline refuses it")

// PipelineStatus tells how far consumers are.
type PipelineStatus struct {
	Path      string           `json:"path" doc:"Folder of logs and state."`
	Consumers []ConsumerStatus `json:"consumers" doc:"In the order in which records pass them; consumers of the second log are independent of each other."`
	Erasure   *PipelineErasure `json:"erasure,omitempty" doc:"How taking deleted profiles out of logs, state and warehouse is doing; absent where the logs are in Kafka."`
}

// PipelineErasure tells how taking deleted profiles out of logs, state and warehouse is doing.
type PipelineErasure struct {
	Waiting   int       `json:"waiting" doc:"Deleted profiles whose data is not erased yet."`
	Oldest    time.Time `json:"oldest,omitzero" doc:"When the oldest of these deletions was accepted."`
	Due       time.Time `json:"due,omitzero" doc:"When it has to be erased: pipeline.erase.within later."`
	Running   bool      `json:"running" doc:"Whether a pass is under way."`
	Doing     string    `json:"doing,omitempty" doc:"What it is at."`
	Error     string    `json:"error,omitempty" doc:"What the last pass could not be finished for; it is tried again each minute."`
	Last      time.Time `json:"last,omitzero" doc:"When the last pass was finished."`
	Profiles  int       `json:"profiles" doc:"Deleted profiles that it erased."`
	Records   int       `json:"records" doc:"Records of both logs that it erased."`
	Compacted []string  `json:"compacted,omitempty" doc:"Consumers whose files it wrote anew without what was deleted."`
	Seconds   float64   `json:"seconds,omitzero" doc:"How long it took."`
}

// ConsumerStatus is one consumer.
type ConsumerStatus struct {
	Name       string              `json:"name" doc:"identity, customer, account or warehouse."`
	Running    bool                `json:"running" doc:"Whether it works; an operator can stop it."`
	Partitions []ConsumerPartition `json:"partitions" doc:"What this node has of it."`
}

// ConsumerPartition is one partition of a consumer's input.
type ConsumerPartition struct {
	Partition int       `json:"partition" doc:"Its number."`
	Node      string    `json:"node,omitempty" doc:"Where the pipeline has several nodes: the one that answers for it. Absent while none is known to."`
	Elsewhere bool      `json:"elsewhere,omitempty" doc:"Another node has it, or none: then there are no numbers here."`
	Applied   int64     `json:"applied" doc:"Offset before which everything is applied."`
	Committed int64     `json:"committed" doc:"Offset before which everything is in its state."`
	End       int64     `json:"end" doc:"Offset after the last record of the log."`
	Lag       int64     `json:"lag" doc:"Records that are not applied, at most: offsets have gaps."`
	Seconds   float64   `json:"lag_seconds" doc:"Age of the oldest record that is not applied."`
	Snapshot  time.Time `json:"snapshot,omitzero" doc:"When the newest snapshot was taken."`
	Error     string    `json:"error,omitempty" doc:"What keeps it from going on; it tries again."`
	StuckAt   *int64    `json:"stuck_at,omitempty" doc:"Offset of the one record that it fails at, once that is found."`
	Skipped   []int64   `json:"skipped,omitempty" doc:"Offsets of records that an operator made it skip."`
}

// PipelineAct is something to do to a consumer.
type PipelineAct struct {
	Consumer  string `json:"consumer" doc:"identity, customer, account or warehouse."`
	Action    string `json:"action" enum:"stop,start,snapshot,rebuild,skip" doc:"stop and start it; take a snapshot; rebuild the state of a partition from the newest snapshot and the log; skip the record that it is stuck at."`
	Partition *int   `json:"partition,omitempty" doc:"Of snapshot and rebuild; absent: all. Required to skip."`
	Offset    *int64 `json:"offset,omitempty" doc:"Of the record to skip. It is refused unless the consumer is stuck at exactly this one."`
}

// What can be done to a consumer.
const (
	ActStop     = "stop"
	ActStart    = "start"
	ActSnapshot = "snapshot"
	ActRebuild  = "rebuild"
	ActSkip     = "skip"
)

// Rows that an answer of the warehouse has, by default and at most.
const (
	defaultRows = 1000
	mostRows    = 100_000
)

// SQLRequest is a question to the warehouse.
type SQLRequest struct {
	Query string `json:"query" doc:"One statement that reads." max:"65536"`
	Limit int    `json:"limit,omitempty" doc:"Most rows to return, 1 to 100000; the default is 1000."`
}

// SQLResponse is its answer.
type SQLResponse struct {
	Columns   []string `json:"columns" doc:"Names, in order."`
	Types     []string `json:"types" doc:"Types as the engine calls them."`
	Rows      []Values `json:"rows" doc:"Values in the order of the columns."`
	Truncated bool     `json:"truncated,omitempty" doc:"Whether there are more rows."`
}

// Values is a row.
type Values []any

// JSONSchema implements openapi.Schema.
func (Values) JSONSchema() string { return `{"type":"array","items":{}}` }

const noPipeline = "the pipeline is not on here: set pipeline.path in the configuration"

func (s *Server) pipelineEndpoints() []endpoint {
	op := func(method, path, id, summary string, in any, responses []openapi.Response) openapi.Operation {
		return openapi.Operation{Method: method, Path: path, ID: id, Summary: summary, Request: in, Responses: responses}
	}
	have := s.deps.Pipeline != nil
	return []endpoint{
		{op(http.MethodGet, PathPipeline, "getPipeline", "Tell how far the consumers of the pipeline are.", nil,
			answers(200, PipelineStatus{}, 501)), needs(have, noPipeline, s.getPipeline)},
		{op(http.MethodPost, PathPipelineAct, "actOnConsumer", "Stop or start a consumer, take a snapshot, rebuild its state, skip the record that it is stuck at.", PipelineAct{},
			answers(200, PipelineStatus{}, append([]int{409, 501}, inputErrors...)...)), needs(have, noPipeline, s.postPipelineAct)},
		{op(http.MethodPost, PathPipelineSQL, "askWarehouse", "Ask the warehouse by SQL.", SQLRequest{},
			answers(200, SQLResponse{}, append([]int{409, 501}, inputErrors...)...)), needs(have, noPipeline, s.postPipelineSQL)},
	}
}

func (s *Server) getPipeline(c *call) *wire.Problem {
	out, err := s.deps.Pipeline.PipelineStatus(c.r.Context())
	return s.pipeline(c, out, err)
}

func (s *Server) postPipelineAct(c *call) *wire.Problem {
	in, p := read(c, s.acts)
	if p != nil {
		return p
	}
	if !slices.Contains([]string{ActStop, ActStart, ActSnapshot, ActRebuild, ActSkip}, in.Action) {
		return invalid("/action", wire.CodeInvalidValue, "is not stop, start, snapshot, rebuild or skip")
	}
	if p := checkSkip(in); p != nil {
		return p
	}
	if err := s.deps.Pipeline.PipelineAct(c.r.Context(), *in); err != nil {
		return s.pipeline(c, nil, err)
	}
	return s.getPipeline(c)
}

// checkSkip sees to it that one record is named, and only to skip it.
func checkSkip(in *PipelineAct) *wire.Problem {
	switch {
	case in.Action == ActSkip && in.Partition == nil:
		return invalid("/partition", wire.CodeInvalidValue, "is required to skip a record")
	case in.Action == ActSkip && in.Offset == nil:
		return invalid("/offset", wire.CodeInvalidValue, "is required to skip a record")
	case in.Action != ActSkip && in.Offset != nil:
		return invalid("/offset", wire.CodeInvalidValue, "is only for skip")
	}
	return nil
}

func (s *Server) postPipelineSQL(c *call) *wire.Problem {
	in, p := read(c, s.queries)
	if p != nil {
		return p
	}
	switch {
	case in.Limit == 0:
		in.Limit = defaultRows
	case in.Limit < 0 || in.Limit > mostRows:
		return invalid("/limit", wire.CodeInvalidValue, fmt.Sprintf("is not between 1 and %d", mostRows))
	}
	out, err := s.deps.Pipeline.PipelineSQL(c.r.Context(), *in)
	out.Rows, out.Columns, out.Types = present(out.Rows), present(out.Columns), present(out.Types)
	return s.pipeline(c, out, err)
}

func (s *Server) pipeline(c *call, out any, err error) *wire.Problem {
	switch {
	case errors.Is(err, ErrPipeline):
		return wire.NewProblem(http.StatusConflict, wire.CodeConflict, err.Error())
	case err != nil:
		return s.failed(c, err)
	}
	wire.Write(c.w, http.StatusOK, out)
	return nil
}

// Pipeline tells how far the consumers are.
func (c *Client) Pipeline(ctx context.Context) (*PipelineStatus, error) {
	return invoke[PipelineStatus](ctx, c, true, http.MethodGet, PathPipeline, nil, nil)
}

// ActOnConsumer stops, starts, snapshots, rebuilds or skips.
func (c *Client) ActOnConsumer(ctx context.Context, r PipelineAct) (*PipelineStatus, error) {
	return invoke[PipelineStatus](ctx, c, false, http.MethodPost, PathPipelineAct, nil, r)
}

// SQL asks the warehouse.
func (c *Client) SQL(ctx context.Context, r SQLRequest) (*SQLResponse, error) {
	return invoke[SQLResponse](ctx, c, true, http.MethodPost, PathPipelineSQL, nil, r)
}
