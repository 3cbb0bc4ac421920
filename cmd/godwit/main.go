// Command godwit is the whole delivery platform in one program. This package
// parses flags, loads the configuration, wires, starts, and stops in reverse.
// It has a file per command, which makes it larger in files than other packages.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// Exit codes, also in docs/CLI.md.
const (
	exitOK     = 0
	exitFailed = 1 // the work could not be done
	exitUsage  = 2 // bad flags, or a configuration that cannot be used
)

// cli is every command.
type cli struct {
	Serve      serveCmd      `cmd:"" help:"Run the server with every role." group:"Server"`
	Proxy      proxyCmd      `cmd:"" help:"Run a proxy of sending addresses, or configure a foreign one." group:"Server"`
	Demo       demoCmd       `cmd:"" help:"Run sink, engine and load for half a minute and reconcile their books." group:"Server"`
	Reload     reloadCmd     `cmd:"" help:"Make a running server read its configuration again." group:"Server"`
	Config     configCmd     `cmd:"" help:"Check or print configuration." group:"Server"`
	Queue      queueCmd      `cmd:"" help:"Look at and act on the queue of a running server." group:"Operation"`
	Explain    explainCmd    `cmd:"" help:"Tell how mail goes, and why it does not." group:"Operation"`
	Throttles  throttlesCmd  `cmd:"" help:"Look at limits; suspend, slow and lift." group:"Operation"`
	Pools      poolsCmd      `cmd:"" help:"List pools, sources and proxies with their health." group:"Operation"`
	Cluster    clusterCmd    `cmd:"" help:"List the members of the cluster, or make its key." group:"Operation"`
	Import     importCmd     `cmd:"" help:"Import events and profiles, or translate the configuration of another mail server." group:"Operation"`
	Pipeline   pipelineCmd   `cmd:"" help:"Look at and act on the consumers of events." group:"Operation"`
	SQL        sqlCmd        `cmd:"" name:"sql" help:"Ask the warehouse of a running server." group:"Operation"`
	DKIM       dkimCmd       `cmd:"" name:"dkim" help:"Make DKIM keys." group:"Operation"`
	Sink       sinkCmd       `cmd:"" help:"Play the mailbox providers: a simulator with its own DNS server." group:"Testing"`
	Load       loadGroup     `cmd:"" help:"Inject mail, or send events, at a given rate and keep the books." group:"Testing"`
	Completion completionCmd `cmd:"" help:"Print a completion script for a shell." group:"Other"`
	Version    versionCmd    `cmd:"" help:"Print the version." group:"Other"`
}

// env is what commands work with; tests give their own.
type env struct {
	ctx    context.Context
	out    io.Writer
	errOut io.Writer
	model  *kong.Application
}

// usageError is a mistake of the caller: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run parses and executes one command line and returns the exit code.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("godwit"),
		kong.Description("Accepts mail, keeps it durably, signs it, delivers it, and accounts for every attempt."),
		kong.UsageOnError(), kong.Writers(out, errOut), kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}))
	if err != nil {
		fmt.Fprintln(errOut, "godwit:", err)
		return exitFailed
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	kctx, err := parser.Parse(args)
	if exited >= 0 {
		return exited // --help
	}
	if err != nil {
		fmt.Fprintf(errOut, "godwit: %v\nRun `godwit --help` or `godwit COMMAND --help` for usage and examples.\n", err)
		return exitUsage
	}
	e := &env{ctx: ctx, out: out, errOut: errOut, model: parser.Model}
	err = kctx.Run(e)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, new(usageError)):
		fmt.Fprintln(errOut, "godwit:", err)
		return exitUsage
	}
	fmt.Fprintln(errOut, "godwit:", err)
	return exitFailed
}
