package main

// The egress benchmark: limits at the provider, with nodes and proxies that
// are killed, and what sources and proxies cost.
//
//	limit_R, haproxy_R   three nodes and two proxies on loopback, demand always above
//	                     the limit of R messages a second and source; one node and one
//	                     proxy are killed and come back. The provider's own record is the judge.
//	relay_direct, relay_proxy   the plain relay benchmark, and the same through a proxy
//	sites                a queue for a hundred thousand sites, some of which swallow connects
//	fairness             a tenant behind another one's million messages

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// limitRates are the rates, in messages a second and source, at which limits are measured.
func limitRates() []int { return []int{10, 100, 1000} }

// egressOptions are the command line's for this suite.
type egressOptions struct {
	limitFor float64 // seconds that a limit is watched
	level    string  // of logs
	haproxy  string
	sites    int
	backlog  int
}

func (o *egressOptions) flags(f *flag.FlagSet) {
	f.Float64Var(&o.limitFor, "seconds", 120, "how long each limit is watched, in seconds")
	f.IntVar(&o.sites, "sites", 100_000, "sites of the case sites")
	f.IntVar(&o.backlog, "backlog", 1_000_000, "messages of the first tenant of the case fairness")
	f.StringVar(&o.haproxy, "haproxy", "/usr/sbin/haproxy", "HAProxy; its cases are skipped where it is missing")
	f.StringVar(&o.level, "log", "warn", "level of the logs: debug, info, warn")
}

// quick shortens everything.
func (o *egressOptions) quick() { o.limitFor, o.sites, o.backlog = 20, 10_000, 100_000 }

func (o *egressOptions) check(suite string) error {
	if suite != suiteEgress {
		return nil
	}
	if o.limitFor < 15 {
		return fmt.Errorf("a limit must be watched for 15 s at least: 10 of them are around the kills")
	}
	if o.sites < 1000 || o.backlog < 10_000 {
		return fmt.Errorf("at least 1000 sites and a backlog of 10000 are needed")
	}
	return nil
}

func (o *egressOptions) limitTime() time.Duration {
	return time.Duration(o.limitFor * float64(time.Second))
}

// egressCases are this suite's, in the order of a round.
func egressCases() []benchCase {
	list := []benchCase{
		{name: "relay_direct", about: "accepted and delivered, no proxy", run: (*bench).relayDirect},
		{name: "relay_proxy", about: "the same through one proxy", run: (*bench).relayProxy},
	}
	for _, kind := range []string{kindGodwit, kindHAProxy} {
		for _, r := range limitRates() {
			name := map[string]string{kindGodwit: "limit_", kindHAProxy: "haproxy_"}[kind] + strconv.Itoa(r)
			list = append(list, benchCase{name: name, round1: true, about: fmt.Sprintf("%d messages a second and source, three nodes, two %s proxies", r, kind),
				run: func(b *bench, ctx context.Context) error { return b.limit(ctx, name, kind, r) }})
		}
	}
	return append(list,
		benchCase{name: "sites", round1: true, about: "many sites, 5 % of which swallow connects", run: (*bench).sites},
		benchCase{name: "fairness", round1: true, about: "a hundred messages behind another tenant's backlog", run: (*bench).fairness})
}

// egressFigures are this suite's, in order.
func egressFigures() []figure {
	var list []figure
	for _, prefix := range []string{"egress.limit.", "egress.haproxy."} {
		for _, r := range limitRates() {
			p := prefix + strconv.Itoa(r)
			list = append(list, figure{p + ".overshoot_1s", "ratio", "<= 1"}, figure{p + ".overshoot_10s", "ratio", "<= 1"},
				figure{p + ".use", "ratio", ">= 0.95"}, figure{p + ".conns", "ratio", "<= 1"})
		}
	}
	return append(list,
		figure{"egress.proxy_ratio", "ratio", ">= 0.80"},
		figure{"egress.sites_100k.anon", "MiB", "< 1024"},
		figure{"egress.sites_100k.urgent", "s", "<= 1"},
		figure{"egress.fairness.p99_ratio", "ratio", "<= 3"},
		// What the figures above are held against.
		figure{"egress.relay_direct", "msg/s", ""},
		figure{"egress.relay_proxy", "msg/s", ""},
		figure{"egress.relay_proxy.cpu_us_per_msg", "us", ""},
		figure{"egress.sites_100k.proxy_anon", "MiB", ""},
		figure{"egress.fairness.p99_empty", "s", ""},
		figure{"egress.fairness.p99_full", "s", ""},
	)
}

// haproxyMissing tells why HAProxy cannot be used, "" if it can.
func (b *bench) haproxyMissing() string {
	if _, err := os.Stat(b.o.haproxy); err != nil {
		return "HAProxy is not installed: " + strings.TrimPrefix(err.Error(), "stat ")
	}
	return ""
}
