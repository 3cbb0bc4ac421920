package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta"
	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/queue"
)

// adminQueue shows the queue to the admin API in the API's own words.
type adminQueue struct {
	q      *queue.Queue
	shared *mta.Shared
}

// filterOf says a filter in the queue's words.
func filterOf(f adminapi.Filter) queue.Filter {
	return queue.Filter{Message: f.Message, Tenant: f.Tenant, Stream: f.Stream, Domain: f.Domain, Site: f.Site, Recipient: f.Recipient, All: f.All}
}

// Queues implements adminapi.Inspector.
func (a adminQueue) Queues(_ context.Context, f adminapi.Filter) ([]adminapi.QueueInfo, error) {
	list, err := a.q.List(filterOf(f))
	if err != nil {
		return nil, err
	}
	out := make([]adminapi.QueueInfo, len(list))
	for i, in := range list {
		out[i] = adminapi.QueueInfo{
			Tenant: in.Tenant, Stream: in.Stream, Domain: in.Domain, Site: in.Site, Priority: in.Priority.String(),
			Messages: in.Messages, Ready: in.Ready, InFlight: in.InFlight, NextDue: in.NextDue, HeldUntil: in.Held,
			Suspended: in.Suspended, LastReply: in.LastReply,
		}
	}
	return out, nil
}

// Messages implements adminapi.Inspector.
func (a adminQueue) Messages(ctx context.Context, f adminapi.Filter, each func(adminapi.Waiting) bool) error {
	return a.q.Messages(ctx, filterOf(f), func(w queue.Waiting) bool { return each(adminapi.Waiting(w)) })
}

// Message implements adminapi.Inspector.
func (a adminQueue) Message(ctx context.Context, id mail.ID) (adminapi.Detail, error) {
	h, err := a.q.History(ctx, "", id)
	if err != nil {
		return adminapi.Detail{}, err
	}
	d := adminapi.Detail{Events: h.Events}
	if h.Waiting != nil {
		w := adminapi.Waiting(*h.Waiting)
		d.Waiting = &w
	}
	return d, nil
}

// Body implements adminapi.Inspector.
func (a adminQueue) Body(ctx context.Context, id mail.ID) (mail.BodyKind, []byte, error) {
	return a.q.BodyOf(ctx, id)
}

// Suspend implements adminapi.Suspender.
func (a adminQueue) Suspend(_ context.Context, f adminapi.Filter, until time.Time, reason string) (adminapi.Suspension, error) {
	x, err := a.shared.Suspend(filterOf(f), until, reason)
	return suspensionOf(x), err
}

// Suspensions implements adminapi.Suspender.
func (a adminQueue) Suspensions(context.Context) ([]adminapi.Suspension, error) {
	list := a.q.Suspensions()
	out := make([]adminapi.Suspension, len(list))
	for i, x := range list {
		out[i] = suspensionOf(x)
	}
	return out, nil
}

func suspensionOf(x queue.Suspension) adminapi.Suspension {
	return adminapi.Suspension{ID: x.ID, Filter: adminapi.Filter{Message: x.Filter.Message, Tenant: x.Filter.Tenant, Stream: x.Filter.Stream,
		Domain: x.Filter.Domain, Site: x.Filter.Site, Recipient: x.Filter.Recipient, All: x.Filter.All}, Until: x.Until, Reason: x.Reason, Created: x.Created}
}

// Resume implements adminapi.Suspender.
func (a adminQueue) Resume(_ context.Context, id string) error { return a.shared.Resume(id) }

// Bounce implements adminapi.Changer.
func (a adminQueue) Bounce(ctx context.Context, f adminapi.Filter, reason string) (int, error) {
	return a.shared.Bounce(ctx, filterOf(f), reason)
}

// Retry implements adminapi.Changer.
func (a adminQueue) Retry(ctx context.Context, f adminapi.Filter) (int, error) {
	return a.shared.Retry(ctx, filterOf(f))
}

// Export implements adminapi.Mover.
func (a adminQueue) Export(ctx context.Context, f adminapi.Filter, w io.Writer) (int, error) {
	return a.q.Export(ctx, filterOf(f), w)
}

// Import implements adminapi.Mover.
func (a adminQueue) Import(ctx context.Context, r io.Reader) (stored, known int, err error) {
	stored, known, err = a.q.Import(ctx, r)
	if errors.Is(err, queue.ErrBadImport) {
		err = fmt.Errorf("%w: %w", adminapi.ErrBadImport, err)
	}
	return stored, known, err
}

// adminNode is the process as the admin API sees it.
type adminNode struct{ s *server }

// Stats implements adminapi.Node.
func (a adminNode) Stats(context.Context) (adminapi.Stats, error) {
	s := a.s.engine.Queue().Stats()
	return adminapi.Stats{
		Messages: s.Messages, InMemory: s.InMemory, Queues: s.Queues, Sites: s.Sites, Connections: s.Connections,
		BodyBytes: s.BodyBytes, IndexBytes: s.IndexBytes, SegmentBytes: s.SegmentBytes, Records: s.Records, Syncs: s.Syncs,
		Suspended: s.Suspended, Draining: s.Draining, VolumeID: s.VolumeID, DiskLow: s.FreeSpaceLow,
	}, nil
}

// Info implements adminapi.Node.
func (a adminNode) Info(context.Context) (adminapi.Info, error) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	name, err := a.s.file.Name()
	return adminapi.Info{
		Version: version(), Go: runtime.Version(), Hostname: name, PID: os.Getpid(), Started: a.s.started,
		ConfigFile: a.s.path, ConfigDigest: a.s.file.Digest(), ConfigLoaded: a.s.loaded,
	}, err
}

// Reload implements adminapi.Node.
func (a adminNode) Reload(context.Context) error { return a.s.Reload() }

// Drain implements adminapi.Node.
func (a adminNode) Drain(_ context.Context, on bool) error {
	a.s.engine.Queue().Drain(on)
	return nil
}
