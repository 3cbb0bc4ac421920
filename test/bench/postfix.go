package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func (b *bench) postfixPlain(ctx context.Context) error {
	return b.postfix(ctx, "relay.postfix", 20, false)
}

func (b *bench) postfixDKIM(ctx context.Context) error {
	return b.postfix(ctx, "relay.postfix_dkim", 20, true)
}

func (b *bench) postfix100(ctx context.Context) error {
	return b.postfix(ctx, "relay.postfix_100", 100, false)
}

// postfix measures a private instance of Postfix between the same source and
// the same sink: it accepts, syncs, and relays everything to the sink. It is
// skipped where Postfix, or for signatures opendkim, is missing.
func (b *bench) postfix(ctx context.Context, figure string, connections int, dkim bool) (err error) {
	if reason := postfixMissing(dkim); reason != "" {
		b.say("    skipped: %s", reason)
		return nil
	}
	// Postfix's own users must be able to look into the folder.
	dir, err := os.MkdirTemp(filepath.Dir(b.dir), "postfix-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := startSink(ctx, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	milter := ""
	if dkim {
		m, stop, err := b.startOpenDKIM(ctx, dir)
		if err != nil {
			return err
		}
		defer stop()
		milter = m
	}
	target, stop, err := startPostfix(ctx, dir, s.Port, milter)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return b.throughPostfix(ctx, figure, connections, target, s)
}

func (b *bench) throughPostfix(ctx context.Context, figure string, connections int, target string, s *sinkProcess) error {
	syscall.Sync()
	r, first, err := b.inject(ctx, flow{connections: connections}, target)
	if err != nil {
		return err
	}
	st, err := s.waitFor(ctx, r.messages, patience)
	if err != nil {
		return err
	}
	if st.Total.Accepted != r.messages {
		return fmt.Errorf("the source has %d acknowledged, the sink %d", r.messages, st.Total.Accepted)
	}
	rate := float64(st.Total.Accepted) / st.Total.LastAccept.Sub(first).Seconds()
	b.say("    %d messages, %.0f/s", r.messages, rate)
	b.set(figure, rate)
	return nil
}

// postfixMissing tells why Postfix cannot be measured, "" if it can.
func postfixMissing(dkim bool) string {
	if os.Geteuid() != 0 {
		return "Postfix must be started by root"
	}
	for _, path := range []string{"/usr/sbin/postfix", "/usr/lib/postfix/sbin/master"} {
		if _, err := os.Stat(path); err != nil {
			return "Postfix is not installed"
		}
	}
	if _, err := os.Stat("/usr/sbin/opendkim"); dkim && err != nil {
		return "opendkim is not installed"
	}
	return ""
}

// mainCF is a relay for throughput: no lookups, no limits that the load
// reaches, deliveries cached and as concurrent as Postfix's defaults for a
// single next hop never are.
const mainCF = `compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = %[1]s/maillog
maillog_file_prefixes = %[1]s
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = postfix.bench.test
mydestination =
mynetworks = 127.0.0.0/8
local_recipient_maps =
alias_maps =
relayhost = [127.0.0.1]:%[2]d
disable_dns_lookups = yes
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtpd_recipient_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_message_rate_limit = 0
default_process_limit = 250
default_destination_concurrency_limit = 100
initial_destination_concurrency = 50
smtp_connection_cache_on_demand = yes
smtp_connection_cache_destinations = [127.0.0.1]:%[2]d
smtp_connection_reuse_time_limit = 300s
qmgr_message_active_limit = 100000
qmgr_message_recipient_limit = 100000
in_flow_delay = 0
enable_long_queue_ids = yes
%[3]s`

const masterCF = `127.0.0.1:%d inet n - n - - smtpd
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
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

// startPostfix starts the instance and returns its address and what ends it.
func startPostfix(ctx context.Context, dir string, sink int, milter string) (target string, stop func() error, err error) {
	port, err := freePort()
	if err != nil {
		return "", nil, err
	}
	extra := ""
	if milter != "" {
		extra = "smtpd_milters = inet:" + milter + "\n"
	}
	conf := filepath.Join(dir, "etc")
	for _, d := range []string{conf, filepath.Join(dir, "queue"), filepath.Join(dir, "data")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", nil, err
		}
	}
	if err := errors.Join(os.Chmod(dir, 0o755), own(filepath.Join(dir, "data"), "postfix")); err != nil {
		return "", nil, err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(conf, "main.cf"), fmt.Appendf(nil, mainCF, dir, sink, extra), 0o644),
		os.WriteFile(filepath.Join(conf, "master.cf"), fmt.Appendf(nil, masterCF, port), 0o644))
	if err != nil {
		return "", nil, err
	}
	if out, err := exec.CommandContext(ctx, "/usr/sbin/postfix", "-c", conf, "start").CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("postfix start: %w: %s", err, tail(string(out)))
	}
	stop = func() error {
		// A fresh context: the instance must end though the run was interrupted.
		out, err := exec.Command("/usr/sbin/postfix", "-c", conf, "stop").CombinedOutput()
		if err != nil {
			return fmt.Errorf("postfix stop: %w: %s", err, tail(string(out)))
		}
		return nil
	}
	target = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if err := waitListening(ctx, target); err != nil {
		return "", nil, errors.Join(fmt.Errorf("postfix: %w", err), stop())
	}
	return target, stop, nil
}

// startOpenDKIM starts a milter that signs with the same key as the engine.
func (b *bench) startOpenDKIM(ctx context.Context, dir string) (address string, stop func(), err error) {
	port, err := freePort()
	if err != nil {
		return "", nil, err
	}
	conf := filepath.Join(dir, "opendkim.conf")
	text := fmt.Sprintf("Domain source.test\nSelector bench\nKeyFile %s\nMode s\nCanonicalization relaxed/relaxed\nSocket inet:%d@127.0.0.1\n"+
		"Syslog no\nOversignHeaders From\nInternalHosts 127.0.0.0/8\nPidFile %s\n", b.key, port, filepath.Join(dir, "opendkim.pid"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, "/usr/sbin/opendkim", "-f", "-x", conf)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it says how it was ended
	}
	address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if err := waitListening(ctx, address); err != nil {
		stop()
		return "", nil, fmt.Errorf("opendkim: %w: %s", err, tail(log.String()))
	}
	return fmt.Sprintf("127.0.0.1:%d", port), stop, nil
}

// own gives a folder to a user.
func own(path, name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	return os.Chown(path, uid, -1)
}

// freePort finds a port for a program that cannot choose one itself.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}

func waitListening(ctx context.Context, target string) error {
	var last error
	for range 500 {
		c, err := net.DialTimeout("tcp", target, time.Second)
		if err == nil {
			return c.Close()
		}
		last = err
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return last
}
