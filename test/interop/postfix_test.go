//go:build interop

package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"github.com/emersion/go-smtp"

	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// A postfix is a running instance of Postfix, all of it below one directory.
type postfix struct {
	dir     string
	address string // of its smtpd
}

const mainCF = `compatibility_level = 3.6
queue_directory = {{.Dir}}/queue
data_directory = {{.Dir}}/data
daemon_directory = {{.Daemons}}
command_directory = {{.Commands}}
mail_owner = postfix
setgid_group = postdrop
myhostname = {{.Name}}
mydestination =
alias_maps =
alias_database =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtputf8_enable = yes
smtp_dns_support_level = disabled
smtp_host_lookup = native
minimal_backoff_time = 1s
maillog_file = {{.Dir}}/mail.log
maillog_file_prefixes = {{.Dir}}
smtp_tls_security_level = may
smtpd_tls_security_level = may
smtpd_tls_cert_file = {{.Keys.CertFile}}
smtpd_tls_key_file = {{.Keys.CertKeyFile}}
{{.Extra}}
`

const masterCF = `{{.Address}} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

// startPostfix runs an instance; extra are lines of its main.cf, in which {{.Dir}} is its directory.
func startPostfix(t *testing.T, name, extra string, keys *rig.Keys) *postfix {
	t.Helper()
	paths := need(t, "postfix", "master")
	needRoot(t)
	owner, err := user.Lookup("postfix")
	if err != nil {
		missing(t, "no user postfix")
	}
	p := &postfix{dir: publicDir(t), address: freeAddress(t)}
	values := map[string]any{"Dir": p.dir, "Name": name, "Address": p.address, "Keys": keys,
		"Commands": filepath.Dir(paths[0]), "Daemons": filepath.Dir(paths[1]), "UID": owner.Uid, "GID": owner.Gid}
	values["Extra"] = fill(t, extra, values)
	for _, dir := range []string{"conf", "queue", "data", "mail"} {
		if err := os.Mkdir(filepath.Join(p.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"data", "mail"} {
		var uid, gid int
		_, _ = fmt.Sscan(owner.Uid, &uid)
		_, _ = fmt.Sscan(owner.Gid, &gid)
		if err := os.Chown(filepath.Join(p.dir, dir), uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{"main.cf": mainCF, "master.cf": masterCF} {
		if err := os.WriteFile(filepath.Join(p.dir, "conf", file), []byte(fill(t, text, values)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if text, err := os.ReadFile(filepath.Join(p.dir, "mail.log")); t.Failed() {
			t.Logf("log of %s:\n%s%v", name, text, err)
		}
	})
	conf := filepath.Join(p.dir, "conf")
	if out, err := exec.Command(paths[0], "-c", conf, "check").CombinedOutput(); err != nil { // makes the queue's directories
		t.Fatalf("postfix check: %v\n%s", err, out)
	}
	daemon(t, p.dir, paths[1], "-c", conf, "-s")
	accepts(t, p.address)
	return p
}

func fill(t *testing.T, text string, values map[string]any) string {
	t.Helper()
	tmpl, err := template.New("").Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := tmpl.Execute(&b, values); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// keeper is a Postfix that keeps mail for good@box.test in a maildir.
const keeper = `virtual_mailbox_domains = box.test
virtual_mailbox_base = {{.Dir}}/mail
virtual_mailbox_maps = inline:{ { good@box.test = good/ } { jürgen@box.test = utf8/ } }
virtual_minimum_uid = 1
virtual_uid_maps = static:{{.UID}}
virtual_gid_maps = static:{{.GID}}
message_size_limit = 20000000
virtual_mailbox_limit = 0`

// kept waits for n messages in a maildir and returns them.
func (p *postfix) kept(t *testing.T, box string, n int) []string {
	t.Helper()
	var mails []string
	err := rig.Eventually(func() error {
		files, err := filepath.Glob(filepath.Join(p.dir, "mail", box, "new", "*"))
		if err != nil || len(files) != n {
			return fmt.Errorf("%d messages in %s, not %d: %w", len(files), box, n, err)
		}
		mails = mails[:0]
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			mails = append(mails, string(text))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return mails
}

const betweenConfig = `
[smtp]
cert_file = "{{.Keys.CertFile}}"
key_file = "{{.Keys.CertKeyFile}}"
[[smtp.listeners]]
address = "127.0.0.1:0"
tls = "starttls"
[[smtp.relay_from]]
network = "127.0.0.1"
tenant = "acme"
[route]
[[route.routes]]
domain = "box.test"
hosts = ["{{.To}}"]
[[route.routes]]
domain = "sender.test"
hosts = ["{{.Box}}"]
`

// body has all that is apt to be altered on the way.
func body() string {
	var b strings.Builder
	b.WriteString("first\n\n.\n..\n.dot\n trailing space \t\n\tleading tab\nFrom the start of a line\nGrüße, 你好\n")
	for n := 1; n < 998; n += 83 {
		b.WriteString(strings.Repeat("x", n) + "\n")
	}
	b.WriteString("\n\nafter blank lines\n\n")
	return b.String()
}

// TestBetweenPostfixes sends mail through Postfix, Godwit and Postfix into a
// maildir: it arrives unaltered, in TLS all the way.
func TestBetweenPostfixes(t *testing.T) {
	keys := newKeys(t)
	last := startPostfix(t, "last.test", keeper, keys)
	box := mailbox(t, "127.0.0.1:0", keys)
	e, dir := engine(t, betweenConfig, map[string]any{"Keys": keys, "To": last.address, "Box": box.Addr()})
	host, port, _ := net.SplitHostPort(e.Ports.SMTP[0])
	first := startPostfix(t, "first.test", "relayhost = ["+host+"]:"+port+"\nmessage_size_limit = 20000000\n", keys)

	text := body()
	message := "From: s@sender.test\nTo: good@box.test\nSubject: Grüße\nMIME-Version: 1.0\n" +
		"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\nMessage-ID: <1@sender.test>\n\n"
	t.Run("unaltered", func(t *testing.T) {
		inject(t, first.address, message+text, nil, "good@box.test")
		got := last.kept(t, "good", 1)[0]
		header, arrived, _ := strings.Cut(got, "\n\n")
		if arrived != text {
			t.Errorf("the body was altered:\ngot  %q\nsent %q", arrived, text)
		}
		for _, want := range []string{
			"by mx.godwit.test (Godwit) with ESMTPS", "from first.test ", "Message-ID: <1@sender.test>", "Return-Path: <s@sender.test>",
			"by last.test (Postfix) with ESMTPS", "from mx.godwit.test ",
		} {
			if !strings.Contains(header, want) {
				t.Errorf("%q is not in the header:\n%s", want, header)
			}
		}
	})
	t.Run("large", func(t *testing.T) {
		large := strings.Repeat("a line of some length that is repeated until there are eight million bytes of it\n", 100_000)
		inject(t, first.address, strings.Replace(message, "<1@", "<2@", 1)+large, nil, "good@box.test")
		for _, m := range last.kept(t, "good", 2) {
			if _, arrived, _ := strings.Cut(m, "\n\n"); strings.Contains(m, "<2@sender.test>") && arrived != large {
				t.Errorf("the body of %d bytes arrived as %d", len(large), len(arrived))
			}
		}
	})
	t.Run("smtputf8", func(t *testing.T) {
		inject(t, first.address, message+"x\n", &smtp.MailOptions{UTF8: true}, "jürgen@box.test")
		if got := last.kept(t, "utf8", 1)[0]; !strings.Contains(got, "with UTF8SMTPS") {
			t.Errorf("no UTF8SMTPS in %s", got)
		}
	})
	t.Run("unknown-recipient", func(t *testing.T) {
		// Postfix refuses; Godwit writes the report, which Postfix's own words are in.
		inject(t, first.address, message+"x\n", &smtp.MailOptions{Return: smtp.DSNReturnHeaders, EnvelopeID: "env-7"}, "nobody@box.test")
		report := string(arrives(t, box, "s@sender.test").Data)
		for _, want := range []string{"Final-Recipient: rfc822; nobody@box.test", "Action: failed", "Status: 5.1.1",
			"Diagnostic-Code: smtp; 550 5.1.1", "Original-Envelope-Id: env-7", "User unknown in virtual mailbox table"} {
			if !strings.Contains(report, want) {
				t.Errorf("%q is not in the report:\n%s", want, report)
			}
		}
		bounced := events(t, dir, 1, func(e map[string]any) bool { return e["kind"] == "bounced" })
		if e := bounced[0]; e["enhanced"] != "5.1.1" || e["class"] != "smtp" || !strings.HasPrefix(fmt.Sprint(e["tls"]), "TLS") {
			t.Errorf("event %v", e)
		}
	})
}

// inject gives a message to a server by go-smtp's client, as one transaction.
func inject(t *testing.T, address, message string, o *smtp.MailOptions, to string) {
	t.Helper()
	c, err := smtp.Dial(address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = errors.Join(c.Hello("client.test"), c.Mail("s@sender.test", o), c.Rcpt(to, nil))
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write([]byte(strings.ReplaceAll(message, "\n", "\r\n")))
	if err := errors.Join(err, w.Close(), c.Quit()); err != nil {
		t.Fatal(err)
	}
}

// TestSmtpSource: Postfix's load generator injects over parallel connections,
// its sink takes everything; each message is delivered once.
func TestSmtpSource(t *testing.T) {
	paths := need(t, "smtp-source", "smtp-sink")
	keys := newKeys(t)
	to, dir := freeAddress(t), publicDir(t)
	daemon(t, dir, paths[1], "-c", "-u", "root", to, "200")
	accepts(t, to)
	e, edir := engine(t, betweenConfig, map[string]any{"Keys": keys, "To": to, "Box": to})
	const n = 300
	ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, paths[0], "-s", "10", "-m", fmt.Sprint(n), "-l", "10240", "-N",
		"-f", "s@sender.test", "-t", "load@box.test", e.Ports.SMTP[0]).CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Fatalf("smtp-source: %v\n%s", err, out)
	}
	seen := map[any]bool{}
	for _, e := range events(t, edir, n, func(e map[string]any) bool { return e["kind"] == "delivered" }) {
		seen[e["message"]] = true
	}
	if len(seen) != n {
		t.Errorf("%d different messages were delivered, not %d", len(seen), n)
	}
}
