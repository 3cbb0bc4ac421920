package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/pipeline"
)

// consumerWarehouse has no nodes: each that has a warehouse has all of it.
const consumerWarehouse = "warehouse"

// adminPipeline shows a pipeline to the admin API.
type adminPipeline struct{ p *pipeline.Pipeline }

// adminPipelineOf is nil where there is no pipeline.
func adminPipelineOf(p *pipeline.Pipeline) adminapi.Pipeline {
	if p == nil {
		return nil
	}
	return adminPipeline{p}
}

// PipelineStatus implements adminapi.Pipeline.
func (a adminPipeline) PipelineStatus(context.Context) (adminapi.PipelineStatus, error) {
	out := adminapi.PipelineStatus{Path: a.p.Path()}
	skipped := a.p.Skipped()
	for _, c := range a.p.Status() {
		x := adminapi.ConsumerStatus{Name: c.Name, Running: c.Running, Partitions: []adminapi.ConsumerPartition{}}
		for _, s := range c.Partitions {
			part := adminapi.ConsumerPartition{Partition: int(s.Partition), Applied: s.Applied, Committed: s.Committed, End: s.End,
				Lag: max(0, s.End-s.Applied), Seconds: s.Waiting.Seconds(), Snapshot: s.Snapshot.Taken, Error: s.Error}
			if node, others := a.p.Holder(c.Name, s.Partition); others && c.Name != consumerWarehouse {
				part.Node, part.Elsewhere = node, s.State == keyed.StateAway
			}
			if at, stuck := a.p.StuckAt(c.Name, s.Partition); stuck {
				part.StuckAt = &at
			}
			for _, k := range skipped {
				if k.Consumer == c.Name && k.Partition == s.Partition {
					part.Skipped = append(part.Skipped, k.Offset)
				}
			}
			x.Partitions = append(x.Partitions, part)
		}
		out.Consumers = append(out.Consumers, x)
	}
	if s := a.p.Erasure(); s != nil {
		out.Erasure = &adminapi.PipelineErasure{Waiting: s.Waiting, Oldest: s.Oldest, Running: s.Running, Doing: s.Doing, Error: s.Why, Last: s.Last.At,
			Seconds: s.Last.Took.Seconds(), Compacted: s.Last.Compacted, Profiles: s.Last.Profiles, Records: s.Last.Intake + s.Last.Facts}
		if !s.Oldest.IsZero() {
			out.Erasure.Due = s.Oldest.Add(s.Within)
		}
	}
	return out, nil
}

// PipelineAct implements adminapi.Pipeline.
func (a adminPipeline) PipelineAct(ctx context.Context, r adminapi.PipelineAct) error {
	var err error
	switch r.Action {
	case adminapi.ActStop:
		err = a.p.StopConsumer(ctx, r.Consumer)
	case adminapi.ActStart:
		err = a.p.StartConsumer(r.Consumer)
	case adminapi.ActSnapshot:
		err = a.p.SnapshotConsumer(ctx, r.Consumer, r.Partition)
	case adminapi.ActRebuild:
		err = a.p.RebuildConsumer(ctx, r.Consumer, r.Partition)
	case adminapi.ActSkip:
		err = a.p.SkipRecord(ctx, r.Consumer, *r.Partition, *r.Offset)
	}
	return refused(err)
}

// PipelineSQL implements adminapi.Pipeline.
func (a adminPipeline) PipelineSQL(ctx context.Context, r adminapi.SQLRequest) (adminapi.SQLResponse, error) {
	out, err := a.p.SQL(ctx, r.Query, r.Limit)
	if err != nil {
		return adminapi.SQLResponse{}, refused(err)
	}
	x := adminapi.SQLResponse{Truncated: out.Truncated}
	for _, c := range out.Columns {
		x.Columns, x.Types = append(x.Columns, c.Name), append(x.Types, c.Type)
	}
	for _, row := range out.Rows {
		x.Rows = append(x.Rows, row)
	}
	return x, nil
}

// refused marks what the pipeline would not do.
func refused(err error) error {
	if errors.Is(err, pipeline.ErrRefused) {
		return fmt.Errorf("%w: %w", adminapi.ErrPipeline, err)
	}
	return err
}
