package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

type versionCmd struct{}

// Run prints the version and what it was built with.
func (versionCmd) Run(e *env) error {
	_, err := fmt.Fprintf(e.out, "godwit %s (%s, %s/%s)\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// version is the module's version, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "dev-" + s.Value[:12]
		}
	}
	return "dev"
}

// ports is what --ports writes.
type ports struct {
	SMTP     []string `json:"smtp"`
	HTTP     []string `json:"http"`
	Admin    []string `json:"admin"`
	Ops      string   `json:"ops"`
	PID      int      `json:"pid"`
	Pipeline []string `json:"pipeline,omitempty"`
}

// writePorts tells which addresses were bound, for whoever configured port 0.
// The file appears whole.
func (s *server) writePorts(path string) error {
	p := ports{Ops: s.ops.Addr(), PID: os.Getpid()}
	for _, a := range s.engine.SMTP().Addrs() {
		p.SMTP = append(p.SMTP, a.String())
	}
	for _, a := range s.engine.HTTP().Addrs() {
		p.HTTP = append(p.HTTP, a.String())
	}
	for _, a := range s.admin.Addrs() {
		p.Admin = append(p.Admin, a.String())
	}
	if s.pipe != nil {
		for _, a := range s.pipe.Addrs() {
			p.Pipeline = append(p.Pipeline, a.String())
		}
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".tmp", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
