package load

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
)

// witness asks the provider simulator what arrived there.
type witness struct {
	url    string
	client *http.Client
	idle   time.Duration
	before sinkStats
	since  ledger.Nanos
}

// sinkStats is what is used of the simulator's /stats.
type sinkStats struct {
	Total struct {
		Accepted   int64      `json:"accepted"`
		Deferred   int64      `json:"deferred"`
		Bounced    int64      `json:"bounced"`
		Dropped    int64      `json:"dropped"`
		LastAccept *time.Time `json:"last_accept"`
	} `json:"total"`
	CPU float64 `json:"cpu_seconds"`
}

const (
	pollEvery   = 20 * time.Millisecond
	settleAfter = 100 * time.Millisecond // without a change once all that is due has arrived
)

// newWitness connects to the simulator and notes where its counters stand.
func newWitness(ctx context.Context, o Options) (*witness, error) {
	w := &witness{url: strings.TrimSuffix(o.Sink, "/"), idle: o.Wait.D(), since: ledger.Now(),
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}}}
	if o.ResetSink {
		if _, err := w.do(ctx, http.MethodPost, "/reset", nil); err != nil {
			w.close()
			return nil, err
		}
	}
	before, err := w.stats(ctx)
	if err != nil {
		w.close()
		return nil, err
	}
	w.before = before
	return w, nil
}

func (w *witness) close() { w.client.CloseIdleConnections() }

// do makes a request and lets read, if any, have the body. found is false for 404.
func (w *witness) do(ctx context.Context, method, path string, read func(io.Reader) error) (found bool, err error) {
	r, err := http.NewRequestWithContext(ctx, method, w.url+path, nil)
	if err != nil {
		return false, fmt.Errorf("sink: %w", err)
	}
	resp, err := w.client.Do(r)
	if err != nil {
		return false, fmt.Errorf("sink: %w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return false, nil
	case resp.StatusCode/100 != 2:
		return false, fmt.Errorf("sink: %s answered %s", path, resp.Status)
	case read != nil:
		err = read(resp.Body)
	}
	return true, err
}

func (w *witness) stats(ctx context.Context) (s sinkStats, err error) {
	found, err := w.do(ctx, http.MethodGet, "/stats", func(r io.Reader) error {
		if err := json.NewDecoder(r).Decode(&s); err != nil {
			return fmt.Errorf("sink: statistics: %w", err)
		}
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("sink: no statistics at %s", w.url)
	}
	return s, err
}

// wait polls until every acknowledged copy has arrived or bounced, or nothing
// has changed for the idle time, and reports.
func (w *witness) wait(ctx context.Context, l *Load, total *tally) (*Delivery, error) {
	last, err := w.stats(ctx)
	changed := time.Now()
	for err == nil {
		still := time.Since(changed)
		gone := last.Total.Accepted + last.Total.Bounced - w.before.Total.Accepted - w.before.Total.Bounced
		if still >= w.idle || gone >= total.acked && still >= settleAfter {
			break
		}
		sleep(ctx, pollEvery)
		var now sinkStats
		if now, err = w.stats(ctx); !sameCounts(now, last) {
			changed = time.Now()
		}
		last = now
	}
	if err != nil {
		return nil, err
	}
	return w.report(ctx, l, total, last)
}

func sameCounts(a, b sinkStats) bool {
	return a.Total.Accepted == b.Total.Accepted && a.Total.Deferred == b.Total.Deferred &&
		a.Total.Bounced == b.Total.Bounced && a.Total.Dropped == b.Total.Dropped
}

func (w *witness) report(ctx context.Context, l *Load, total *tally, last sinkStats) (*Delivery, error) {
	d := &Delivery{
		Accepted: last.Total.Accepted - w.before.Total.Accepted, Deferred: last.Total.Deferred - w.before.Total.Deferred,
		Bounced: last.Total.Bounced - w.before.Total.Bounced, Dropped: last.Total.Dropped - w.before.Total.Dropped,
	}
	if last.Total.LastAccept != nil && d.Accepted > 0 {
		d.Seconds = last.Total.LastAccept.Sub(total.first.Time()).Seconds()
		d.Rate = ratio(float64(d.Accepted), d.Seconds)
	}
	d.SinkCPU = ratio((last.CPU-w.before.CPU)*1e6, float64(d.Accepted))
	var deliveries []ledger.Delivery
	found, err := w.do(ctx, http.MethodGet, "/ledger", func(r io.Reader) (err error) {
		_, deliveries, err = ledger.Read(r)
		return err
	})
	if err != nil || !found {
		return d, err
	}
	ours := deliveries[:0]
	for _, one := range deliveries {
		if one.At >= w.since {
			ours = append(ours, one)
		}
	}
	acks := l.book.Acks()
	d.Books = ledger.Reconcile(acks, ours)
	d.FromMail, d.FromAck = latencies(acks, ours)
	return d, nil
}

// latencies joins the two accounts: the time from MAIL, and from the acknowledgement, to the simulator's first 250.
func latencies(acks []ledger.Ack, deliveries []ledger.Delivery) (fromMail, fromAck Latency) {
	type key struct{ key, recipient string }
	byKey := make(map[key]*ledger.Ack, len(acks))
	for i := range acks {
		byKey[key{ledger.MatchKey(acks[i].Key), strings.ToLower(acks[i].Recipient)}] = &acks[i]
	}
	var mail, ack histogram
	for _, d := range deliveries {
		k := key{ledger.MatchKey(d.Key), strings.ToLower(d.Recipient)}
		if a := byKey[k]; a != nil {
			mail.add(d.At.Sub(a.Began))
			ack.add(max(0, d.At.Sub(a.At))) // the provider may have it before the source reads its acknowledgement
			delete(byKey, k)
		}
	}
	return mail.latency(), ack.latency()
}
