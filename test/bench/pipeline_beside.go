package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/crowd"
)

// visible measures how long after its acknowledgement an event is counted.
func (b *bench) visible(ctx context.Context) error {
	return b.beside(ctx, "visible", func(ctx context.Context, p *pipe) error {
		metric, took := "", []time.Duration(nil)
		for i, begun := 0, time.Now(); time.Since(begun) < b.o.load; i++ {
			at, d, err := p.probe(ctx, i, &metric)
			if err != nil {
				return err
			}
			took = append(took, d)
			if err := pause(ctx, time.Until(at.Add(time.Duration(20+rand.IntN(60))*time.Millisecond))); err != nil {
				return err
			}
		}
		slices.Sort(took)
		b.say("    %d probes: p50 %.1f ms, p99 %.1f, max %.1f", len(took), ms(took[len(took)/2]), ms(took[len(took)*99/100]), ms(took[len(took)-1]))
		b.set("aggregate.visible.p50", ms(took[len(took)/2]))
		b.set("aggregate.visible.p99", ms(took[len(took)*99/100]))
		return nil
	})
}

// probe sends event i of a metric of its own and asks until i+1 are counted.
func (p *pipe) probe(ctx context.Context, i int, metric *string) (acked time.Time, took time.Duration, err error) {
	doc := fmt.Sprintf(`{"data":{"type":"event","attributes":{"properties":{},"unique_id":"probe-%d","metric":{"data":{"type":"metric","attributes":{"name":"Probe"}}},"profile":{"data":{"type":"profile","attributes":{"email":"probe%d@crowd.test"}}}}}}`, i, i)
	if err := p.api(ctx, http.MethodPost, "/api/events", doc, nil); err != nil {
		return acked, 0, err
	}
	acked = time.Now()
	for *metric == "" { // the first one makes the metric
		var list struct {
			Data []struct {
				ID         string `json:"id"`
				Attributes struct {
					Name string `json:"name"`
				} `json:"attributes"`
			} `json:"data"`
			Links struct {
				Next string `json:"next"`
			} `json:"links"`
		}
		for path := "/api/metrics?page[size]=1000"; path != ""; {
			list.Links.Next = ""
			if err := p.api(ctx, http.MethodGet, path, "", &list); err != nil {
				return acked, 0, err
			}
			for _, m := range list.Data {
				if m.Attributes.Name == "Probe" {
					*metric = m.ID
				}
			}
			_, path, _ = strings.Cut(list.Links.Next, p.pipeline)
		}
		if time.Since(acked) > 10*time.Second {
			return acked, 0, errors.New("the metric of the probe does not show")
		}
	}
	ask := fmt.Sprintf(`{"data":{"type":"metric-aggregate","attributes":{"metric_id":%q,"measurements":["count"],"interval":"day","filter":["greater-or-equal(datetime,%s)","less-than(datetime,%s)"],"timezone":"UTC"}}}`,
		*metric, time.Now().UTC().Add(-24*time.Hour).Format("2006-01-02T00:00:00"), time.Now().UTC().Add(24*time.Hour).Format("2006-01-02T00:00:00"))
	for {
		var answer struct {
			Data struct {
				Attributes struct {
					Data []struct {
						Measurements map[string][]float64 `json:"measurements"`
					} `json:"data"`
				} `json:"attributes"`
			} `json:"data"`
		}
		if err := p.api(ctx, http.MethodPost, "/api/metric-aggregates", ask, &answer); err != nil {
			return acked, 0, err
		}
		var sum float64
		for _, d := range answer.Data.Attributes.Data {
			for _, c := range d.Measurements["count"] {
				sum += c
			}
		}
		switch took := time.Since(acked); {
		case sum == float64(i+1):
			return acked, took, nil
		case sum > float64(i+1):
			return acked, 0, fmt.Errorf("%v counted after %d probes", sum, i+1)
		case took > 10*time.Second:
			return acked, 0, fmt.Errorf("probe %d is not counted after %v: %v", i, took, sum)
		}
	}
}

// query measures metric-summary.
func (b *bench) query(ctx context.Context) error {
	return b.beside(ctx, "query", func(ctx context.Context, p *pipe) error {
		ids, metric, err := p.someProfiles(ctx, 500)
		if err != nil {
			return err
		}
		var took []time.Duration
		var sixths []string
		for range 6 { // what comes now and then, as a flush or a sort, shows, and so does what the host takes
			before, err := readHost()
			if err != nil {
				return err
			}
			some, err := p.summaries(ctx, ids, metric, b.o.load/6)
			if err != nil {
				return err
			}
			after, err := readHost()
			if err != nil {
				return err
			}
			_, steal := disturbance(before, after, 0)
			slices.Sort(some)
			sixths = append(sixths, fmt.Sprintf("%.1f (%.0f%%)", ms(some[len(some)*99/100]), steal))
			took = append(took, some...)
		}
		b.say("    p99 by sixths of the time in ms, and the CPU that other machines had: %s", strings.Join(sixths, ", "))
		slices.Sort(took)
		b.say("    %d questions: p50 %.2f ms, p99 %.2f, max %.2f", len(took), ms(took[len(took)/2]), ms(took[len(took)*99/100]), ms(took[len(took)-1]))
		b.set("profile.query.p99", ms(took[len(took)*99/100]))
		return nil
	})
}

// summaries asks for metric-summary of random profiles for a time.
func (p *pipe) summaries(ctx context.Context, ids []string, metric string, span time.Duration) (took []time.Duration, err error) {
	for begun := time.Now(); time.Since(begun) < span; {
		at := time.Now()
		path := fmt.Sprintf("/api/profiles/%s/metric-summary?metric_id=%s&windows=1d,7d,30d", ids[rand.IntN(len(ids))], metric)
		if err := p.api(ctx, http.MethodGet, path, "", nil); err != nil {
			return nil, err
		}
		took = append(took, time.Since(at))
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return took, nil
}

// beside measures while events come in at a moderate rate.
func (b *bench) beside(ctx context.Context, name string, f func(context.Context, *pipe) error) error {
	p, err := b.newPipe(ctx, name)
	if err != nil {
		return err
	}
	if !b.o.young {
		if err := p.populate(ctx); err != nil {
			return p.end(err)
		}
	}
	loading, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := p.crowd(loading, crowd.LoadOptions{Connections: 8, Batch: 50, Rate: backgroundRate, Duration: 10 * time.Minute})
		if loading.Err() != nil {
			err = nil
		}
		done <- err
	}()
	err = pause(ctx, 5*time.Second)
	if err == nil {
		err = f(ctx, p)
	}
	if err == nil {
		if st, e := p.status(ctx); e == nil {
			b.say("    lag beside it: %s", st)
		}
	}
	cancel()
	return p.end(errors.Join(err, <-done))
}
