//go:build egress

package egress

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"text/template"
)

const nodeText = `
hostname = "{{.Node.Name}}.godwit.test"
log.level = "info"
ops.listen = ""
admin.listen = ["unix:{{.Socket}}"{{if .Layout.Keyed}}, "{{.Address}}:7105"{{end}}]
[http]
listen = []
[smtp]
max_connections_per_ip = 1000
[[smtp.listeners]]
address = "{{.Address}}:7104"
[[smtp.relay_from]]
network = "{{.Network}}"
tenant = "t"
may_set_tenant = true
[queue]
path = "{{.Dir}}/spool"
hold_max = "1s"
retry = { first = "500ms", factor = 1.5, max = "2s", jitter = 0.3 }
spool = { segment_size = "4MiB", spare_segments = 1, min_free = "8MiB" }
events = { segment_size = "4MiB" }
[dns]
servers = ["{{.DNS}}"]
[route]
port = {{.Port}}
[deliver]
greeting_timeout = "5s"
ehlo_timeout = "5s"
mail_timeout = "10s"
[throttle]
packs = [{{range .Layout.Packs}}"{{.}}", {{end}}]
files = ["{{.Rules}}"]
[events_file]
path = "{{.Dir}}/events.jsonl"
{{if .Nodes -}}
[cluster]
name = "{{.Node.Name}}"
bind = "{{.Cluster}}:7102"
key_file = "{{.Key}}"
{{- range .Nodes}}
[[cluster.nodes]]
name = "{{.Name}}"
address = "{{.Address}}"
link = "{{.Link}}"
{{- end}}
{{end -}}
[egress]
{{.Layout.Pools}}
{{- range .Proxies}}
[[egress.proxies]]
name = "{{.Name}}"
kind = "{{.Kind}}"
zone = "{{.Zone}}"
address = "{{.Address}}"
{{- end}}
{{- range .Sources}}
[[egress.sources]]
name = "{{.Name}}"
bind = "{{.Bind}}"
proxy = "{{.Proxy}}"
warmup = "{{.Warmup}}"
{{- end}}
{{.Layout.Extra}}
`

const proxyText = `
log.level = "info"
ops.listen = ""
[proxy]
name = "{{.Name}}"
zone = "{{.Zone}}"
state_file = "{{.Dir}}/state.json"
listeners = [{ address = "{{.Address}}", networks = ["{{.Network}}"] }]
[cluster]
key_file = "{{.Key}}"
{{- range .Sources}}
[[proxy.sources]]
name = "{{.Name}}"
bind = "{{.Bind}}"
{{- end}}
`

type peerText struct{ Name, Address, Link string }

type sourceText struct {
	sourceSpec
	Bind string
}

// sourcesOf are those of a proxy, or all.
func (w *world) sourcesOf(proxy string) (list []sourceText) {
	for _, s := range w.lay.sources {
		if proxy == "" || s.Proxy == proxy {
			list = append(list, sourceText{s, w.source(s.Name).String()})
		}
	}
	return list
}

func (w *world) rulesFile() string { return filepath.Join(w.dir, "rules.toml") }

// writeRules writes the rule file that all nodes share.
func (w *world) writeRules(text string) {
	w.t.Helper()
	if err := os.WriteFile(w.rulesFile(), []byte("version = 1\n"+text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) fill(path, text string, values map[string]any) {
	w.t.Helper()
	var b bytes.Buffer
	err := template.Must(template.New("config").Parse(text)).Execute(&b, values)
	if err == nil {
		err = os.WriteFile(path, b.Bytes(), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// configure writes the configuration of a node.
func (w *world) configure(i int) string {
	n := w.nodes[i]
	var nodes []peerText
	for j, other := range w.nodes {
		p := peerText{other.Name, fmt.Sprintf("%s:%d", w.clusterAddress(j), gossipPort), fmt.Sprintf("%s:%d", w.clusterAddress(j), linkPort)}
		if w.lay.faults && j != i {
			p.Link = n.links[j].addr()
		}
		if len(w.nodes) > 1 {
			nodes = append(nodes, p)
		}
	}
	var proxies []proxySpec
	for _, set := range w.sets {
		p := set.proxySpec
		if set.relays != nil {
			p.Address = set.relays[i].addr()
		}
		proxies = append(proxies, p)
	}
	path := filepath.Join(n.dir, "godwit.toml")
	w.fill(path, nodeText, map[string]any{"Node": n, "Socket": n.socket, "Dir": n.dir, "Address": w.nodeAddress(i), "Cluster": w.clusterAddress(i), "Key": w.key, "Network": w.network, "DNS": w.dns,
		"Port": w.sink.Port(), "Rules": w.rulesFile(), "Nodes": nodes, "Layout": fields{w.lay.packs, w.lay.pools, w.lay.extra, w.lay.keyed},
		"Proxies": proxies, "Sources": w.sourcesOf("")})
	return path
}

// fields are what templates read of a layout.
type fields struct {
	Packs        []string
	Pools, Extra string
	Keyed        bool
}
