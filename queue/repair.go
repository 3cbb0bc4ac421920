package queue

import (
	"context"
	"log/slog"

	"github.com/godwit-mta/godwit/queue/spool"
)

// Repair rebuilds the index of the volume at o.Path from its segments and
// event log; see spool.Repair. No queue may have it open. A nil logger discards.
func Repair(ctx context.Context, o Options, log *slog.Logger) (*spool.Recovery, error) {
	return spool.Repair(ctx, o.Path, o.Spool, spool.Deps{Events: o.Events, Logger: log, InjectedEvent: recoveredEvent})
}
