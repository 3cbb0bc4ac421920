package pipeline

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/api"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/peer"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// answersHouse is what a node with a warehouse says that it answers. A change of what is below needs another name.
const answersHouse = "warehouse.1"

// houseQuestion is a question for another node's warehouse: the one that is not nil.
type houseQuestion struct {
	Tenant string
	Events *customer.EventQuery
	Counts *houseCounts
	Seen   *warehouse.SeenQuery
	SQL    *houseSQL
}

// houseCounts is an account.Query, as far as a warehouse reads it.
type houseCounts struct {
	Metric       fact.MetricID
	Measurements []string
	Interval     account.Interval
	From, To     time.Time
	Zone         string
	By           []string
	Values       map[string][]string
}

type houseSQL struct {
	Query string
	Limit int
}

// houseAnswer is what comes back.
type houseAnswer struct {
	Refused string // why, in words for whoever asked; kind says which error it is
	Kind    refusal
	Events  *customer.EventPage
	Counts  *account.Result
	Seen    bool
	SQL     []byte // JSON
}

type refusal uint8

const (
	refusedCursor  refusal = iota + 1 // customer.ErrCursor
	refusedBusy                       // warehouse.ErrBusy
	refusedRequest                    // ErrRefused
)

// Answer implements peer.Local.
func (l local) Answer(ctx context.Context, what string, question []byte) ([]byte, error) {
	if what != answersHouse || l.p.house == nil {
		return nil, peer.ErrNoAnswer
	}
	var q houseQuestion
	if err := gob.NewDecoder(bytes.NewReader(question)).Decode(&q); err != nil {
		return nil, fmt.Errorf("pipeline: a question of another node: %w", err)
	}
	var a houseAnswer
	err := l.p.askHouse(ctx, &q, &a)
	switch { // SQL that is refused because the warehouse is busy is both
	case errors.Is(err, ErrRefused):
		a = houseAnswer{Kind: refusedRequest, Refused: err.Error()}
	case errors.Is(err, customer.ErrCursor):
		a = houseAnswer{Kind: refusedCursor, Refused: err.Error()}
	case errors.Is(err, warehouse.ErrBusy):
		a = houseAnswer{Kind: refusedBusy, Refused: err.Error()}
	case err != nil:
		return nil, err
	}
	return encoded(&a)
}

// askHouse asks the warehouse here.
func (p *Pipeline) askHouse(ctx context.Context, q *houseQuestion, a *houseAnswer) (err error) {
	switch {
	case q.Events != nil:
		a.Events, err = answers{p.house}.Events(ctx, q.Tenant, *q.Events)
	case q.Counts != nil:
		c := q.Counts
		zone, zerr := time.LoadLocation(c.Zone)
		if zerr != nil {
			return fmt.Errorf("pipeline: a question of another node: %w", zerr)
		}
		a.Counts, err = answers{p.house}.Query(ctx, account.Query{Tenant: q.Tenant, Metric: c.Metric, Measurements: c.Measurements, Interval: c.Interval,
			From: c.From, To: c.To, Zone: zone, By: c.By, Values: c.Values})
	case q.Seen != nil:
		a.Seen, err = p.house.Seen(ctx, *q.Seen)
	case q.SQL != nil:
		var out *warehouse.Answer
		if out, err = p.SQL(ctx, q.SQL.Query, q.SQL.Limit); err == nil {
			a.SQL, err = json.Marshal(out)
		}
	default:
		err = errQuestion
	}
	return err
}

func encoded(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

// distant is the warehouse of another node, of any that has one.
type distant struct{ f *peer.Finder }

func (d distant) ask(ctx context.Context, q houseQuestion) (*houseAnswer, error) {
	b, err := encoded(&q)
	if err != nil {
		return nil, err
	}
	if b, err = d.f.Answer(ctx, answersHouse, b); err != nil {
		if errors.Is(err, peer.ErrNoAnswer) {
			err = fmt.Errorf("%w: %w", api.ErrNoWarehouse, err)
		}
		return nil, err
	}
	a := new(houseAnswer)
	if err := gob.NewDecoder(bytes.NewReader(b)).Decode(a); err != nil {
		return nil, fmt.Errorf("pipeline: an answer of another node: %w", err)
	}
	switch a.Kind {
	case refusedCursor:
		return nil, customer.ErrCursor
	case refusedBusy:
		return nil, fmt.Errorf("%w: %s", warehouse.ErrBusy, a.Refused)
	case refusedRequest:
		return nil, fmt.Errorf("%w: %s", ErrRefused, a.Refused)
	}
	return a, nil
}

// Events implements api.Warehouse.
func (d distant) Events(ctx context.Context, tenant string, q customer.EventQuery) (*customer.EventPage, error) {
	a, err := d.ask(ctx, houseQuestion{Tenant: tenant, Events: &q})
	if err != nil {
		return nil, err
	}
	return a.Events, nil
}

// Query implements api.Warehouse.
func (d distant) Query(ctx context.Context, q account.Query) (*account.Result, error) {
	c := &houseCounts{q.Metric, q.Measurements, q.Interval, q.From, q.To, q.Zone.String(), q.By, q.Values}
	a, err := d.ask(ctx, houseQuestion{Tenant: q.Tenant, Counts: c})
	if err != nil {
		return nil, err
	}
	return a.Counts, nil
}

// Seen implements archive.
func (d distant) Seen(ctx context.Context, q warehouse.SeenQuery) (bool, error) {
	a, err := d.ask(ctx, houseQuestion{Tenant: q.Tenant, Seen: &q})
	if err != nil {
		return false, err
	}
	return a.Seen, nil
}

// SQL asks as an operator.
func (d distant) SQL(ctx context.Context, query string, limit int) (*warehouse.Answer, error) {
	a, err := d.ask(ctx, houseQuestion{SQL: &houseSQL{query, limit}})
	if errors.Is(err, api.ErrNoWarehouse) {
		return nil, fmt.Errorf("%w: neither here nor at another node that can be reached is there a warehouse: see pipeline.warehouse.engine", ErrRefused)
	}
	if err != nil {
		return nil, err
	}
	out := new(warehouse.Answer)
	dec := json.NewDecoder(bytes.NewReader(a.SQL))
	dec.UseNumber() // as they were written
	return out, dec.Decode(out)
}
