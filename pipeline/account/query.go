package account

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// ErrNeedsWarehouse says that a question cannot be answered from these counts: only from the events themselves.
var ErrNeedsWarehouse = errors.New("account: this needs the warehouse")

// Invalid is a question with a field that cannot be used.
type Invalid struct {
	Field  string // of Query
	Detail string
}

// Error implements error.
func (e *Invalid) Error() string { return fmt.Sprintf("account: %s %s", e.Field, e.Detail) }

// Interval is a size of bucket.
type Interval string

// The intervals. Weeks begin on Monday.
const (
	Hour  Interval = "hour"
	Day   Interval = "day"
	Week  Interval = "week"
	Month Interval = "month"
)

// What is measured, and what rows can be sorted by.
const (
	Count    = "count"
	SumValue = "sum_value"
	Unique   = "unique"
)

// Query asks for the numbers of one metric.
type Query struct {
	Tenant       string
	Metric       fact.MetricID
	Measurements []string // of Count, SumValue, Unique; at least one
	Interval     Interval
	From, To     time.Time      // [From, To), at most a year apart; at the begin of hours
	Zone         *time.Location // of the intervals; nil is the tenant's
	By           []string       // dimensions: a row for each value
	// Values restricts dimensions: events count that have one of the values.
	Values map[string][]string
	// Sort is a measurement, by whose sum over all dates rows are sorted, or the dimension; with - before it
	// for descending. The default is the dimension.
	Sort   string
	Size   int    // rows; 0 is 500
	Cursor string // Next of the page before
}

// Result has a row for each value of the dimension, or one row if there is no dimension.
type Result struct {
	Dates []time.Time // where each interval begins; the first and last may be partly outside of the query
	Rows  []Row
	Next  string // asks for the next page; empty at the end
}

// Row has one number for each date; of measurements that were not asked for it has none.
type Row struct {
	Dimensions []string
	Count      []int64
	Sum        []Sum
	Unique     []int64
}

const (
	defaultSize = 500
	maxRange    = 366*24*time.Hour + time.Hour // a leap year, and an hour for a change of the clock
)

// plan is how a question is answered.
type plan struct {
	tenant   fact.TenantID
	metric   fact.MetricID
	dim      string   // "" is the total
	values   []string // nil: all
	by       bool
	interval Interval
	zone     *time.Location // of the intervals
	from, to int64          // Unix seconds
	bounded  bool           // there are from and to
	unique   bool           // is asked for
	most     int            // counts to hold at once; 0: all
}

func newPlan(q *Query, zone *time.Location) (*plan, error) {
	if q.Zone != nil {
		zone = q.Zone
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	p := &plan{
		tenant: fact.TenantIDOf(q.Tenant), metric: q.Metric, interval: q.Interval, zone: zone,
		from: q.From.Unix(), to: q.To.Unix(), bounded: true, unique: slices.Contains(q.Measurements, Unique),
	}
	if len(q.By) > 1 || len(q.Values) > 1 {
		return nil, fmt.Errorf("%w: more than one dimension", ErrNeedsWarehouse)
	}
	for name, values := range q.Values {
		p.dim, p.values = name, slices.Compact(slices.Sorted(slices.Values(values)))
	}
	if len(q.By) == 1 {
		if p.by = true; p.dim != "" && p.dim != q.By[0] {
			return nil, fmt.Errorf("%w: more than one dimension", ErrNeedsWarehouse)
		}
		p.dim = q.By[0]
	}
	if q.From.Nanosecond() != 0 || q.To.Nanosecond() != 0 {
		return nil, errFine
	}
	if p.dim == "" {
		p.values = []string{""}
	}
	return p, nil
}

var errFine = fmt.Errorf("%w: bounds within an hour", ErrNeedsWarehouse)

func (q *Query) check() error {
	known := []string{Count, SumValue, Unique}
	switch sort := trimSort(q.Sort); {
	case len(q.Measurements) == 0:
		return &Invalid{"measurements", "is empty"}
	case slices.ContainsFunc(q.Measurements, func(m string) bool { return !slices.Contains(known, m) }):
		return &Invalid{"measurements", "can be count, sum_value and unique"}
	case !slices.Contains([]Interval{Hour, Day, Week, Month}, q.Interval):
		return &Invalid{"interval", "can be hour, day, week or month"}
	case !q.From.Before(q.To):
		return &Invalid{"to", "must be after from"}
	case q.To.Sub(q.From) > maxRange:
		return &Invalid{"to", "must be at most a year after from"}
	case q.From.Unix() < minTime || q.To.Unix() > maxTime:
		return &Invalid{"from", "is too far from now"}
	case slices.Contains(q.By, ""):
		return &Invalid{"by", "has a dimension without a name"}
	case sort != "" && !slices.Contains(q.Measurements, sort) && !slices.Contains(q.By, sort):
		return &Invalid{"sort", "can be what is measured or the dimension"}
	case q.Size < 0:
		return &Invalid{"size", "must not be negative"}
	}
	for name := range q.Values {
		if name == "" {
			return &Invalid{"values", "has a dimension without a name"}
		}
	}
	return nil
}

// check reports whether hours that are counted in a zone can answer.
func (p *plan) check(counted *time.Location) error {
	if !p.bounded {
		if counted.String() != p.zone.String() {
			return fmt.Errorf("%w: it is counted in %v", ErrNeedsWarehouse, counted)
		}
		return nil
	}
	if !congruent(counted, p.zone, p.from, p.to) {
		return fmt.Errorf("%w: the hours of %v are not those of %v", ErrNeedsWarehouse, p.zone, counted)
	}
	if hourOf(counted, p.from).start != p.from || hourOf(counted, p.to).start != p.to {
		return errFine
	}
	return nil
}

// bucket is the interval that an instant is in: its number rises with time.
func (p *plan) bucket(at int64) (id int64, ok bool) {
	if p.bounded && (at < p.from || at >= p.to) {
		return 0, false
	}
	switch p.interval {
	case Hour:
		return hourOf(p.zone, at).start, true
	case Day:
		return dateOf(p.zone, at), true
	case Week:
		return floorDiv(dateOf(p.zone, at)+3, 7), true // 1970 began on a Thursday
	default:
		return int64(monthAt(p.zone, at)), true
	}
}

// start is where an interval begins.
func (p *plan) start(id int64) int64 {
	switch p.interval {
	case Hour:
		return id
	case Day:
		return midnight(p.zone, id)
	case Week:
		return midnight(p.zone, 7*id-3)
	default:
		return midnight(p.zone, firstDate(uint16(id)))
	}
}

// over is an instant at which an interval is over, in any zone.
func (p *plan) over(id int64) int64 {
	switch p.interval {
	case Hour:
		return id + 2*hourSeconds
	case Day:
		return (id+1)*daySeconds + farthest
	case Week:
		return (7*(id+1)-3)*daySeconds + farthest
	default:
		return nominal(uint16(id)+1) + farthest
	}
}

// ids are the intervals of the query, in order.
func (p *plan) ids() []int64 {
	first, _ := p.bucket(p.from)
	last, _ := p.bucket(p.to - 1)
	var out []int64
	if p.interval != Hour {
		for id := first; id <= last; id++ {
			out = append(out, id)
		}
		return out
	}
	for at := p.from; at < p.to; {
		h := hourOf(p.zone, at)
		out = append(out, h.start)
		at = h.end
	}
	return out
}

// piece is a month of the counting zone, and what of it is to be read.
type piece struct {
	month       uint16
	whole       bool  // its numbers as a whole are asked for, not those of its hours
	first, last uint8 // days, unless whole
}

// pieces divides the query by months of the zone in which hours are counted.
func (p *plan) pieces(counted *time.Location) []piece {
	var out []piece
	for month := monthAt(counted, p.from); month <= monthAt(counted, p.to-1); month++ {
		c := piece{month: month, first: 1, last: 31}
		begins, ends := midnight(counted, firstDate(month)), midnight(counted, firstDate(month+1))
		if p.from > begins {
			c.first = uint8(dateOf(counted, p.from)-firstDate(month)) + 1
		}
		if p.to < ends {
			c.last = uint8(dateOf(counted, p.to-1)-firstDate(month)) + 1
		}
		c.whole = p.interval == Month && p.from <= begins && p.to >= ends && counted.String() == p.zone.String()
		out = append(out, c)
	}
	return out
}

// ranked is a row's place in the order: its measurement, then its value.
type ranked struct {
	total Sum
	value string
}

func trimSort(s string) string { return strings.TrimPrefix(s, "-") }

// page sorts rows and takes those behind the cursor.
func page(q *Query, p *plan, all lines) (*Result, error) {
	out := &Result{}
	ids := p.ids()
	for _, id := range ids {
		out.Dates = append(out.Dates, time.Unix(p.start(id), 0).In(p.zone))
	}
	down := strings.HasPrefix(q.Sort, "-")
	compare := func(a, b ranked) int {
		c := cmp.Or(a.total.Compare(b.total), strings.Compare(a.value, b.value))
		if down {
			return -c
		}
		return c
	}
	order := slices.SortedFunc(func(yield func(ranked) bool) {
		for value, line := range all {
			if p.by && isEmpty(line) {
				continue
			}
			if !yield(ranked{total(line, trimSort(q.Sort)), value}) {
				return
			}
		}
	}, compare)
	if q.Cursor != "" {
		after, ok := parseCursor(q.Cursor)
		if !ok {
			return nil, &Invalid{"cursor", "is not one"}
		}
		at, found := slices.BinarySearchFunc(order, after, compare)
		if found {
			at++
		}
		order = order[at:]
	}
	if size := cmp.Or(q.Size, defaultSize); len(order) > size {
		order = order[:size]
		out.Next = order[size-1].cursor()
	}
	for _, r := range order {
		out.Rows = append(out.Rows, q.row(p, r.value, all[r.value], ids))
	}
	return out, nil
}

// isEmpty reports whether all of a value was taken back.
func isEmpty(l map[int64]*cellNumbers) bool {
	for _, n := range l {
		if !n.isZero() {
			return false
		}
	}
	return true
}

// total is what rows are sorted by: a measurement over all dates, or 0.
func total(l map[int64]*cellNumbers, by string) (out Sum) {
	for _, n := range l {
		switch by {
		case Count:
			out = out.Add(SumOf(n.count))
		case SumValue:
			out = out.Add(n.sum)
		case Unique:
			out = out.Add(SumOf(n.unique))
		}
	}
	return out
}

func (q *Query) row(p *plan, value string, l map[int64]*cellNumbers, ids []int64) Row {
	var r Row
	if p.by {
		r.Dimensions = []string{value}
	}
	count, sum, unique := slices.Contains(q.Measurements, Count), slices.Contains(q.Measurements, SumValue), p.unique
	for _, id := range ids {
		n := l[id]
		if n == nil {
			n = &cellNumbers{}
		}
		if count {
			r.Count = append(r.Count, n.count)
		}
		if sum {
			r.Sum = append(r.Sum, n.sum)
		}
		if unique {
			r.Unique = append(r.Unique, n.unique)
		}
	}
	return r
}

// cursor is the place behind a row.
func (r ranked) cursor() string {
	b := binary.BigEndian.AppendUint64(nil, uint64(r.total.Hi))
	b = binary.BigEndian.AppendUint64(b, r.total.Lo)
	return base64.RawURLEncoding.EncodeToString(append(b, r.value...))
}

func parseCursor(s string) (r ranked, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) < 16 {
		return r, false
	}
	return ranked{Sum{int64(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint64(b[8:])}, string(b[16:])}, true
}
