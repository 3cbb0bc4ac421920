package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

func metricFields() []string { return []string{"created", "id", "integration", "name", "updated"} }

func (s *Server) metricEndpoints() []endpoint {
	fields := jsonapi.Spec{Fields: map[string][]string{"metric": metricFields()}}
	page := fields
	page.Size, page.MaxSize = 200, 1000
	page.Filters = jsonapi.Allow{"integration.name": {jsonapi.Equals}, "integration.category": {jsonapi.Equals}, "name": {jsonapi.Equals, jsonapi.Any}}
	return []endpoint{
		look("/api/metrics", "getMetrics", "List metrics, by their names.", page, MetricsResponse{}, s.getMetrics),
		look("/api/metrics/{id}", "getMetric", "Get a metric.", fields, MetricResponse{}, s.getMetric),
		act(http.MethodPost, "/api/metric-aggregates", "queryMetricAggregates", "Count the events of a metric by intervals, and if need be by dimensions.",
			jsonapi.Spec{Fields: map[string][]string{"metric-aggregate": {"data", "dates", "id"}}}, AggregateRequest{},
			success(http.StatusOK, "", AggregateResponse{}), s.postAggregate, 404, 501).reading(),
	}
}

func (s *Server) metricsByID(c *call) (map[fact.MetricID]account.Metric, error) {
	all, err := s.deps.Counts.Metrics(c.ctx, c.tenant)
	if err != nil {
		return nil, err
	}
	out := make(map[fact.MetricID]account.Metric, len(all))
	for _, m := range all {
		out[m.ID] = m
	}
	return out, nil
}

func (c *call) metricResource(m account.Metric) resource {
	id := m.ID.String()
	view := MetricView{Name: m.Name, Created: m.Created, Updated: m.Updated,
		Integration: &IntegrationView{Object: "integration", ID: m.Service, Name: m.Service, Category: category(m.Service)}}
	return resource{Type: "metric", ID: id, Attributes: c.sparse("metric", view), Links: c.self("metrics", id)}
}

// category tells our own metrics from those of others.
func category(service string) string {
	if service == "api" {
		return "API"
	}
	return "Integration"
}

func (s *Server) getMetrics(c *call) (answer, error) {
	all, err := s.deps.Counts.Metrics(c.ctx, c.tenant)
	if err != nil {
		return answer{}, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(m account.Metric) bool {
		return !c.query.Filter.Match(func(leaf *jsonapi.Filter) bool {
			is := map[string]string{"integration.name": m.Service, "integration.category": category(m.Service), "name": m.Name}[leaf.Field]
			return slices.ContainsFunc(leaf.Values, func(v jsonapi.Value) bool { return v.Text == is })
		})
	})
	place := func(m account.Metric) string { return m.Name + "\x00" + m.ID.String() }
	slices.SortFunc(all, func(a, b account.Metric) int { return strings.Compare(place(a), place(b)) })
	if after := c.query.Cursor; after != "" {
		all = slices.DeleteFunc(all, func(m account.Metric) bool { return place(m) <= after })
	}
	next := ""
	if len(all) > c.query.Size {
		all = all[:c.query.Size]
		next = place(all[len(all)-1])
	}
	out := many{Data: make([]resource, len(all)), Links: c.pages(next)}
	for i, m := range all {
		out.Data[i] = c.metricResource(m)
	}
	return answer{status: http.StatusOK, body: out}, nil
}

func (s *Server) getMetric(c *call) (answer, error) {
	m, err := s.metric(c, c.r.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: one{Data: c.metricResource(m)}}, nil
}

func (s *Server) metric(c *call, text string) (account.Metric, error) {
	missing := jsonapi.NotFound("there is no metric with the id %q", text)
	id, err := fact.ParseMetricID(text)
	if err != nil {
		return account.Metric{}, missing
	}
	all, err := s.metricsByID(c)
	if err != nil {
		return account.Metric{}, err
	}
	m, ok := all[id]
	if !ok {
		return account.Metric{}, missing
	}
	return m, nil
}

// aggregate is a question for counts as it is read.
type aggregate struct {
	account.Query
	errs jsonapi.Errors
}

const inAggregate = "/data/attributes"

func (a *aggregate) invalid(rel, format string, args ...any) {
	a.errs = append(a.errs, jsonapi.Invalid(inAggregate+rel, format, args...))
}

func (s *Server) postAggregate(c *call) (answer, error) {
	in, err := decode(s.decoders.aggregate, c.body)
	if err != nil {
		return answer{}, err
	}
	if in.Data.Type != "metric-aggregate" {
		return answer{}, jsonapi.Invalid("/data/type", "must be %q", "metric-aggregate")
	}
	a := readAggregate(in.Data.Attributes, c.tenant, s.deps.Counts.Zone(c.tenant))
	if len(a.errs) > 0 {
		return answer{}, a.errs
	}
	if _, err := s.metric(c, in.Data.Attributes.MetricID); err != nil {
		if errs := jsonapi.Of(err); errs != nil {
			return answer{}, errs[0].At(inAggregate + "/metric_id")
		}
		return answer{}, err
	}
	result, err := s.count(c, a.Query)
	if err != nil {
		return answer{}, err
	}
	view := AggregateView{Dates: result.Dates, Data: make([]AggregateRow, len(result.Rows))}
	for i, r := range result.Rows {
		view.Data[i] = aggregateRow(a.Measurements, r)
	}
	links := &jsonapi.Links{Self: c.url(c.r.URL.RequestURI())}
	if result.Next != "" {
		links.Next = c.url(c.r.URL.EscapedPath() + "?page_cursor=" + jsonapi.EncodeCursor(result.Next))
	}
	id := c.newID("metric-aggregate")
	return answer{status: http.StatusOK, body: one{Links: links,
		Data: resource{Type: "metric-aggregate", ID: id, Attributes: c.sparse("metric-aggregate", view), Links: links}}}, nil
}

// count asks the counts, and the warehouse for what they do not have.
func (s *Server) count(c *call, q account.Query) (*account.Result, error) {
	result, err := s.deps.Counts.Query(c.ctx, q)
	if errors.Is(err, account.ErrNeedsWarehouse) {
		if s.deps.Warehouse == nil {
			return nil, noWarehouse("", inAggregate, strings.TrimPrefix(err.Error(), "account: "))
		}
		result, err = s.deps.Warehouse.Query(c.ctx, q)
	}
	var bad *account.Invalid
	if !errors.As(err, &bad) {
		return result, err
	}
	fields := map[string]string{"from": "/filter", "to": "/filter", "values": "/filter", "size": "/page_size", "cursor": "/page_cursor"}
	at, ok := fields[bad.Field]
	if !ok {
		at = "/" + bad.Field
	}
	return nil, jsonapi.Invalid(inAggregate+at, "%s", bad.Detail)
}

// readAggregate reads a question; errors are in the result. zone is that of times, unless the question has one.
func readAggregate(in AggregateAttributes, tenant string, zone *time.Location) *aggregate {
	a := &aggregate{Query: account.Query{Tenant: tenant, Interval: account.Day, Zone: zone, Values: map[string][]string{}, By: in.By, Measurements: in.Measurements}}
	var err error
	if a.Metric, err = fact.ParseMetricID(in.MetricID); err != nil {
		a.invalid("/metric_id", "must be the id of a metric")
	}
	a.choices(in)
	if in.Timezone != nil {
		if a.Zone, err = time.LoadLocation(*in.Timezone); err != nil || *in.Timezone == "" || *in.Timezone == "Local" {
			a.invalid("/timezone", "%q is not an IANA time zone, such as Europe/Paris", *in.Timezone)
			a.Zone = zone
		}
	}
	a.filters(in.Filter)
	a.order(in)
	return a
}

func (a *aggregate) choices(in AggregateAttributes) {
	if len(in.Measurements) == 0 {
		a.invalid("/measurements", "must have one at least of count, sum_value, unique")
	}
	for i, m := range in.Measurements {
		if !slices.Contains([]string{"count", "sum_value", "unique"}, m) || slices.Contains(in.Measurements[:i], m) {
			a.invalid(fmt.Sprintf("/measurements/%d", i), "must be one of count, sum_value, unique, each once")
		}
	}
	for i, d := range in.By {
		if d == "" || slices.Contains(in.By[:i], d) {
			a.invalid(fmt.Sprintf("/by/%d", i), "must be the name of a dimension, each once")
		}
	}
	if len(in.By) > 8 {
		a.invalid("/by", "must have 8 dimensions at most")
	}
	if in.Interval != nil {
		if a.Interval = account.Interval(*in.Interval); !slices.Contains([]account.Interval{account.Hour, account.Day, account.Week, account.Month}, a.Interval) {
			a.invalid("/interval", "must be one of hour, day, week, month")
		}
	}
}

// filters reads the bounds of datetime and the values of dimensions. Times without an offset are of the time zone.
func (a *aggregate) filters(all []string) {
	for i, text := range all {
		at := fmt.Sprintf("/filter/%d", i)
		f, err := jsonapi.ParseFilter(text)
		if err != nil {
			a.invalid(at, "%v", err)
			continue
		}
		for _, leaf := range conjuncts(f) {
			a.filter(at, leaf)
		}
		if f.Op == jsonapi.Or || f.Op == jsonapi.Not {
			a.invalid(at, "%s is not understood here; use any(…) for one of several values", f.Op)
		}
	}
	if len(a.errs) > 0 {
		return
	}
	switch {
	case a.From.IsZero():
		a.invalid("/filter", "must have greater-or-equal(datetime,…)")
	case a.To.IsZero():
		a.invalid("/filter", "must have less-than(datetime,…)")
	case !a.From.Before(a.To):
		a.invalid("/filter", "must have a begin before its end")
	}
}

func (a *aggregate) filter(at string, f *jsonapi.Filter) {
	switch {
	case f.Field == "datetime" && (f.Op == jsonapi.GreaterOrEqual || f.Op == jsonapi.LessThan):
		t, err := a.time(f.Values[0])
		switch {
		case err != nil:
			a.invalid(at, "%v", err)
		case f.Op == jsonapi.LessThan:
			a.To = t
		default:
			a.From = t
		}
	case f.Field == "datetime":
		a.invalid(at, "datetime takes greater-or-equal and less-than")
	case f.Op == jsonapi.Equals || f.Op == jsonapi.Any:
		if _, twice := a.Values[f.Field]; twice {
			a.invalid(at, "%q is restricted twice", f.Field)
		}
		for _, v := range f.Values {
			a.Values[f.Field] = append(a.Values[f.Field], v.Text)
		}
	case f.Op == jsonapi.Or || f.Op == jsonapi.Not:
		a.invalid(at, "%s is not understood here; use any(…) for one of several values", f.Op)
	default:
		a.invalid(at, "dimensions take equals and any")
	}
}

// time reads a time; one without an offset is of the time zone.
func (a *aggregate) time(v jsonapi.Value) (time.Time, error) {
	for _, layout := range []string{"2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v.Text, a.Zone); err == nil {
			return t, nil
		}
	}
	return v.Time()
}

func (a *aggregate) order(in AggregateAttributes) {
	if in.Sort != nil {
		a.Sort = *in.Sort
		if by := strings.TrimPrefix(a.Sort, "-"); !slices.Contains(in.Measurements, by) && !slices.Contains(in.By, by) {
			a.invalid("/sort", "must be one of the measurements or dimensions that are asked for")
		}
	}
	if in.PageSize != nil {
		if a.Size = *in.PageSize; a.Size < 1 || a.Size > 1000 {
			a.invalid("/page_size", "must be a number from 1 to 1000")
		}
	}
	if in.PageCursor != nil && *in.PageCursor != "" {
		var err error
		if a.Cursor, err = cursorOf(*in.PageCursor); err != nil {
			a.invalid("/page_cursor", "%v", err)
		}
	}
}

// cursorOf reads a cursor, or the link that has it.
func cursorOf(s string) (string, error) {
	if _, after, ok := strings.Cut(s, "page_cursor="); ok {
		s = after
	}
	return jsonapi.DecodeCursor(s)
}

func aggregateRow(measurements []string, r account.Row) AggregateRow {
	out := AggregateRow{Dimensions: r.Dimensions, Measurements: map[string][]Decimal{}}
	if out.Dimensions == nil {
		out.Dimensions = []string{}
	}
	for _, m := range measurements {
		numbers := []Decimal{}
		switch m {
		case account.Count:
			numbers = whole(r.Count)
		case account.Unique:
			numbers = whole(r.Unique)
		case account.SumValue:
			for _, v := range r.Sum {
				numbers = append(numbers, Decimal(v.String()))
			}
		}
		out.Measurements[m] = numbers
	}
	return out
}

func whole(all []int64) []Decimal {
	out := make([]Decimal, len(all))
	for i, n := range all {
		out[i] = Decimal(strconv.FormatInt(n, 10))
	}
	return out
}

// Bounds of windows.
const (
	maxWindows = 16
	maxWindow  = 10 * 366 * 24 * time.Hour
)

func (s *Server) getSummary(c *call) (answer, error) {
	p, err := s.addressed(c)
	if err != nil {
		return answer{}, err
	}
	values := c.r.URL.Query()
	metric, err := fact.ParseMetricID(values.Get("metric_id"))
	if err != nil {
		return answer{}, jsonapi.BadParameter("metric_id", "must be the id of a metric")
	}
	names := strings.Split(values.Get("windows"), ",")
	if len(names) > maxWindows {
		return answer{}, jsonapi.BadParameter("windows", "must have %d windows at most", maxWindows)
	}
	lengths := make([]time.Duration, len(names))
	for i, name := range names {
		if lengths[i], err = window(name); err != nil {
			return answer{}, jsonapi.BadParameter("windows", "%v", err)
		}
	}
	got, err := s.deps.Profiles.Summary(c.tenant, p.ID, metric, lengths, c.at)
	if err != nil && !errors.Is(err, customer.ErrNotFound) {
		return answer{}, err
	}
	view := SummaryView{MetricID: metric.String(), At: c.at, Windows: make([]WindowView, len(names))}
	for i, w := range got {
		view.Windows[i] = WindowView{Window: names[i], Count: int64(w.Count), Sum: Decimal(account.Sum{Hi: w.Sum >> 63, Lo: uint64(w.Sum)}.String()), First: w.First, Last: w.Last}
	}
	id := p.ID.String()
	return answer{status: http.StatusOK, body: one{Data: resource{Type: "metric-summary", ID: id, Attributes: view, Links: c.self("profiles", id, "metric-summary")}}}, nil
}

// window reads a length of time: a number with s, m, h, d or w.
func window(s string) (time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	if n := len(s); n > 1 {
		count, err := strconv.Atoi(s[:n-1])
		if unit := units[s[n-1]]; err == nil && count > 0 && unit > 0 && count <= int(maxWindow/unit) {
			return time.Duration(count) * unit, nil
		}
	}
	return 0, fmt.Errorf("%q is not a length of time such as 7d", s)
}
