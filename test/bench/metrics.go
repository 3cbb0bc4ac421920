package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// metrics are the engine's counters by name, summed up over labels, and by
// name{labels} as they are printed.
type metrics map[string]float64

// metrics reads the engine's.
func (e *engine) metrics(ctx context.Context) (metrics, error) { return readMetrics(ctx, e.ops) }

// readMetrics reads /metrics; ops is a base URL.
func readMetrics(ctx context.Context, ops string) (metrics, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, ops+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("/metrics: %s", resp.Status)
	}
	m := metrics{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		m.add(lines.Text())
	}
	return m, lines.Err()
}

func (m metrics) add(line string) {
	space := strings.LastIndexByte(line, ' ')
	if space < 0 || strings.HasPrefix(line, "#") {
		return
	}
	value, err := strconv.ParseFloat(line[space+1:], 64)
	if err != nil {
		return
	}
	full := line[:space]
	name, _, labelled := strings.Cut(full, "{")
	m[name] += value
	if labelled {
		m[full] = value
	}
}

// minus is what came to m since an earlier reading.
func (m metrics) minus(before metrics) metrics {
	d := metrics{}
	for k, v := range m {
		d[k] = v - before[k]
	}
	return d
}

// syncs are the fdatasync calls of the logs.
func (m metrics) syncs() float64 { return m["godwit_seglog_syncs_total"] }

// delivered are the messages that a provider took.
func (m metrics) delivered() float64 { return m[`godwit_queue_outcomes_total{outcome="delivered"}`] }

// injected are the messages that were accepted.
func (m metrics) injected() float64 { return m["godwit_queue_injected_total"] }
