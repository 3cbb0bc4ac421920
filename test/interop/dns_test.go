//go:build interop

package interop

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/godwit-mta/godwit/test/e2e/rig"
)

const dnsConfig = `
[smtp]
[[smtp.listeners]]
address = "127.0.0.1:0"
[[smtp.relay_from]]
network = "127.0.0.1"
tenant = "acme"
[dns]
servers = ["{{.DNS}}"]
timeout = "2s"
[route]
port = {{.Port}}
[queue.retry]
first = "1h"
max = "1h"
`

// unboundConf holds the zones. At 127.0.0.9 is nobody to fetch broken.test from, so it is SERVFAIL.
const unboundConf = `server:
  interface: {{.Host}}
  port: {{.Port}}
  do-daemonize: no
  chroot: ""
  username: ""
  pidfile: ""
  directory: "{{.Dir}}"
  use-syslog: no
  module-config: "iterator"
  do-ip6: no
  do-not-query-localhost: no
  root-hints: ""
  max-udp-size: 512
  local-zone: "test." static
  local-zone: "broken.test." transparent
  local-data: "plain.test. 60 IN MX 10 mx.plain.test."
  local-data: "mx.plain.test. 60 IN A 127.0.0.1"
  local-data: "preferred.test. 60 IN MX 20 mx.plain.test."
  local-data: "preferred.test. 60 IN MX 10 gone.plain.test."
  local-data: "gone.plain.test. 60 IN A 127.0.0.77"
  local-data: "addressonly.test. 60 IN A 127.0.0.1"
  local-data: "null.test. 60 IN MX 0 ."
  local-data: "alias.test. 60 IN CNAME plain.test."
  local-data: "mxalias.test. 60 IN MX 10 cname.plain.test."
  local-data: "cname.plain.test. 60 IN CNAME mx.plain.test."
  local-data: "nodata.test. 60 IN TXT \"nothing else\""
{{range .Large}}  local-data: "large.test. 60 IN MX 10 {{.}}."
  local-data: "{{.}}. 60 IN A 127.0.0.1"
{{end}}auth-zone:
  name: "broken.test."
  primary: 127.0.0.9@9
  for-downstream: yes
  fallback-enabled: no
remote-control:
  control-enable: no
`

// TestUnbound: unbound answers the resolver in every way that decides where mail goes.
func TestUnbound(t *testing.T) {
	path := need(t, "unbound")[0]
	address, dir := freeAddress(t), publicDir(t)
	host, port, _ := net.SplitHostPort(address)
	var large []string
	for i := range 40 {
		large = append(large, fmt.Sprintf("mail-exchanger-number-%d.of-a-very-large-set.test", i))
	}
	conf := filepath.Join(dir, "unbound.conf")
	text := fill(t, unboundConf, map[string]any{"Host": host, "Port": port, "Dir": dir, "Large": large})
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	daemon(t, dir, path, "-d", "-c", conf)
	answers(t, address, "plain.test.")
	if r, err := dns.Exchange(new(dns.Msg).SetQuestion("large.test.", dns.TypeMX), address); err != nil || !r.Truncated {
		t.Fatalf("large.test fits into UDP: the test shows nothing (%v, %v)", r, err)
	}
	if r, err := dns.Exchange(new(dns.Msg).SetQuestion("broken.test.", dns.TypeMX), address); err != nil || r.Rcode != dns.RcodeServerFailure {
		t.Fatalf("broken.test is not SERVFAIL: %v, %v", r, err)
	}
	deliveries(t, address, []lookup{
		{"plain.test", "delivered", "host", "mx.plain.test"},
		{"preferred.test", "delivered", "host", "mx.plain.test"},
		{"addressonly.test", "delivered", "host", "addressonly.test"},
		{"alias.test", "delivered", "host", "mx.plain.test"},
		{"mxalias.test", "delivered", "host", "cname.plain.test"},
		{"large.test", "delivered", "code", "250"},
		{"null.test", "bounced", "enhanced", "5.1.10"},
		{"nothere.test", "bounced", "enhanced", "5.1.2"},
		{"nodata.test", "bounced", "class", "dns"},
		{"broken.test", "deferred", "enhanced", "4.4.3"},
	})
}

// TestDnsmasq: the same with another server.
func TestDnsmasq(t *testing.T) {
	path := need(t, "dnsmasq")[0]
	address, dir := freeAddress(t), publicDir(t)
	host, port, _ := net.SplitHostPort(address)
	conf := filepath.Join(dir, "dnsmasq.conf")
	lines := []string{"no-daemon", "user=root", "no-resolv", "no-hosts", "bind-interfaces", "listen-address=" + host, "port=" + port,
		"local=/test/", "mx-host=plain.test,mx.plain.test,10", "host-record=mx.plain.test,127.0.0.1",
		"host-record=addressonly.test,127.0.0.1", "cname=alias.test,mx.plain.test", "edns-packet-max=512"}
	for i := range 40 {
		name := fmt.Sprintf("mail-exchanger-number-%d.of-a-very-large-set.test", i)
		lines = append(lines, "mx-host=large.test,"+name+",10", "host-record="+name+",127.0.0.1")
	}
	if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	daemon(t, dir, path, "--conf-file="+conf)
	answers(t, address, "plain.test.")
	deliveries(t, address, []lookup{
		{"plain.test", "delivered", "host", "mx.plain.test"},
		{"addressonly.test", "delivered", "host", "addressonly.test"},
		{"alias.test", "delivered", "code", "250"},
		{"large.test", "delivered", "code", "250"},
		{"nothere.test", "bounced", "enhanced", "5.1.2"},
	})
}

// lookup is a recipient domain and the event that its DNS leads to.
type lookup struct{ domain, kind, field, value string }

// answers waits until a server knows a name's MX.
func answers(t *testing.T, address, name string) {
	t.Helper()
	err := rig.Eventually(func() error {
		r, err := dns.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeMX), address)
		if err == nil && len(r.Answer) == 0 {
			err = errors.New("no answer")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// deliveries sends a message to each domain and looks at what became of it.
func deliveries(t *testing.T, server string, table []lookup) {
	t.Helper()
	keys := newKeys(t)
	box := mailbox(t, "127.0.0.1:0", keys)
	_, port, _ := net.SplitHostPort(box.Addr())
	e, dir := engine(t, dnsConfig, map[string]any{"DNS": server, "Port": port})
	for _, l := range table {
		t.Run(l.domain, func(t *testing.T) {
			inject(t, e.Ports.SMTP[0], "From: s@sender.test\n\nx\n", nil, "x@"+l.domain)
			got := events(t, dir, 1, func(e map[string]any) bool { return e["domain"] == l.domain && e["kind"] != "injected" })[0]
			if got["kind"] != l.kind || fmt.Sprint(got[l.field]) != l.value {
				t.Errorf("event %v, not %s with %s %s", got, l.kind, l.field, l.value)
			}
			if l.kind == "delivered" {
				arrives(t, box, "x@"+l.domain)
			}
		})
	}
}
