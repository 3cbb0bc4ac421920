//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// world is everything outside the program under test: the simulated
// providers, their name server, and a mailbox that keeps whole messages.
// Mail exchangers are all on one port, each at a loopback address of its own.
type world struct {
	sink *sink.Sink
	box  *rig.Mailbox
}

// The world's domains, beside the simulator's special ones below sink.test:
//
//	mailbox.test, box0.test ...  the mailbox: TLS, SMTPUTF8, DSN
//	d0.test to d9.test           accept everything, no TLS
//	grey.test                    greylists for 200 ms
//	plain.test                   neither 8BITMIME nor SMTPUTF8
//	badtls.test                  STARTTLS is offered and fails
//	selfname.test, selfaddr.test lead back to the engine, by name and by address
//	capped.test                  takes at most 20 KB a message
func providers() []sink.Provider {
	return []sink.Provider{
		{Name: "open", Domains: []string{"d%d.test"}, Count: 10, Mode: sink.ModeFast},
		{Name: "grey", Domains: []string{"grey.test"}, Listen: "127.0.0.11:0",
			Behaviour: sink.Behaviour{Greylist: units.Duration(200 * time.Millisecond)}},
		{Name: "plain", Domains: []string{"plain.test"}, Listen: "127.0.0.12:0", Mode: sink.ModeFast,
			Behaviour: sink.Behaviour{Without: []string{"8BITMIME", "SMTPUTF8"}}},
		{Name: "badtls", Domains: []string{"badtls.test"}, Listen: "127.0.0.13:0", Mode: sink.ModeFast,
			Behaviour: sink.Behaviour{TLS: sink.TLSFail}},
		{Name: "capped", Domains: []string{"capped.test"}, Listen: "127.0.0.14:0", Mode: sink.ModeFast,
			Behaviour: sink.Behaviour{MaxSize: 20 << 10}},
	}
}

func records(k *rig.Keys) []string {
	lines := []string{
		"mx.mailbox.test. 60 IN A 127.0.0.2",
		"selfname.test. 60 IN MX 10 mx.godwit.test.",
		"mx.godwit.test. 60 IN A 127.0.0.3",
		"selfaddr.test. 60 IN MX 10 gate.selfaddr.test.",
		"gate.selfaddr.test. 60 IN A 127.0.0.3",
		"rsa._domainkey.sender.test. 60 IN TXT " + rig.TXT(k.RSARecord),
		"ed._domainkey.sender.test. 60 IN TXT " + rig.TXT(k.EdRecord),
	}
	for _, d := range []string{"mailbox.test", "box0.test", "box1.test", "box2.test"} {
		lines = append(lines, d+". 60 IN MX 10 mx.mailbox.test.")
	}
	return lines
}

// newWorld starts a world; the port that the mailbox gets must be free at the other addresses too.
func newWorld(t *testing.T, k *rig.Keys) *world {
	t.Helper()
	var last error
	for range 5 {
		box, err := rig.NewMailbox("127.0.0.2:0", &k.Cert)
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(box.Addr())
		o := sink.DefaultOptions()
		o.Listen, o.HTTP = "127.0.0.1:"+port, ""
		o.Providers, o.Records = providers(), records(k)
		s, err := sink.New(o, sink.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		if last = s.Start(); last != nil {
			box.Close()
			continue
		}
		t.Cleanup(func() { s.Stop(); box.Close() })
		return &world{sink: s, box: box}
	}
	t.Fatal(last)
	return nil
}

// accepted counts the simulator's 250s for a recipient.
func (w *world) accepted(recipient string) int {
	n := 0
	for _, d := range w.sink.Deliveries() {
		if strings.EqualFold(d.Recipient, recipient) {
			n++
		}
	}
	return n
}

// count reads "RECIPIENT [N]".
func count(args string) (recipient string, n int, err error) {
	recipient, number := cut(args)
	n = 1
	if number != "" {
		_, err = fmt.Sscan(number, &n)
	}
	return recipient, n, err
}
