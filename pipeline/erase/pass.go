package erase

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Pass erases all deletions that are complete, whatever their age, after finishing a pass that was begun before.
func (e *Eraser) Pass(ctx context.Context) (Report, error) {
	e.passing.Lock()
	defer e.passing.Unlock()
	e.setBusy(true)
	defer e.setBusy(false)
	began := e.d.Now()
	p, err := e.loadPlan()
	if err == nil && p == nil {
		p, err = e.prepare(ctx)
	}
	if err != nil || p == nil {
		return Report{}, err
	}
	if err := e.logs(ctx, p); err != nil {
		return Report{}, err
	}
	compacted, err := e.compact(ctx, p)
	if err != nil {
		return Report{}, err
	}
	return e.finish(p, Report{At: e.d.Now(), Took: e.d.Now().Sub(began), Profiles: len(p.Deleted), Intake: len(p.Empty) + len(p.Made), Facts: p.Facts, Compacted: compacted})
}

// logs erases from both logs, unless that is done.
func (e *Eraser) logs(ctx context.Context, p *plan) error {
	if p.Logs {
		return nil
	}
	e.doing("rewriting segments")
	if err := e.rewriteTwice(ctx, p); err != nil {
		return err
	}
	p.Logs = true
	return e.write(planName, p)
}

func (e *Eraser) setBusy(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.busy, e.does = on, ""
}

// doing notes what a pass is at.
func (e *Eraser) doing(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.does = what
}

// prepare makes a plan and writes it down; nil if nothing waits.
func (e *Eraser) prepare(ctx context.Context) (*plan, error) {
	deleted := e.complete()
	if len(deleted) == 0 {
		return nil, nil
	}
	f, err := e.families(ctx, deleted)
	if err != nil {
		return nil, err
	}
	e.doing("waiting for the consumers")
	if err := e.settle(ctx, deleted[0], f.depth); err != nil {
		return nil, err
	}
	p, err := e.draw(ctx, deleted, f)
	if err != nil {
		return nil, err
	}
	return p, e.write(planName, p)
}

// complete are the deletions that every partition of the first log has told of, the oldest first.
func (e *Eraser) complete() []who {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []who
	for w, x := range e.st.waiting {
		if len(x.met) >= int(e.d.Intake.Partitions()) {
			out = append(out, w)
		}
	}
	slices.SortFunc(out, func(a, b who) int { return e.st.waiting[a].at.Compare(e.st.waiting[b].at) })
	return out
}

// rewriteTwice erases, and then what a consumer wrote again meanwhile: one whose state is being made anew from the beginning of a log, snapshots
// or not, reads what is not erased yet, and what it then emits a second time stands at the end of the logs.
func (e *Eraser) rewriteTwice(ctx context.Context, p *plan) error {
	if err := e.rewrite(ctx, p); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	if _, err := e.mark(waiting, p.Deleted[0], true); err != nil {
		return err
	}
	return e.rewrite(ctx, p)
}

// rewrite erases. The second log comes last: what it has tells what is to be erased in the first one.
func (e *Eraser) rewrite(ctx context.Context, p *plan) error {
	var odd error // the first record that could not be blanked
	err := e.d.Log.Rewrite(ctx, e.d.Intake.Name(), func(_ int32, offset int64, data []byte) ([]byte, bool) {
		out, keep, err := e.keepIntake(p, offset, data)
		odd = cmp.Or(odd, wrapAt(e.d.Intake.Name(), offset, err))
		return out, keep
	})
	if err == nil {
		err = e.d.Log.Rewrite(ctx, e.d.Facts.Name(), func(_ int32, offset int64, data []byte) ([]byte, bool) {
			out, keep, err := keepFact(p, data)
			odd = cmp.Or(odd, wrapAt(e.d.Facts.Name(), offset, err))
			return out, keep
		})
	}
	if err == nil && odd != nil {
		e.log.Error("erase: a record of a deleted profile is not as it should be", "error", odd)
	}
	return err
}

func wrapAt(topic string, offset int64, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s, offset %d: %w", topic, offset, err)
}

func (e *Eraser) keepIntake(p *plan, offset int64, data []byte) ([]byte, bool, error) {
	if p.none[offset] {
		return nil, false, nil
	}
	if whose, there := p.made[offset]; there {
		if e.d.Seal == nil {
			return nil, false, nil
		}
		out, err := e.sealIntake(data, p.Profiles[whose].profile)
		return out, err == nil, err
	}
	if len(data) < 2 {
		return data, true, nil
	}
	switch fact.Kind(data[1]) {
	case fact.KindMerge:
		out, err := blankMerge(data, p.has)
		return out, true, err
	case fact.KindClaim:
		return e.keepClaim(p, data)
	}
	return data, true, nil
}

// keepClaim erases a claim for an erased profile; the eraser's own claims name nobody.
func (e *Eraser) keepClaim(p *plan, data []byte) ([]byte, bool, error) {
	var in fact.Intake
	if err := in.Parse(data); err != nil || in.Claim == nil || in.Claim.ID.Value == "" || !p.has(in.Tenant, in.Claim.Profile) {
		return data, true, err
	}
	if e.d.Seal == nil {
		return nil, false, nil
	}
	out, err := e.sealIntake(data, in.Claim.Profile)
	return out, err == nil, err
}

func keepFact(p *plan, data []byte) ([]byte, bool, error) {
	h, ok := headOf(data)
	if !ok || !personal(h.kind) {
		return data, true, nil
	}
	if _, there := p.in[who{string(h.tenant), h.profile}]; !there {
		return data, true, nil
	}
	return blankFact(data)
}

// finish forgets what was erased.
func (e *Eraser) finish(p *plan, r Report) (Report, error) {
	e.mu.Lock()
	for _, w := range p.Deleted {
		delete(e.st.waiting, w)
	}
	e.st.last, e.dirty, e.why = r, true, ""
	e.mu.Unlock()
	if err := e.save(); err != nil {
		return r, err
	}
	if err := e.d.FS.Remove(e.planPath()); err != nil {
		return r, err
	}
	e.m.passes.WithLabelValues("done").Inc()
	e.m.profiles.Add(float64(r.Profiles))
	e.m.records.WithLabelValues(e.d.Intake.Name()).Add(float64(r.Intake))
	e.m.records.WithLabelValues(e.d.Facts.Name()).Add(float64(r.Facts))
	e.log.Info("erase: deleted profiles are out of the logs and of what is made from them", "profiles", r.Profiles, "with_merged", len(p.Profiles), "intake", r.Intake, "facts", r.Facts, "compacted", r.Compacted, "took", r.Took)
	return r, nil
}
