package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/pipeline"
)

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
	for _, c := range a.p.Status() {
		x := adminapi.ConsumerStatus{Name: c.Name, Running: c.Running, Partitions: []adminapi.ConsumerPartition{}}
		for _, s := range c.Partitions {
			x.Partitions = append(x.Partitions, adminapi.ConsumerPartition{Partition: int(s.Partition), Applied: s.Applied, Committed: s.Committed, End: s.End,
				Lag: max(0, s.End-s.Applied), Seconds: s.Behind.Seconds(), Snapshot: s.Snapshot.Taken, Error: s.Error})
		}
		out.Consumers = append(out.Consumers, x)
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
