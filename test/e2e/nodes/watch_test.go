//go:build e2e

package nodes

import (
	"fmt"
	"time"
)

// views are events of people whose profiles are merged already. Their count must never be another one.
const views = 60

// look sends them.
func look(n *node) error {
	for i := range views {
		body := fmt.Sprintf(`{"data":{"type":"event","attributes":{"properties":{},"time":"2026-11-20T11:00:00Z","unique_id":"v%d",
	 "metric":{"data":{"type":"metric","attributes":{"name":%q}}},"profile":{"data":{"type":"profile","attributes":{"email":"p%03d@shop.test"}}}}}}`, i, viewed, i%30)
		if _, err := n.call("POST", "/api/events", body, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// viewsOf returns an error unless a node counts all views.
func viewsOf(n *node) error {
	metric, err := n.metric(viewed)
	if err != nil {
		return err
	}
	count, _, _, err := n.total(metric)
	if err == nil && count != views {
		err = fmt.Errorf("%s counts %v views of %d", n.Name, count, views)
	}
	return err
}

// watch asks a node for the views again and again until it is told to stop: it may have no answer, but no wrong one.
func watch(n *node) (stop func() error) {
	end, result := make(chan struct{}), make(chan error, 1)
	metric, err := n.metric(viewed)
	go func() {
		answers := 0
		for err == nil {
			select {
			case <-end:
				if answers == 0 {
					err = fmt.Errorf("%s answered nothing", n.Name)
				}
				result <- err
				return
			default:
			}
			count, _, _, missing := n.total(metric)
			switch {
			case missing != nil: // nobody has it now
				time.Sleep(5 * time.Millisecond)
			case count != views:
				err = fmt.Errorf("%s counts %v views of %d", n.Name, count, views)
			default:
				answers++
			}
		}
		result <- err
	}()
	return func() error {
		close(end)
		return <-result
	}
}
