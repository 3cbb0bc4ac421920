//go:build e2e

package nodes

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// sent is what was acknowledged.
type sent struct {
	mu     sync.Mutex
	events int
	sum    float64
	of     map[string]int // events by address
}

// person is whose an event is, by address, and how the event says so. Of a hundred events each person has three or four: one by
// the address, one by an id of a browser, and one that tells that both are the same; so two profiles are merged.
func person(i int) (mail, who string) {
	const people = 30
	n := i/100*people + i%people
	mail = fmt.Sprintf("p%03d@shop.test", n)
	switch i % 100 / people {
	case 1:
		who = fmt.Sprintf(`"anonymous_id":"b%03d"`, n)
	case 2:
		who = fmt.Sprintf(`"email":%q,"anonymous_id":"b%03d"`, mail, n)
	default:
		who = fmt.Sprintf(`"email":%q`, mail)
	}
	return mail, who
}

// put sends an event of a person with a unique id, to one node after the other until one says that it has it.
func (s *sent) put(nodes []*node, first, i int) error {
	mail, who := person(i)
	body := fmt.Sprintf(`{"data":{"type":"event","attributes":{"properties":{"URL":"u%d"},"time":"2026-11-20T10:%02d:00Z","value":%d,"unique_id":"e%d",
	 "metric":{"data":{"type":"metric","attributes":{"name":"Placed Order"}}},"profile":{"data":{"type":"profile","attributes":{%s}}}}}}`, i%3, i%60, i%10, i, who)
	var err error
	for try := range 50 {
		n := nodes[(first+try)%len(nodes)]
		if _, err = n.call("POST", "/api/events", body, nil, nil); err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events, s.sum = s.events+1, s.sum+float64(i%10)
			s.of[mail]++
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// many sends events, to all nodes in turn.
func (s *sent) many(nodes []*node, from, to int) error {
	var all sync.WaitGroup
	errs := make([]error, 4)
	for k := range errs {
		all.Go(func() {
			for i := from + k; i < to && errs[k] == nil; i += len(errs) {
				errs[k] = s.put(nodes, i, i)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// document is what the API answers with.
type document struct {
	Data []struct {
		ID         string         `json:"id"`
		Attributes map[string]any `json:"attributes"`
	} `json:"data"`
	Links struct {
		Next string `json:"next"`
	} `json:"links"`
}

// answer has one resource.
type answer struct {
	Data struct {
		ID         string         `json:"id"`
		Attributes map[string]any `json:"attributes"`
	} `json:"data"`
}

// everything is what a node answers about all there is.
type everything struct {
	Counts   map[string]any // of metric-aggregates, by URL
	Profiles map[string]string
	Sums     map[string]any // of metric-summary, by address
}

// The metrics: of most events, and of some whose count does not change any more.
const (
	ordered = "Placed Order"
	viewed  = "Viewed"
)

// metric is the id of a metric.
func (n *node) metric(name string) (string, error) {
	var d document
	if _, err := n.call("GET", "/api/metrics", "", nil, &d); err != nil {
		return "", err
	}
	for _, m := range d.Data {
		if m.Attributes["name"] == name {
			return m.ID, nil
		}
	}
	return "", fmt.Errorf("%s knows %d metrics, and not %s", n.Name, len(d.Data), name)
}

// total asks for the counts of the day.
func (n *node) total(metric string) (count, sum, unique float64, err error) {
	var a struct {
		Data struct {
			Attributes struct {
				Data []struct {
					Measurements map[string][]float64 `json:"measurements"`
				} `json:"data"`
			} `json:"attributes"`
		} `json:"data"`
	}
	if _, err = n.call("POST", "/api/metric-aggregates", aggregates(metric, ""), nil, &a); err != nil {
		return 0, 0, 0, err
	}
	if len(a.Data.Attributes.Data) != 1 {
		return 0, 0, 0, fmt.Errorf("%s: %d rows", n.Name, len(a.Data.Attributes.Data))
	}
	m := a.Data.Attributes.Data[0].Measurements
	return m["count"][0], m["sum_value"][0], m["unique"][0], nil
}

func aggregates(metric, by string) string {
	return fmt.Sprintf(`{"data":{"type":"metric-aggregate","attributes":{"metric_id":%q,"measurements":["count","sum_value","unique"],"interval":"day","timezone":"UTC",%s
	 "filter":["greater-or-equal(datetime,2026-11-20)","less-than(datetime,2026-11-21)"]}}}`, metric, by)
}

// profiles lists all, page by page.
func (n *node) profiles() (map[string]string, error) {
	out := map[string]string{}
	for at := "/api/profiles?page[size]=50&sort=email"; at != ""; {
		var d document
		if _, err := n.call("GET", at, "", nil, &d); err != nil {
			return nil, err
		}
		for _, p := range d.Data {
			mail, _ := p.Attributes["email"].(string)
			if out[mail] != "" {
				return nil, fmt.Errorf("%s: %s is there twice", n.Name, mail)
			}
			out[mail] = p.ID
		}
		at = ""
		if d.Links.Next != "" {
			u, err := url.Parse(d.Links.Next)
			if err != nil {
				return nil, err
			}
			at = u.RequestURI()
		}
	}
	return out, nil
}

// all asks for everything.
func (n *node) all() (out everything, err error) {
	metric, err := n.metric(ordered)
	if err != nil {
		return out, err
	}
	if out.Profiles, err = n.profiles(); err != nil {
		return out, err
	}
	var d answer
	if _, err = n.call("POST", "/api/metric-aggregates", aggregates(metric, `"by":["URL"],`), nil, &d); err != nil {
		return out, err
	}
	out.Counts = d.Data.Attributes
	out.Sums = map[string]any{}
	for mail, id := range out.Profiles {
		var s answer
		if _, err := n.call("GET", "/api/profiles/"+id+"/metric-summary?metric_id="+metric+"&windows=365d", "", nil, &s); err != nil {
			return out, err
		}
		out.Sums[mail] = s.Data.Attributes["windows"]
	}
	return out, nil
}

// agrees compares what a node says with what was acknowledged.
func (s *sent) agrees(n *node) error {
	metric, err := n.metric(ordered)
	if err != nil {
		return err
	}
	count, sum, unique, err := n.total(metric)
	if err != nil {
		return err
	}
	if count != float64(s.events) || sum != s.sum || unique != float64(len(s.of)) {
		return fmt.Errorf("%s counts %v events, %v, of %v; acknowledged were %d, %v, of %d", n.Name, count, sum, unique, s.events, s.sum, len(s.of))
	}
	got, err := n.all()
	if err != nil {
		return err
	}
	for mail, want := range s.of {
		if have := countIn(got.Sums[mail]); have != want {
			return fmt.Errorf("%s: %s has %d events, not %d: %v", n.Name, mail, have, want, got.Sums[mail])
		}
	}
	return nil
}

// countIn finds the first count in an answer.
func countIn(v any) int {
	switch v := v.(type) {
	case map[string]any:
		if c, ok := v["count"].(float64); ok {
			return int(c)
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if c := countIn(v[k]); c >= 0 {
				return c
			}
		}
	case []any:
		for _, x := range v {
			if c := countIn(x); c >= 0 {
				return c
			}
		}
	}
	return -1
}

// same compares what all nodes say.
func same(nodes []*node) error {
	var first everything
	for i, n := range nodes {
		got, err := n.all()
		if err != nil {
			return err
		}
		if i == 0 {
			first = got
		} else if !reflect.DeepEqual(got, first) {
			return fmt.Errorf("%s says %v, %s says %v", nodes[0].Name, first, n.Name, got)
		}
	}
	return nil
}

// TestNodes: each node answers for all of them, also after one was killed and came back; nothing is lost
// and nothing counted twice.
func TestNodes(t *testing.T) {
	w := newWorld(t)
	s := &sent{of: map[string]int{}}
	one, two := w.nodes[0], w.nodes[1]
	w.eventually("both have partitions", func() error { return w.shared() })
	w.must(s.many(w.nodes, 0, 200))
	for _, n := range w.nodes {
		w.eventually(n.Name+" counts all", func() error { return s.agrees(n) })
	}
	w.must(same(w.nodes))

	for _, n := range w.nodes {
		w.eventually(n.Name+" knows of all events in the one warehouse", func() error { return s.stored(n) })
	}

	w.must(writesAreRead(one, two))
	w.must(writesAreRead(two, one))
	w.must(s.retried(one, two))
	w.eventually("a retry at another node counts once", func() error { return s.agrees(one) })

	w.must(look(two))
	for _, n := range w.nodes {
		w.eventually(n.Name+" counts the views", func() error { return viewsOf(n) })
	}
	ended := make(chan error, 1)
	go func() { ended <- s.many(w.nodes, 200, 700) }()
	w.eventually("events come", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.events < 300 {
			return errors.New("not yet")
		}
		return nil
	})
	watched := watch(two)
	one.Kill()
	if status, err := two.call("GET", "/api/events", "", nil, nil); status != http.StatusNotImplemented {
		t.Errorf("without a warehouse: %v", err)
	}
	w.must(<-ended)
	w.eventually("the other node takes over", func() error { return s.agrees(two) })
	w.must(watched())
	w.must(one.Restart())
	w.must(s.many(w.nodes, 700, 800))
	w.eventually("both share again", func() error { return w.shared() })
	for _, n := range w.nodes {
		w.eventually(n.Name+" counts all", func() error { return s.agrees(n) })
	}
	w.must(same(w.nodes))
	w.eventually("the warehouse has what came while it was away", func() error { return s.stored(two) })
	w.must(s.fenced(one, two))
	w.eventually("all is well again", func() error { return s.agrees(one) })
}

// fenced: a node that stood still for so long that another has its partitions does not answer from what it had.
func (s *sent) fenced(still, other *node) error {
	if err := still.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	err := s.many([]*node{other}, 800, 900)
	if err == nil {
		err = rig.Eventually(func() error { return s.agrees(other) })
	}
	if err = errors.Join(err, still.Signal(syscall.SIGCONT)); err != nil {
		return err
	}
	metric := ""
	return rig.Eventually(func() (err error) {
		if metric == "" {
			if metric, err = still.metric(ordered); err != nil {
				return err
			}
		}
		count, _, _, err := still.total(metric)
		if err != nil {
			return err // it has nothing to say yet
		}
		if count != float64(s.events) {
			return rig.Final(fmt.Errorf("%s says %v of %d events after it stood still", still.Name, count, s.events))
		}
		return nil
	})
}

// writesAreRead: a profile that one node has taken is read at the other at once, and a list's members too.
func writesAreRead(at, other *node) error {
	var list answer
	if _, err := at.call("POST", "/api/lists", fmt.Sprintf(`{"data":{"type":"list","attributes":{"name":%q}}}`, "of "+at.Name), nil, &list); err != nil {
		return err
	}
	for i := range 8 {
		var made, read answer
		name := fmt.Sprintf("%s %d", at.Name, i)
		body := fmt.Sprintf(`{"data":{"type":"profile","attributes":{"email":"p%03d@shop.test","first_name":%q}}}`, i, name)
		if _, err := at.call("POST", "/api/profile-import", body, nil, &made); err != nil {
			return err
		}
		if _, err := other.call("GET", "/api/profiles/"+made.Data.ID, "", nil, &read); err != nil {
			return err
		}
		if got := read.Data.Attributes["first_name"]; got != name {
			return fmt.Errorf("%s was written at %s, %s reads %v", name, at.Name, other.Name, got)
		}
		if _, err := at.call("POST", "/api/lists/"+list.Data.ID+"/relationships/profiles", fmt.Sprintf(`{"data":[{"type":"profile","id":%q}]}`, made.Data.ID), nil, nil); err != nil {
			return err
		}
		var members document
		if _, err := other.call("GET", "/api/lists/"+list.Data.ID+"/profiles", "", nil, &members); err != nil {
			return err
		}
		if len(members.Data) != i+1 {
			return fmt.Errorf("%d are on the list of %s, %s reads %d", i+1, at.Name, other.Name, len(members.Data))
		}
	}
	return nil
}

// retried sends an event without a unique id to both nodes, as one request that is repeated.
func (s *sent) retried(nodes ...*node) error {
	const body = `{"data":{"type":"event","attributes":{"properties":{"URL":"u0"},"time":"2026-11-20T12:00:00Z","value":7,
	 "metric":{"data":{"type":"metric","attributes":{"name":"Placed Order"}}},"profile":{"data":{"type":"profile","attributes":{"email":"p000@shop.test"}}}}}}`
	for _, n := range nodes {
		if _, err := n.call("POST", "/api/events", body, map[string]string{"Idempotency-Key": "once"}, nil); err != nil {
			return err
		}
	}
	s.events, s.sum = s.events+1, s.sum+7
	s.of["p000@shop.test"]++
	return nil
}

// shared reports whether every node has partitions of every stage, and all nodes tell the same of who has what.
func (w *world) shared() error {
	var first map[string]int
	for _, n := range w.nodes {
		st, err := n.admin.Pipeline(w.t.Context())
		if err != nil {
			return err
		}
		have := map[string]int{}
		for _, c := range st.Consumers {
			for _, x := range c.Partitions {
				if c.Name != "warehouse" {
					have[c.Name+" of "+x.Node]++
				}
			}
		}
		if first == nil {
			first = have
		}
		if len(have) != 6 || !maps.Equal(first, have) || have["account of "] > 0 {
			return fmt.Errorf("%s tells of %v", n.Name, have)
		}
	}
	return nil
}

// stored compares what the warehouse says with what was acknowledged: by SQL, as a list, and by two dimensions.
func (s *sent) stored(n *node) error {
	a, err := n.admin.SQL(n.w.t.Context(), adminapi.SQLRequest{Query: "select count(*), count(distinct uid) from events join metrics using (metric) where name = '" + ordered + "'", Limit: 10})
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("[[%d %d]]", s.events, s.events); fmt.Sprint(a.Rows) != want {
		return fmt.Errorf("%s: SQL says %v, not %s", n.Name, a.Rows, want)
	}
	metric, err := n.metric(ordered)
	if err != nil {
		return err
	}
	var d document
	if _, err := n.call("GET", "/api/events?page[size]=1000&filter="+url.QueryEscape(`equals(metric_id,"`+metric+`")`), "", nil, &d); err != nil {
		return err
	}
	if len(d.Data) != s.events {
		return fmt.Errorf("%s lists %d events, not %d", n.Name, len(d.Data), s.events)
	}
	var by answer
	if _, err := n.call("POST", "/api/metric-aggregates", aggregates(metric, `"by":["URL","Campaign Name"],`), nil, &by); err != nil {
		return err
	}
	if rows, _ := by.Data.Attributes["data"].([]any); len(rows) != 3 {
		return fmt.Errorf("%s: by two dimensions: %v", n.Name, by.Data.Attributes)
	}
	return nil
}
