package main

import "context"

// benchCase is one measurement.
type benchCase struct {
	name    string
	about   string
	run     func(b *bench, ctx context.Context) error
	round1  bool // only in the first round: it takes minutes and hardly varies
	postfix bool
}

// The suites: each is a command of its own.
const (
	suiteRelay  = "relay"
	suiteEgress = "egress"
)

// cases lists those of a suite in the order of a round.
func cases(suite string) []benchCase {
	switch suite {
	case suiteEgress:
		return egressCases()
	case suitePipeline:
		return pipelineCases()
	}
	return relayCases()
}

// relayCases are the delivery engine's. Those whose quotient is a figure stand
// next to each other.
func relayCases() []benchCase {
	return []benchCase{
		{name: "floor", about: "source straight into the sink", run: (*bench).floor},
		{name: "plain", about: "accepted and delivered, unsigned", run: (*bench).plain},
		{name: "dkim", about: "the same, signed", run: (*bench).dkim},
		{name: "postfix", about: "the same by Postfix", run: (*bench).postfixPlain, postfix: true},
		{name: "postfix_dkim", about: "the same, signed by opendkim", run: (*bench).postfixDKIM, postfix: true},
		{name: "smtp_source", about: "unsigned, from smtp-source", run: (*bench).sourcePlain},
		{name: "smtp_source_dkim", about: "signed, from smtp-source", run: (*bench).sourceDKIM},
		{name: "floor_100", about: "floor with 100 connections", run: (*bench).floor100},
		{name: "plain_100", about: "plain with 100 connections", run: (*bench).plain100},
		{name: "postfix_100", about: "Postfix with 100 connections", run: (*bench).postfix100, postfix: true},
		{name: "accept", about: "accept alone, delivery suspended", run: (*bench).accept},
		{name: "fsyncs_1", about: "one connection", run: (*bench).one},
		{name: "fsyncs_200", about: "200 connections", run: (*bench).many},
		{name: "latency", about: "one message at a time", run: (*bench).latency},
		{name: "http_batch", about: "100,000 recipients of one body", run: (*bench).batch},
		{name: "scheduled", about: "a million scheduled messages and a restart", run: (*bench).scheduled},
		{name: "uploads", about: "200 uploads of 50 MB at a time", run: (*bench).uploads, round1: true},
		{name: "scheduled_cgroup", about: "the million in 512 MiB", run: (*bench).scheduledCgroup, round1: true},
	}
}

func caseNames(suite string) []string {
	var names []string
	for _, c := range cases(suite) {
		names = append(names, c.name)
	}
	return names
}
