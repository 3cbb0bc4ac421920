package account

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// checkQuery asks a random question and holds the answer against the truth.
func (w *world) checkQuery() {
	w.t.Helper()
	tr, r := w.truth(), w.reader()
	tenant := tenants()[w.r.IntN(len(tenants()))]
	q := Query{Tenant: tenant, Metric: fact.DeriveMetric(tenant, "api", fmt.Sprint("Metric ", w.r.IntN(4))), Measurements: []string{Count, SumValue, Unique}}
	q.Interval = []Interval{Hour, Day, Week, Month}[w.r.IntN(4)]
	zone := r.Zone(tenant)
	if w.r.IntN(2) == 0 {
		other, err := time.LoadLocation([]string{"UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Europe/Berlin"}[w.r.IntN(5)])
		if err != nil {
			w.t.Fatal(err)
		}
		q.Zone = other
	}
	q.From, q.To = w.moment(), w.moment()
	if q.From.After(q.To) {
		q.From, q.To = q.To, q.From
	}
	q.From, q.To = firstOf(Hour, q.From.In(zone)), firstOf(Hour, q.To.In(zone))
	if w.r.IntN(2) == 0 {
		q.From, q.To = firstOf(Month, q.From), firstOf(Month, q.To)
	}
	if !q.From.Before(q.To) {
		q.To = q.From.Add(24 * time.Hour)
		q.To = firstOf(Hour, q.To)
	}
	dim := ""
	if w.r.IntN(2) == 0 {
		dim = []string{"Color", "Size", "Big", "None"}[w.r.IntN(4)]
		q.By = []string{dim}
	}
	if dim != "" && w.r.IntN(2) == 0 || w.r.IntN(3) == 0 {
		if dim == "" {
			dim = "Color"
		}
		q.Values = map[string][]string{dim: {dim + "1", dim + "2", "none", dim + "1"}}
	}
	got, err := r.Query(context.Background(), q)
	if errors.Is(err, ErrNeedsWarehouse) && q.Zone != nil {
		return
	}
	if err != nil {
		w.t.Fatalf("%+v: %v", q, err)
	}
	if q.Zone != nil {
		zone = q.Zone
	}
	w.compare(q, got, tr.count(tenant, q.Metric, dim, q.Interval, zone, func(h *happening, value string) bool {
		return !h.e.Time.Before(q.From) && h.e.Time.Before(q.To) && (q.Values == nil || slices.Contains(q.Values[dim], value))
	}))
}

func (w *world) compare(q Query, got *Result, want map[place]*number) {
	w.t.Helper()
	if len(q.By) == 0 { // one row: profiles of several values are the same
		one := map[place]*number{}
		for k, n := range want {
			k.value = ""
			o := one[k]
			if o == nil {
				o = &number{sum: new(big.Int), unique: map[fact.ProfileID]bool{}}
				one[k] = o
			}
			o.count += n.count
			o.sum.Add(o.sum, n.sum)
			for p := range n.unique {
				o.unique[p] = true
			}
		}
		want = one
	}
	for i := 1; i < len(got.Dates); i++ {
		if !got.Dates[i-1].Before(got.Dates[i]) {
			w.t.Fatalf("%+v: dates %v", q, got.Dates)
		}
	}
	for _, row := range got.Rows {
		value := ""
		if len(q.By) > 0 {
			value = row.Dimensions[0]
		}
		for i, date := range got.Dates {
			k := place{value, label(q.Interval, date)}
			n := want[k]
			if n == nil {
				n = &number{sum: new(big.Int)}
			}
			if n.count != row.Count[i] || n.sum.Cmp(row.Sum[i].Big()) != 0 || int64(len(n.unique)) != row.Unique[i] {
				w.t.Fatalf("%+v\n%q %v: %d %v %d, want %d %v %d", q, value, date, row.Count[i], row.Sum[i], row.Unique[i], n.count, n.sum, len(n.unique))
			}
			delete(want, k)
		}
	}
	for k, n := range want {
		w.t.Fatalf("%+v\n%+v is missing: %d", q, k, n.count)
	}
}
