package account

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Away asks the node that counts a partition: what it is asked is for Answer there.
type Away interface {
	Ask(ctx context.Context, question []byte) ([]byte, error)
}

// question is what is asked of a partition elsewhere; docs/formats/peer.md has it.
type question struct {
	Op     string `json:"op"`
	Tenant string `json:"tenant,omitempty"`
	Plan   *shown `json:"plan,omitempty"`
}

const (
	opCollect    = "collect"
	opMetrics    = "metrics"
	opDimensions = "dimensions"
)

// shown is a plan.
type shown struct {
	Metric   fact.MetricID `json:"metric"`
	Dim      string        `json:"dimension"`
	Values   []string      `json:"values"` // null: all
	By       bool          `json:"by"`
	Interval Interval      `json:"interval"`
	Zone     string        `json:"zone"`
	From     int64         `json:"from"`
	To       int64         `json:"to"`
	Bounded  bool          `json:"bounded"`
	Unique   bool          `json:"unique"`
	Most     int           `json:"most,omitempty"`
}

func (p *plan) show() *shown {
	return &shown{p.metric, p.dim, p.values, p.by, p.interval, p.zone.String(), p.from, p.to, p.bounded, p.unique, p.most}
}

func (s *shown) plan(tenant string) (*plan, error) {
	zone, err := time.LoadLocation(s.Zone)
	if err != nil {
		return nil, fmt.Errorf("account: a question of another node: %w", err)
	}
	return &plan{fact.TenantIDOf(tenant), s.Metric, s.Dim, s.Values, s.By, s.Interval, zone, s.From, s.To, s.Bounded, s.Unique, s.Most}, nil
}

// Answers begin with one of these bytes.
const (
	answered       = 0
	needsWarehouse = 1 // the text of an ErrNeedsWarehouse follows
	tooMany        = 2
)

// errAnswer says that another node's answer is not one.
var errAnswer = errors.New("account: the answer of another node cannot be read")

// Answer answers a question of another node's Reader from the processor of a partition.
func Answer(ctx context.Context, of keyed.Processor, asked []byte) ([]byte, error) {
	p, ok := of.(*Processor)
	if !ok {
		return nil, ErrUnavailable
	}
	var q question
	if err := json.Unmarshal(asked, &q); err != nil {
		return nil, fmt.Errorf("account: a question of another node: %w", err)
	}
	out := []byte{answered}
	switch q.Op {
	case opCollect:
		if q.Plan == nil {
			return nil, errors.New("account: a question of another node has no plan")
		}
		want, err := q.Plan.plan(q.Tenant)
		if err != nil {
			return nil, err
		}
		got, err := p.collect(ctx, want, q.Tenant)
		switch {
		case errors.Is(err, ErrNeedsWarehouse):
			return append([]byte{needsWarehouse}, err.Error()...), nil
		case errors.Is(err, ErrTooMany):
			return []byte{tooMany}, nil
		}
		return got.append(out), err
	case opMetrics:
		found := map[fact.MetricID]Metric{}
		err := p.listMetrics(ctx, q.Tenant, found)
		return appendJSON(out, slices.Collect(maps.Values(found)), err)
	case opDimensions:
		found := map[string]bool{}
		err := p.listDimensions(ctx, found)
		return appendJSON(out, found, err)
	}
	return nil, fmt.Errorf("account: question %q of another node is not known", q.Op)
}

func appendJSON(out []byte, v any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(v)
	return append(out, b...), err
}

// remote is a partition that another node counts.
type remote struct{ away Away }

// ask returns what follows the first byte.
func (r remote) ask(ctx context.Context, q question) ([]byte, error) {
	b, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	got, err := r.away.Ask(ctx, b)
	switch {
	case errors.Is(err, keyed.ErrClosed):
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case err != nil:
		return nil, err
	case len(got) > 0 && got[0] == answered:
		return got[1:], nil
	case len(got) > 0 && got[0] == needsWarehouse:
		return nil, fmt.Errorf("%w: %s", ErrNeedsWarehouse, got[1:])
	case len(got) > 0 && got[0] == tooMany:
		return nil, ErrTooMany
	}
	return nil, errAnswer
}

// collect implements source.
func (r remote) collect(ctx context.Context, p *plan, tenant string) (lines, error) {
	b, err := r.ask(ctx, question{Op: opCollect, Tenant: tenant, Plan: p.show()})
	if err != nil {
		return nil, err
	}
	return parseLines(b)
}

// listMetrics implements source.
func (r remote) listMetrics(ctx context.Context, tenant string, found map[fact.MetricID]Metric) error {
	b, err := r.ask(ctx, question{Op: opMetrics, Tenant: tenant})
	if err != nil {
		return err
	}
	var got []Metric
	if err := json.Unmarshal(b, &got); err != nil {
		return fmt.Errorf("%w: %w", errAnswer, err)
	}
	for _, m := range got {
		addMetric(found, m)
	}
	return nil
}

// listDimensions implements source.
func (r remote) listDimensions(ctx context.Context, found map[string]bool) error {
	b, err := r.ask(ctx, question{Op: opDimensions})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &found); err != nil {
		return fmt.Errorf("%w: %w", errAnswer, err)
	}
	return nil
}

// append writes lines: their number, and of each its value and its cells.
func (l lines) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(l)))
	for value, cells := range l {
		b = binary.AppendUvarint(b, uint64(len(value)))
		b = append(b, value...)
		b = binary.AppendUvarint(b, uint64(len(cells)))
		for id, n := range cells {
			b = binary.AppendVarint(b, id)
			b = binary.AppendVarint(b, n.count)
			b = binary.AppendVarint(b, n.sum.Hi)
			b = binary.AppendUvarint(b, n.sum.Lo)
			b = binary.AppendVarint(b, n.unique)
		}
	}
	return b
}

// parseLines reads what append wrote, and nothing more.
func parseLines(b []byte) (lines, error) {
	p := parser{b: b}
	l := lines{}
	for n := p.uvarint(); n > 0 && !p.bad; n-- {
		value := string(p.bytes())
		cells := map[int64]*cellNumbers{}
		for n := p.uvarint(); n > 0 && !p.bad; n-- {
			id := p.varint()
			cells[id] = &cellNumbers{count: p.varint(), sum: Sum{Hi: p.varint(), Lo: p.uvarint()}, unique: p.varint()}
		}
		l[value] = cells
	}
	if p.bad || len(p.b) > 0 {
		return nil, errAnswer
	}
	return l, nil
}
