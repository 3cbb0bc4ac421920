package sink

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func world(t *testing.T) *Sink {
	o := DefaultOptions()
	o.Zone = "Sink.Test"
	o.Records = []string{"t._domainkey.d1.test. 60 IN TXT \"v=DKIM1; p=\"", "alias.test. IN CNAME other.test.", "other.test. IN MX 5 mx1.open.sink.test.",
		"loop1.test. IN CNAME loop2.test.", "loop2.test. IN CNAME loop1.test.", ""}
	o.Providers = []Provider{
		{Name: "open", Domains: []string{"d%d.test", "Single.test"}, Count: 3, MX: 2, Mode: ModeFast},
		{Name: "own", Domains: []string{"own%d.test"}, Count: 2, OwnMX: true, Listen: "127.0.0.5:0", Mode: ModeFast},
		{Name: "dead", Domains: []string{"dead.test"}, DeadMX: true, Listen: "127.0.0.6:0", Mode: ModeFast},
		{Name: "many", Domains: []string{"many.test"}, MX: 60, Listen: "127.0.0.6:0", Mode: ModeFast},
	}
	return startWith(t, o)
}

func ask(t *testing.T, s *Sink, network, name string, qtype uint16) (*dns.Msg, string) {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: 10 * time.Second}
	r, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, qtype), s.DNSAddr())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var out []string
	for _, rr := range r.Answer {
		out = append(out, strings.TrimPrefix(strings.ReplaceAll(rr.String(), "\t", " "), rr.Header().Name+" "))
	}
	return r, dns.RcodeToString[r.Rcode] + " " + strings.Join(out, "; ")
}

func TestNames(t *testing.T) {
	s := world(t)
	tests := []struct {
		name string
		t    uint16
		want string
	}{
		{"d2.test.", dns.TypeMX, "NOERROR 300 IN MX 10 mx1.open.sink.test.; 300 IN MX 20 mx2.open.sink.test."},
		{"SINGLE.test.", dns.TypeMX, "NOERROR 300 IN MX 10 mx1.open.sink.test.; 300 IN MX 20 mx2.open.sink.test."},
		{"d2.test.", dns.TypeA, "NOERROR "},
		{"d3.test.", dns.TypeMX, "NXDOMAIN "},
		{"mx2.open.sink.test.", dns.TypeA, "NOERROR 300 IN A 127.0.0.1"},
		{"mx2.open.sink.test.", dns.TypeAAAA, "NOERROR "},
		{"mx3.open.sink.test.", dns.TypeA, "NXDOMAIN "},
		{"own1.test.", dns.TypeMX, "NOERROR 300 IN MX 10 mx1.own1.test."},
		{"mx1.own1.test.", dns.TypeA, "NOERROR 300 IN A 127.0.0.5"},
		{"mx1.own2.test.", dns.TypeA, "NXDOMAIN "},
		{"dead.test.", dns.TypeMX, "NOERROR 300 IN MX 1 dead.sink.test.; 300 IN MX 10 mx1.dead.sink.test."},
		{"dead.sink.test.", dns.TypeA, "NOERROR 300 IN A 127.255.255.254"},
		{"nullmx.sink.test.", dns.TypeMX, "NOERROR 300 IN MX 0 ."},
		{"nxdomain.sink.test.", dns.TypeMX, "NXDOMAIN "},
		{"servfail.sink.test.", dns.TypeMX, "SERVFAIL "},
		{"nodata.sink.test.", dns.TypeMX, "NOERROR "},
		{"aonly.sink.test.", dns.TypeMX, "NOERROR "},
		{"aonly.sink.test.", dns.TypeA, "NOERROR 300 IN A 127.0.0.1"},
		{"ipv6only.sink.test.", dns.TypeMX, "NOERROR 300 IN MX 10 mx6.sink.test."},
		{"mx6.sink.test.", dns.TypeA, "NOERROR "},
		{"mx6.sink.test.", dns.TypeAAAA, "NOERROR 300 IN AAAA 2001:db8::25"},
		{"loopmx.sink.test.", dns.TypeMX, "NOERROR 300 IN MX 10 localhost."},
		{"t._domainkey.d1.test.", dns.TypeTXT, `NOERROR 60 IN TXT "v=DKIM1; p="`},
		{"d1.test.", dns.TypeMX, "NOERROR 300 IN MX 10 mx1.open.sink.test.; 300 IN MX 20 mx2.open.sink.test."},
		{"alias.test.", dns.TypeMX, "NOERROR 3600 IN CNAME other.test.; 3600 IN MX 5 mx1.open.sink.test."},
	}
	for _, tt := range tests {
		for _, network := range []string{"udp", "tcp"} {
			r, got := ask(t, s, network, tt.name, tt.t)
			if got != tt.want {
				t.Errorf("%s %s by %s:\n got %s\nwant %s", tt.name, dns.TypeToString[tt.t], network, got, tt.want)
			}
			if len(r.Answer) == 0 && r.Rcode != dns.RcodeServerFailure && len(r.Ns) != 1 {
				t.Errorf("%s: a negative answer without SOA", tt.name)
			}
		}
	}
	if _, got := ask(t, s, "udp", "loop1.test.", dns.TypeMX); !strings.HasPrefix(got, "SERVFAIL") {
		t.Errorf("endless CNAME: %s", got)
	}
	if n := s.Stats().Queries; n != int64(2*len(tests)+1) {
		t.Errorf("%d queries counted", n)
	}
}

func TestNoAnswer(t *testing.T) {
	s := world(t)
	c := &dns.Client{Timeout: 50 * time.Millisecond}
	if r, _, err := c.Exchange(new(dns.Msg).SetQuestion("noanswer.sink.test.", dns.TypeMX), s.DNSAddr()); err == nil {
		t.Errorf("got an answer: %v", r)
	}
}

func TestTruncation(t *testing.T) {
	s := world(t)
	r, _ := ask(t, s, "udp", "many.test.", dns.TypeMX)
	if !r.Truncated || len(r.Answer) >= 60 {
		t.Errorf("truncated %v with %d answers", r.Truncated, len(r.Answer))
	}
	if r, _ := ask(t, s, "tcp", "many.test.", dns.TypeMX); len(r.Answer) != 60 || r.Truncated {
		t.Errorf("by TCP: %d answers", len(r.Answer))
	}
	q := new(dns.Msg).SetQuestion("many.test.", dns.TypeMX)
	q.SetEdns0(4096, false)
	r, _, err := (&dns.Client{UDPSize: 4096}).Exchange(q, s.DNSAddr())
	if err != nil || len(r.Answer) != 60 || r.IsEdns0() == nil {
		t.Errorf("by EDNS: %v", err)
	}
}

// TestDeliverByLookup goes all the way as a client does: MX, A, connect on the one port.
func TestDeliverByLookup(t *testing.T) {
	s := world(t)
	for _, domain := range []string{"d0.test", "own0.test", "many.test"} {
		r, _ := ask(t, s, "udp", domain+".", dns.TypeMX)
		host := r.Answer[0].(*dns.MX).Mx
		r, _ = ask(t, s, "udp", host, dns.TypeA)
		addr := net.JoinHostPort(r.Answer[0].(*dns.A).A.String(), fmt.Sprint(s.Port()))
		dial(t, addr).script(hello + transaction("u@"+domain, "250", "250"))
	}
	var names []string
	for _, d := range s.Deliveries() {
		names = append(names, d.Provider)
	}
	if want := []string{"open", "own", "many"}; !slices.Equal(names, want) {
		t.Errorf("delivered to %v, want %v", names, want)
	}
}
