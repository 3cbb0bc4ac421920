// Package config is the file format: it collects the Options of every package
// into one TOML file, with defaults, strict reading, validation, and
// documentation made from the same struct tags. Only cmd/godwit imports it.
package config

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/godwit-mta/godwit/bounce/report"
	"github.com/godwit-mta/godwit/internal/cluster"
	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/render"
	"github.com/godwit-mta/godwit/mta"
	"github.com/godwit-mta/godwit/mta/accept"
	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/mta/compose"
	"github.com/godwit-mta/godwit/mta/deliver"
	"github.com/godwit-mta/godwit/mta/dkim"
	"github.com/godwit-mta/godwit/mta/dns"
	"github.com/godwit-mta/godwit/mta/egress"
	"github.com/godwit-mta/godwit/mta/httpd"
	"github.com/godwit-mta/godwit/mta/route"
	"github.com/godwit-mta/godwit/mta/smtpd"
	"github.com/godwit-mta/godwit/pipeline"
	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/proxy/server"
	"github.com/godwit-mta/godwit/queue"
)

// File is a whole configuration.
type File struct {
	Hostname string                `toml:"hostname" doc:"Our name in greetings, EHLO, Received and Message-ID; empty takes the system's."`
	Log      LogOptions            `toml:"log" doc:"The program's own log, on standard error."`
	Ops      OpsOptions            `toml:"ops" doc:"HTTP listener for operators: /metrics, /healthz, /readyz, /debug/."`
	SMTP     smtpd.Options         `toml:"smtp" doc:"SMTP injection."`
	HTTP     httpd.Options         `toml:"http" doc:"HTTP injection."`
	Admin    adminapi.Options      `toml:"admin" doc:"Admin API, used by godwit queue and its like."`
	Accept   accept.Options        `toml:"accept" doc:"What is accepted, however it comes in."`
	Queue    queue.Options         `toml:"queue" doc:"The queue and its volume."`
	DNS      dns.Options           `toml:"dns" doc:"The resolver."`
	Route    route.Options         `toml:"route" doc:"Where messages go."`
	Deliver  deliver.Options       `toml:"deliver" doc:"SMTP sessions to mail exchangers."`
	Throttle egress.Throttle       `toml:"throttle" doc:"Limits per source and provider: rule packs and files, and the cluster's part in them."`
	Egress   proxy.Options         `toml:"egress" doc:"Sending sources, pools of them, and the proxies that have them."`
	Cluster  cluster.Options       `toml:"cluster" doc:"The other nodes."`
	Proxy    server.Options        `toml:"proxy" doc:"What godwit proxy runs: sending addresses of this host, for other nodes."`
	DKIM     dkim.Options          `toml:"dkim" doc:"DKIM signatures."`
	Compose  compose.Options       `toml:"compose" doc:"Making the bytes that go out."`
	Render   render.Options        `toml:"render" doc:"Bounds on templates."`
	Report   report.Options        `toml:"report" doc:"Delivery reports (DSN)."`
	Pipeline pipeline.Options      `toml:"pipeline" doc:"The customer side: events, profiles, counts."`
	Events   event.FileSinkOptions `toml:"events_file" doc:"File that events are written to, one JSON object a line."`

	digest string
}

// LogOptions are about the program's own log.
type LogOptions struct {
	Level  string `toml:"level" doc:"debug, info, warn or error."`
	Format string `toml:"format" doc:"text or json."`
}

// OpsOptions are about the operators' listener.
type OpsOptions struct {
	Listen string `toml:"listen" doc:"Address of the listener; it has no authentication, so keep it private. Empty turns it off."`
}

// Defaults returns a File with every default set.
func Defaults() *File {
	return &File{
		Log: LogOptions{Level: "info", Format: "text"}, Ops: OpsOptions{Listen: "127.0.0.1:9025"},
		SMTP: smtpd.DefaultOptions(), HTTP: httpd.DefaultOptions(), Admin: adminapi.DefaultOptions(),
		Accept: accept.DefaultOptions(), Queue: queue.DefaultOptions(), DNS: dns.DefaultOptions(),
		Route: route.DefaultOptions(), Deliver: deliver.DefaultOptions(), DKIM: dkim.DefaultOptions(),
		Throttle: egress.DefaultThrottle(), Egress: proxy.DefaultOptions(), Cluster: cluster.DefaultOptions(), Proxy: server.DefaultOptions(),
		Compose: compose.DefaultOptions(), Report: report.DefaultOptions(), Render: render.DefaultOptions(), Events: event.DefaultFileSinkOptions(), Pipeline: pipeline.DefaultOptions(),
	}
}

// section is one part that checks itself.
type section struct {
	name     string
	validate func() error
}

func (f *File) sections() []section {
	return []section{
		{"", f.validateTop},
		{"smtp", f.SMTP.Validate}, {"http", f.HTTP.Validate}, {"admin", f.Admin.Validate},
		{"accept", f.Accept.Validate}, {"queue", f.Queue.Validate}, {"dns", f.DNS.Validate},
		{"route", f.Route.Validate}, {"deliver", f.Deliver.Validate}, {"throttle", f.Throttle.Validate},
		{"egress", f.Egress.Validate}, {"cluster", f.Cluster.Validate}, {"proxy", f.Proxy.Validate}, {"dkim", f.DKIM.Validate},
		{"compose", f.Compose.Validate}, {"render", f.Render.Validate}, {"report", f.Report.Validate}, {"events_file", f.Events.Validate}, {"pipeline", f.Pipeline.Validate},
	}
}

func (f *File) validateTop() error {
	switch f.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		return fmt.Errorf("log.level: %q is not debug, info, warn or error", f.Log.Level)
	}
	if f.Log.Format != "text" && f.Log.Format != "json" {
		return fmt.Errorf("log.format: %q is not text or json", f.Log.Format)
	}
	if f.SMTP.MaxSize > f.Accept.MaxSize {
		return fmt.Errorf("smtp.max_size: %s is announced but accept.max_size takes %s at most", f.SMTP.MaxSize, f.Accept.MaxSize)
	}
	if f.Pipeline.Enabled() && f.Pipeline.Peers.Enabled() && !f.Cluster.Enabled() {
		return errors.New("pipeline.peers.listen: needs the section [cluster], by which the nodes know each other")
	}
	return nil
}

// Digest names the exact text of the file, to compare nodes by.
func (f *File) Digest() string { return f.digest }

// Name is the hostname to use.
func (f *File) Name() (string, error) {
	if f.Hostname != "" {
		return strings.ToLower(f.Hostname), nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("hostname: not set and the system has none: %w", err)
	}
	return strings.ToLower(name), nil
}

// Engine collects what the engine is built from.
func (f *File) Engine() (mta.Options, error) {
	name, err := f.Name()
	return mta.Options{
		Hostname: name, SMTP: f.SMTP, HTTP: f.HTTP, Accept: f.Accept, Queue: f.Queue, DNS: f.DNS, Route: f.Route,
		Deliver: f.Deliver, DKIM: f.DKIM, Cluster: f.Cluster, Egress: f.Egress, Throttle: f.Throttle, Compose: f.Compose, Report: f.Report, Render: f.Render, Events: f.Events,
	}, err
}
