// Command bench measures the program from outside, as its neighbours see it.
//
//	go run ./test/bench relay -godwit bin/godwit
//	go run ./test/bench egress -godwit bin/godwit
//	go run ./test/bench pipeline -godwit bin/godwit
//
// egress is the benchmark of limits and sending addresses (egress.go tells more). relay is the delivery engine's benchmark. Source, engine and sink are three
// processes: the engine is `godwit serve` with a generated configuration, the
// sink is internal/sink and the source is internal/load, each in a process
// that this program makes by running itself (child.go), or Postfix's
// smtp-source where its CPU is the yardstick. Everything is on loopback.
//
// A case (cases.go) is one measurement, with a fresh engine on a fresh spool.
// A round runs every case once, so that variants to be compared are measured
// within minutes of each other: the speed of a virtual machine drifts. Ratios
// are taken inside a round. The last lines of the output are the medians over
// all rounds:
//
//	BENCH name value unit
//
// A figure that misses its bar is not a failure of this program. A lost
// message or a wrong count is: then that run has no figures and the exit code
// is 1. docs/BENCHMARKS.md tells what each figure means.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Exit codes.
const (
	exitOK      = 0
	exitInvalid = 1 // a run lost a message, counted wrong or could not be done
	exitUsage   = 2
)

// options are the command line's.
type options struct {
	suite   string
	godwit  string
	dir     string
	profile string
	only    []string
	rounds  int
	load    time.Duration
	messages
	quick   bool
	keep    bool
	postfix bool
	egressOptions
	pipelineOptions
}

// messages are how many the cases of fixed size inject.
type messages struct {
	scheduled int // scheduled for later
	batch     int // recipients of one body
	alone     int // one at a time
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	var err error
	switch name {
	case suiteRelay, suiteEgress, suitePipeline:
		o, perr := parse(name, args[1:], errOut)
		if perr != nil {
			return exitUsage
		}
		err = measure(ctx, o, out)
	case childSink:
		err = sinkMain(ctx, in, out)
	case childLoad:
		err = loadMain(ctx, in, out)
	case childCrowd:
		err = crowdMain(ctx, in, out)
	default:
		fmt.Fprintln(errOut, "usage: bench relay|egress|pipeline [flags]; bench egress -h lists them")
		return exitUsage
	}
	if err != nil {
		fmt.Fprintln(errOut, "bench:", err)
		return exitInvalid
	}
	return exitOK
}

func parse(suite string, args []string, errOut io.Writer) (*options, error) {
	o := &options{suite: suite, messages: messages{scheduled: 1_000_000, batch: 100_000, alone: 1000}}
	f := flag.NewFlagSet("bench "+suite, flag.ContinueOnError)
	f.SetOutput(errOut)
	only := f.String("only", "", "comma-separated cases to run, of: "+strings.Join(caseNames(suite), " "))
	inject := f.Float64(map[string]string{suiteRelay: "seconds", suiteEgress: "flow-seconds", suitePipeline: "seconds"}[suite], 30, "how long a source injects, in seconds")
	f.StringVar(&o.godwit, "godwit", "bin/godwit", "the program to measure")
	f.StringVar(&o.dir, "dir", "", "folder for spools, on a real disk; the default is a new one under the present folder's bin")
	f.StringVar(&o.profile, "profile", "", "folder to save CPU profiles of the engine in; their tops are printed")
	f.IntVar(&o.rounds, "rounds", 3, "rounds; figures are medians over them")
	f.BoolVar(&o.quick, "quick", false, "for development: one round of 5 s, a tenth of the messages")
	f.BoolVar(&o.keep, "keep", false, "keep the working folder: configurations, logs, state, the provider's records")
	switch suite {
	case suiteEgress:
		o.egressOptions.flags(f)
	case suitePipeline:
		o.pipelineOptions.flags(f)
	default:
		f.BoolVar(&o.postfix, "postfix", true, "also measure Postfix where it is installed and we are root")
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if o.quick {
		o.rounds, *inject = 1, 5
		o.messages = messages{scheduled: 100_000, batch: 100_000, alone: 100}
		o.egressOptions.quick()
		o.pipelineOptions.quick()
	}
	o.load = time.Duration(*inject * float64(time.Second))
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	if err := o.check(); err != nil {
		fmt.Fprintln(errOut, "bench:", err)
		return nil, err
	}
	return o, nil
}

func (o *options) check() error {
	known := strings.Join(caseNames(o.suite), " ")
	for _, name := range o.only {
		if !strings.Contains(" "+known+" ", " "+name+" ") {
			return fmt.Errorf("no case %q; the cases are: %s", name, known)
		}
	}
	if o.rounds < 1 || o.load < time.Second {
		return errors.New("at least one round and one second are needed")
	}
	if err := o.egressOptions.check(o.suite); err != nil {
		return err
	}
	path, err := filepath.Abs(o.godwit)
	if err != nil {
		return err
	}
	o.godwit = path
	_, err = os.Stat(path)
	return err
}
