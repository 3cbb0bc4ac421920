//go:build crash

package crash

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/crowd"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// The tenants of the pipeline's rounds; the second one's clocks are not on whole hours.
var pipelineTenants = []string{"acme", "bazaar"}

const pipelineText = `
[pipeline]
path = "%s"
partitions = 3
[pipeline.api]
listen = ["127.0.0.1:%d"]
%s
[pipeline.ingest]
dimensions = ["Inbox Provider", "Campaign Name", "Client Name", "URL"]
[pipeline.account]
zone = "America/New_York"
zones = { bazaar = "Asia/Kolkata" }
[pipeline.log]
segment_size = "4MiB"
[pipeline.state]
snapshot_every = "2s"
memtable = "1MiB"
`

// pipelineWorld is a world whose engine has the pipeline on.
type pipelineWorld struct {
	*world
	url   string
	crowd *crowd.World
	load  *crowd.Load
	acts  sync.WaitGroup
	stop  context.CancelFunc
	ended chan crowd.Report

	mu               sync.Mutex
	merges, deletion int
}

func pipelineKey(tenant string) string { return apiKey + "-" + tenant }

func newPipelineWorld(t *testing.T, r *rand.Rand, dir string) *pipelineWorld {
	w := &pipelineWorld{world: newWorld(t, r, dir), ended: make(chan crowd.Report, 1)}
	port := w.freePort()
	var keys strings.Builder
	for _, tenant := range pipelineTenants {
		fmt.Fprintf(&keys, "[[pipeline.api.keys]]\nname = %[1]q\ntenant = %[1]q\nsha256 = \"%[2]x\"\n", tenant, sha256.Sum256([]byte(pipelineKey(tenant))))
	}
	w.params.Extra = fmt.Sprintf(pipelineText, filepath.Join(filepath.Dir(w.spool), "pipeline"), port, keys.String())
	w.writeConfig()
	w.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	o := crowd.DefaultOptions()
	o.Seed, o.Profiles, o.Metrics, o.Values, o.Twice, o.Late, o.External = r.Uint64(), 3000, 20, 500, 0.05, 0.1, 0.4
	o.From, o.Span = time.Now().Add(-48*time.Hour), units.Duration(48*time.Hour)
	var err error
	if w.crowd, err = crowd.NewWorld(o); err != nil {
		t.Fatal(err)
	}
	return w
}

// startCrowd sends events, and merges and deletes profiles, until endCrowd.
func (w *pipelineWorld) startCrowd() {
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	w.t.Cleanup(cancel)
	var keys []string
	for _, tenant := range pipelineTenants {
		keys = append(keys, pipelineKey(tenant))
	}
	var err error
	w.load, err = crowd.NewLoad(w.crowd, crowd.LoadOptions{Target: w.url, Keys: keys, Connections: 6, Batch: 20, Rate: 2000,
		Duration: time.Hour, Timeout: 10 * time.Second, Retry: true})
	if err != nil {
		w.t.Fatal(err)
	}
	go func() { w.ended <- w.load.Run(ctx) }()
	seed := w.r.Uint64()
	w.acts.Go(func() { w.actions(ctx, rand.New(rand.NewPCG(seed, 1))) })
}

// actions merges and deletes now and then. What fails because the server is away is not repeated.
func (w *pipelineWorld) actions(ctx context.Context, r *rand.Rand) {
	for ctx.Err() == nil {
		tenant := pipelineTenants[r.IntN(len(pipelineTenants))]
		a, okA := w.profile(ctx, tenant, r.IntN(3000))
		b, okB := w.profile(ctx, tenant, r.IntN(3000))
		switch {
		case okA && r.IntN(4) == 0:
			body := fmt.Sprintf(`{"data":{"type":"data-privacy-deletion-job","attributes":{"profile":{"data":{"type":"profile","id":%q}}}}}`, a)
			w.note(&w.deletion, w.call(ctx, tenant, http.MethodPost, "/api/data-privacy-deletion-jobs", body, nil))
		case okA && okB && a != b:
			body := fmt.Sprintf(`{"data":{"type":"profile-merge","id":%q,"relationships":{"profiles":{"data":[{"type":"profile","id":%q}]}}}}`, b, a)
			w.note(&w.merges, w.call(ctx, tenant, http.MethodPost, "/api/profile-merge", body, nil))
		}
		time.Sleep(time.Duration(5+r.IntN(30)) * time.Millisecond)
	}
}

func (w *pipelineWorld) note(n *int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		*n++
	}
}

// profile finds a profile's id.
func (w *pipelineWorld) profile(ctx context.Context, tenant string, n int) (string, bool) {
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	filter := url.QueryEscape(fmt.Sprintf("equals(email,%q)", crowd.EmailOf(n)))
	if w.call(ctx, tenant, http.MethodGet, "/api/profiles?filter="+filter, "", &list) != nil || len(list.Data) == 0 {
		return "", false
	}
	return list.Data[0].ID, true
}

func (w *pipelineWorld) call(ctx context.Context, tenant, method, path, body string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, w.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Klaviyo-API-Key "+pipelineKey(tenant))
	r.Header.Set("revision", "2026-07-15")
	r.Header.Set("Content-Type", "application/vnd.api+json")
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
		return fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, b)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// endCrowd waits for all answers and writes down what was acknowledged.
func (w *pipelineWorld) endCrowd() (acks string) {
	w.t.Helper()
	w.stop()
	w.acts.Wait()
	report := <-w.ended
	if report.Refused > 0 {
		w.t.Errorf("%d events refused: %s", report.Refused, report.FirstFail)
	}
	var b strings.Builder
	dark := 0
	for _, a := range report.Acks {
		if slices.ContainsFunc(w.dark, func(s span) bool { return s.has(a.At) }) {
			dark++ // with the power gone the kernel may call synced what is not
			continue
		}
		for i := range a.N {
			if e := w.crowd.Event(a.First + i); a.Known {
				fmt.Fprintf(&b, "%s %s\n", pipelineTenants[a.Tenant], e.UID())
			}
		}
	}
	w.t.Logf("%d events acknowledged, %d of unknown fate, %d merges, %d deletions; %d requests were answered in the dark", report.Events, report.Unknown, w.merges, w.deletion, dark)
	acks = filepath.Join(w.dir, "acks")
	if err := os.WriteFile(acks, []byte(b.String()), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return acks
}

// awaitApplied waits until no consumer lags.
func (w *pipelineWorld) awaitApplied() {
	w.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for quiet := 0; quiet < 5; {
		st, err := w.admin.Pipeline(context.Background())
		if err != nil {
			w.t.Fatal(err)
		}
		quiet++
		for _, c := range st.Consumers {
			for _, p := range c.Partitions {
				if p.Error != "" {
					w.t.Fatalf("%s, partition %d: %s", c.Name, p.Partition, p.Error)
				}
				if p.Lag > 0 {
					quiet = 0
				}
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("consumers lag: %+v", st)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// recount stops the engine and has everything counted again.
func (w *pipelineWorld) recount(acks string) {
	w.t.Helper()
	w.awaitApplied()
	w.world.stop()
	out, err := exec.Command(rig.Binary(w.t), "pipeline", "check", "-c", w.config(), "--acks", acks).CombinedOutput()
	w.t.Logf("%s", out)
	if err != nil {
		w.t.Errorf("counted again: %v", err)
	}
}

// TestPipelineKill: SIGKILL at random moments, with merges and deletions.
func TestPipelineKill(t *testing.T) {
	w := newPipelineWorld(t, seeded(t), "")
	w.pipelineRounds(rounds(t), w.kill, func() {})
}

// TestPipelinePowerCut: the file system loses what it had not been told to keep.
func TestPipelinePowerCut(t *testing.T) {
	v := newVolume(t, 2<<30)
	w := newPipelineWorld(t, seeded(t), v.path("spool"))
	cut := func() {
		if w.r.IntN(2) == 0 {
			w.kill()
			v.shutdown()
			return
		}
		from := time.Now()
		v.shutdown()
		time.Sleep(time.Duration(w.r.IntN(20)) * time.Millisecond)
		w.kill()
		w.dark = append(w.dark, span{from, time.Now()})
	}
	w.pipelineRounds(rounds(t), cut, func() {
		v.unmount()
		v.mount()
	})
}

func (w *pipelineWorld) pipelineRounds(n int, cut, between func()) {
	w.start()
	w.startCrowd()
	for range n {
		time.Sleep(time.Duration(200+w.r.IntN(1300)) * time.Millisecond)
		cut()
		between()
		if w.r.IntN(5) == 0 {
			w.loseState()
		}
		w.start()
	}
	if acked := w.load.Acked(); acked < uint64(100*n) {
		w.t.Errorf("only %d events acknowledged: the rounds prove little", acked)
	}
	w.recount(w.endCrowd())
}

// loseState removes the state of one stage, as after the loss of a disk that holds no logs.
func (w *pipelineWorld) loseState() {
	stage := []string{"identity", "customer", "account"}[w.r.IntN(3)]
	dir := filepath.Join(filepath.Dir(w.spool), "pipeline", "state", stage)
	if err := os.RemoveAll(dir); err != nil {
		w.t.Fatal(err)
	}
	w.t.Logf("the state of %s is gone", stage)
}

// TestPipelineConsumers: one consumer is stopped, or its state rebuilt, while the other one goes on.
func TestPipelineConsumers(t *testing.T) {
	w := newPipelineWorld(t, seeded(t), "")
	w.start()
	w.startCrowd()
	act := func(consumer, action string) {
		t.Helper()
		if _, err := w.admin.ActOnConsumer(context.Background(), adminapi.PipelineAct{Consumer: consumer, Action: action}); err != nil {
			t.Fatal(err)
		}
	}
	eventually := func(consumer, action string) {
		t.Helper()
		err := rig.Eventually(func() error {
			_, err := w.admin.ActOnConsumer(context.Background(), adminapi.PipelineAct{Consumer: consumer, Action: action})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	applied := func(consumer string) (sum int64) {
		t.Helper()
		st, err := w.admin.Pipeline(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range st.Consumers {
			for _, p := range c.Partitions {
				if c.Name == consumer {
					sum += p.Applied
				}
			}
		}
		return sum
	}
	time.Sleep(2 * time.Second)
	for _, pair := range [][2]string{{"account", "customer"}, {"customer", "account"}} {
		act(pair[0], adminapi.ActStop)
		stopped, other := applied(pair[0]), applied(pair[1])
		time.Sleep(time.Second)
		if now := applied(pair[1]); now <= other {
			t.Errorf("%s does not go on while %s is stopped: %d, then %d", pair[1], pair[0], other, now)
		}
		if now := applied(pair[0]); now > stopped {
			t.Errorf("%s goes on though it is stopped: %d, then %d", pair[0], stopped, now)
		}
		act(pair[0], adminapi.ActStart)
		eventually(pair[0], adminapi.ActSnapshot) // its state has to be open again
		eventually(pair[0], adminapi.ActRebuild)
	}
	w.recount(w.endCrowd())
}
