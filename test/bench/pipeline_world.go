package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/crowd"
)

// manyProfiles makes very many profiles by bulk import and looks at memory and disk.
func (b *bench) manyProfiles(ctx context.Context) error {
	p, err := b.newPipe(ctx, "profiles")
	if err != nil {
		return err
	}
	peak := watchAnon(ctx, p.pid)
	began := time.Now()
	if err := p.importProfiles(ctx, b.o.large); err != nil {
		return p.end(err)
	}
	if err := p.drain(ctx); err != nil {
		return p.end(err)
	}
	most := peak()
	b.say("    %d profiles in %.0f s, RssAnon at most %.0f MiB", b.o.large, time.Since(began).Seconds(), mib(most))
	if b.o.large == 10_000_000 {
		b.set("state.10m_profiles.anon", mib(most))
	}
	if err := p.stop(); err != nil {
		return err
	}
	n, err := usage(filepath.Join(p.dir, "pipeline", "state"))
	if err != nil {
		return err
	}
	b.set("state.bytes_per_profile", float64(n)/float64(b.o.large))
	err = p.sink.stop()
	if !b.o.keep {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}

func (p *pipe) importProfiles(ctx context.Context, n int) error {
	const batch = 10_000
	work := make(chan int)
	failed := make(chan error, 4)
	for range 4 {
		go func() {
			var body strings.Builder
			for first := range work {
				body.Reset()
				body.WriteString(`{"data":{"type":"profile-bulk-import-job","attributes":{"profiles":{"data":[`)
				for i := first; i < min(first+batch, n); i++ {
					if i > first {
						body.WriteByte(',')
					}
					fmt.Fprintf(&body, `{"type":"profile","attributes":{"email":%q,"first_name":"First%d","last_name":"Last","location":{"country":"Germany","city":"Berlin"},"properties":{"plan":"gold","score":%d}}}`, crowd.EmailOf(i), i, i%100)
				}
				body.WriteString(`]}}}}`)
				if err := p.api(ctx, http.MethodPost, "/api/profile-bulk-import-jobs", body.String(), nil); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	var err error
	workers := 4
	for first := 0; first < n && err == nil; first += batch {
		select {
		case work <- first:
		case err = <-failed:
			workers--
		}
	}
	close(work)
	for range workers {
		err = errors.Join(err, <-failed)
	}
	return err
}

// api is one call of the pipeline's HTTP API.
func (p *pipe) api(ctx context.Context, method, path, body string, out any) error {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+p.pipeline+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Klaviyo-API-Key "+apiKey)
	r.Header.Set("revision", "2026-07-15")
	if body != "" {
		r.Header.Set("Content-Type", "application/vnd.api+json")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %.500s", method, path, resp.Status, b)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// pipeStatus is what is used of GET /admin/v1/pipeline.
type pipeStatus struct {
	Consumers []struct {
		Name       string `json:"name"`
		Partitions []struct {
			Lag     int64   `json:"lag"`
			Seconds float64 `json:"lag_seconds"`
			Error   string  `json:"error"`
		} `json:"partitions"`
	} `json:"consumers"`
}

func (p *pipe) status(ctx context.Context) (*pipeStatus, error) {
	var st pipeStatus
	return &st, call(ctx, http.MethodGet, p.admin+"/admin/v1/pipeline", apiKey, nil, &st)
}

// lag is that of a consumer's worst partition, in seconds.
func (s *pipeStatus) lag(consumer string) (worst float64) {
	for _, c := range s.Consumers {
		for _, p := range c.Partitions {
			if c.Name == consumer && p.Lag > 0 {
				worst = max(worst, p.Seconds)
			}
		}
	}
	return worst
}

// String lists the lags.
func (s *pipeStatus) String() string {
	var out []string
	for _, c := range s.Consumers {
		var records int64
		for _, p := range c.Partitions {
			records += p.Lag
		}
		out = append(out, fmt.Sprintf("%s %d records (%.2f s)", c.Name, records, s.lag(c.Name)))
	}
	return strings.Join(out, ", ")
}

// drain waits until all consumers have applied everything.
func (p *pipe) drain(ctx context.Context) error {
	idle := 0
	for began := time.Now(); idle < 5; {
		st, err := p.status(ctx)
		if err != nil {
			return err
		}
		idle++
		for _, c := range st.Consumers {
			for _, part := range c.Partitions {
				if part.Error != "" {
					return fmt.Errorf("%s: %s", c.Name, part.Error)
				}
				if part.Lag > 0 {
					idle = 0
				}
			}
		}
		if time.Since(began) > 15*time.Minute {
			return fmt.Errorf("consumers do not catch up: %s", st)
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
