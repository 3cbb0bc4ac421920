//go:build e2e

package nodes

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/test/e2e/rig"
)

const nodeText = `
hostname = "{{.Name}}.godwit.test"
log.level = "info"
ops.listen = ""
admin.listen = ["unix:{{.Socket}}"]
[http]
listen = []
[[smtp.listeners]]
address = "{{.Address}}:0"
[queue]
path = "{{.Dir}}/spool"
spool = { segment_size = "4MiB", spare_segments = 0, min_free = "8MiB" }
events = { segment_size = "4MiB" }
[dns]
servers = ["127.0.0.1:1"]
[events_file]
path = "{{.Dir}}/events.jsonl"
[cluster]
name = "{{.Name}}"
bind = "{{.Address}}:7102"
key_file = "{{.Key}}"
{{- range .Nodes}}
[[cluster.nodes]]
name = "{{.Name}}"
address = "{{.Address}}:7102"
link = "{{.Address}}:7101"
{{- end}}
[pipeline]
path = "{{.Dir}}/pipeline"
partitions = 4
warehouse.engine = "{{.Engine}}"
peers.listen = "{{.Address}}:0"
[pipeline.kafka]
brokers = [{{.Brokers}}]
session_timeout = "2s"
rebalance_timeout = "10s"
[pipeline.api]
listen = ["{{.Address}}:0"]
wait_visible = "20s"
[[pipeline.api.keys]]
name = "shop"
tenant = "acme"
sha256 = "{{.SHA256}}"
`

const apiKey = "shop"

// node is one process.
type node struct {
	*rig.Engine
	w     *world
	Name  string
	admin *adminapi.Client
}

// world is brokers and nodes.
type world struct {
	t      *testing.T
	nodes  []*node
	client http.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	brokers, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}), kfake.GroupMinSessionTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(brokers.Close)
	w := &world{t: t, client: http.Client{Timeout: rig.Patience}}
	dir := t.TempDir()
	sockets, err := os.MkdirTemp("", "godwit") // t.TempDir is too long for the name of a socket
	w.must(err)
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	key := filepath.Join(dir, "key")
	w.must(os.WriteFile(key, []byte(strings.Repeat("A", 43)+"="), 0o600))
	net := fmt.Sprintf("127.%d.%d.", 20+rand.IntN(200), 1+rand.IntN(250))
	type peer struct{ Name, Address string }
	all := []peer{{"n1", net + "31"}, {"n2", net + "32"}}
	quoted := `"` + strings.Join(brokers.ListenAddrs(), `", "`) + `"`
	hash := sha256.Sum256([]byte(apiKey))
	for i, p := range all {
		own := filepath.Join(dir, p.Name)
		w.must(os.Mkdir(own, 0o755))
		var b bytes.Buffer
		w.must(template.Must(template.New("").Parse(nodeText)).Execute(&b, map[string]any{
			"Name": p.Name, "Address": p.Address, "Dir": own, "Socket": filepath.Join(sockets, p.Name), "Key": key, "Nodes": all,
			"Brokers": quoted, "Engine": []string{"duckdb", ""}[i], "SHA256": hex.EncodeToString(hash[:]),
		}))
		path := filepath.Join(own, "godwit.toml")
		w.must(os.WriteFile(path, b.Bytes(), 0o600))
		e, err := rig.Start(rig.Binary(t), path)
		w.must(err)
		n := &node{Engine: e, w: w, Name: p.Name}
		w.nodes = append(w.nodes, n)
		n.admin, err = adminapi.NewClient(adminapi.ClientOptions{URL: "unix:" + filepath.Join(sockets, p.Name)})
		w.must(err)
		t.Cleanup(n.admin.Close)
		t.Cleanup(n.end)
	}
	return w
}

// end ends a process and shows its log if the test failed.
func (n *node) end() {
	n.Kill()
	log := n.Log()
	for _, bad := range []string{"panic:", "DATA RACE"} {
		if strings.Contains(log, bad) {
			n.w.t.Errorf("the log of %s has %q", n.Name, bad)
		}
	}
	if n.w.t.Failed() {
		lines := strings.Split(strings.TrimSpace(log), "\n")
		n.w.t.Logf("log of %s:\n%s", n.Name, strings.Join(lines[max(0, len(lines)-60):], "\n"))
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// eventually fails the test with the last error of f.
func (w *world) eventually(what string, f func() error) {
	w.t.Helper()
	began := time.Now()
	if err := rig.Eventually(f); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
	w.t.Logf("%s: after %v", what, time.Since(began).Round(time.Millisecond))
}

// call asks a node's API, and reads a JSON answer into out unless that is nil.
func (n *node) call(method, path, body string, header map[string]string, out any) (int, error) {
	r, err := http.NewRequest(method, "http://"+n.Ports.Pipeline[0]+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", "Bearer "+apiKey)
	r.Header.Set("Revision", "2026-07-15")
	r.Header.Set("Content-Type", "application/vnd.api+json")
	for k, v := range header {
		r.Header.Set(k, v)
	}
	res, err := n.w.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	if res.StatusCode >= 400 {
		return res.StatusCode, fmt.Errorf("%s: %s %s: status %d: %s", n.Name, method, path, res.StatusCode, b)
	}
	if out != nil {
		err = json.Unmarshal(b, out)
	}
	return res.StatusCode, err
}
