package deliver

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// startSink runs Postfix's smtp-sink with options on a free port.
func startSink(t *testing.T, options ...string) netip.AddrPort {
	t.Helper()
	path, err := exec.LookPath("smtp-sink")
	if err != nil {
		path = "/usr/sbin/smtp-sink"
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("GODWIT_INTEROP") == "require" {
			t.Fatal("smtp-sink is not installed (Debian package postfix)")
		}
		t.Skip("smtp-sink is not installed (Debian package postfix)")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	args := append(options, addr, "100")
	if os.Getuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...)
	}
	cmd := exec.Command(path, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return netip.MustParseAddrPort(addr)
		}
		if time.Now().After(deadline) {
			t.Fatal("smtp-sink does not listen")
		}
		runtime.Gosched()
	}
}

// TestSMTPSink delivers to another implementation, well and badly behaved.
func TestSMTPSink(t *testing.T) {
	for name, c := range map[string]struct {
		options string
		want    string // outcomes of two deliveries on the session, or of Open
	}{
		"plain":                {"", "delivered smtp 250 end-of-data, delivered smtp 250 end-of-data"},
		"no pipelining":        {"-p", "delivered smtp 250 end-of-data, delivered smtp 250 end-of-data"},
		"no ehlo":              {"-e", "delivered smtp 250 end-of-data, delivered smtp 250 end-of-data"},
		"soft error to mail":   {"-r mail", "deferred smtp 450 MAIL, deferred smtp 450 MAIL"},
		"hard error to mail":   {"-f mail", "bounced smtp 500 MAIL, bounced smtp 500 MAIL"},
		"hard error to rcpt":   {"-f rcpt", "bounced smtp 500 RCPT, bounced smtp 500 RCPT"},
		"hard error to data":   {"-f data", "bounced smtp 500 DATA, bounced smtp 500 DATA"},
		"hard error to dot":    {"-f .", "bounced smtp 500 end-of-data, bounced smtp 500 end-of-data"},
		"disconnect at data":   {"-q data", "deferred connect 451 DATA, deferred connect 451 MAIL"},
		"disconnect at dot":    {"-q .", "ambiguous connect 451 end-of-data, deferred connect 451 MAIL"},
		"disconnect at banner": {"-q connect", "deferred connect 451 banner"},
	} {
		t.Run(name, func(t *testing.T) {
			d := deliverer(t, direct(startSink(t, strings.Fields(c.options)...)), nil)
			s, err := d.Open(t.Context(), route, nil)
			if err != nil {
				oe, _ := err.(*mail.OutcomeError)
				if got := brief(oe.Outcome); got != c.want {
					t.Errorf("got %s (%v), want %s", got, err, c.want)
				}
				return
			}
			defer s.Close()
			got := ""
			for i := range 2 {
				if i > 0 {
					got += ", "
				}
				got += fmt.Sprint(brief(s.Deliver(t.Context(), to("a@x.example"), nil)[0]))
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}
