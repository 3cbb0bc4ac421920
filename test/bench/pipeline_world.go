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
	p, err := b.pipeWith(ctx, "profiles", "pipeline.state.cache = \"512MiB\"\npipeline.warehouse.memory = \"256MiB\"\n") // for little memory
	if err != nil {
		return err
	}
	p.world.Profiles = b.o.large
	peak := watchAnon(ctx, p.pid)
	if err := p.populate(ctx); err != nil {
		return p.end(err)
	}
	most := peak()
	b.say("    RssAnon at most %.0f MiB", mib(most))
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

// populate makes all profiles of the world by bulk imports, and waits until they are everywhere.
func (p *pipe) populate(ctx context.Context) error {
	began := time.Now()
	r, err := p.crowd(ctx, crowd.LoadOptions{Profiles: true, Connections: 4, Batch: 10_000})
	if err != nil {
		return err
	}
	if err := p.drain(ctx); err != nil {
		return err
	}
	p.b.say("    %d profiles: acknowledged in %.1f s, everywhere after %.1f s", r.Events, r.Took.Seconds(), time.Since(began).Seconds())
	return nil
}

// someProfiles finds ids of profiles that have events, and a metric.
func (p *pipe) someProfiles(ctx context.Context, n int) (ids []string, metric string, err error) {
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	for i := 0; len(ids) < n && i < 20*n; i++ {
		path := fmt.Sprintf("/api/profiles?filter=equals(email,%%22%s%%22)", crowd.EmailOf(i))
		if err := p.api(ctx, http.MethodGet, path, "", &list); err != nil {
			return nil, "", err
		}
		for _, d := range list.Data {
			ids = append(ids, d.ID)
		}
	}
	if err := p.api(ctx, http.MethodGet, "/api/metrics", "", &list); err != nil {
		return nil, "", err
	}
	if len(ids) == 0 || len(list.Data) == 0 {
		return nil, "", errors.New("no profiles or metrics are there")
	}
	return ids, list.Data[0].ID, nil
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

// watch says every ten seconds what the engine took of the CPUs, what others took of them, and how far the consumers are behind.
func (p *pipe) watch(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		const every = 10 * time.Second
		began := time.Now()
		cpu, _ := cpuOf(p.pid)
		before, _ := readHost()
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(every):
			}
			c, _ := cpuOf(p.pid)
			now, _ := readHost()
			st, err := p.status(ctx)
			if err != nil {
				return
			}
			rss, _ := memoryOf(p.pid, "RssAnon")
			p.b.say("    %3.0f s: %.2f CPUs, %.2f stolen, %.0f MiB; %s", time.Since(began).Seconds(), float64(c-cpu)/float64(every), float64(now.stolen-before.stolen)/float64(every), mib(rss), st)
			cpu, before = c, now
		}
	}()
	return func() { cancel(); <-done }
}
