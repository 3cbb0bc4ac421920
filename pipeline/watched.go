package pipeline

import (
	"context"
	"errors"
	"fmt"

	"github.com/godwit-mta/godwit/internal/seglog"
	"github.com/godwit-mta/godwit/internal/stream"
)

// watched is a topic whose failure ends the program: when the disk has refused to keep what it was
// given, only a restart finds out what it has.
type watched struct {
	stream.Topic
	fatal func(error)
}

// Append implements stream.Topic.
func (w *watched) Append(ctx context.Context, msgs []stream.Message) ([]int64, error) {
	offsets, err := w.Topic.Append(ctx, msgs)
	if errors.Is(err, seglog.ErrFailed) {
		w.fatal(fmt.Errorf("pipeline: topic %s: %w", w.Name(), err))
	}
	return offsets, err
}
