package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// bench is one invocation.
type bench struct {
	o     *options
	out   io.Writer
	dir   string // spools and configurations, removed at the end
	key   string // PEM file of the DKIM key
	round int
	board *board
	// rate is what the last run of a kind delivered per second, by which the
	// next one that counts messages instead of seconds is sized.
	rate map[string]float64
}

// measure runs all rounds of a suite and prints the figures.
func measure(ctx context.Context, o *options, out io.Writer) (err error) {
	b := &bench{o: o, out: out, board: newBoard(), rate: map[string]float64{}}
	if err := b.prepare(); err != nil {
		return err
	}
	defer func() {
		if o.keep {
			b.say("kept: %s", b.dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(b.dir))
	}()
	if err := b.describe(); err != nil {
		return err
	}
	var invalid error
	for b.round = 1; b.round <= o.rounds; b.round++ {
		if err := b.runRound(ctx); err != nil {
			invalid = errors.Join(invalid, err)
		}
		b.board.ratios()
		b.board.endRound()
		if ctx.Err() != nil {
			return errors.Join(invalid, ctx.Err())
		}
	}
	b.board.print(out)
	return invalid
}

// runRound runs each case once. An invalid run is reported and does not stop the others.
func (b *bench) runRound(ctx context.Context) error {
	var invalid error
	for _, c := range cases(b.o.suite) {
		if !b.wants(c) || ctx.Err() != nil {
			continue
		}
		began := time.Now()
		before, _ := readHost() // for people only
		b.say("--- round %d/%d  %s: %s", b.round, b.o.rounds, c.name, c.about)
		if err := c.run(b, ctx); err != nil {
			err = fmt.Errorf("round %d, %s: %w", b.round, c.name, err)
			b.say("INVALID: %v", err)
			invalid = errors.Join(invalid, err)
			continue
		}
		after, _ := readHost()
		_, steal := disturbance(before, after, 0)
		b.say("    (%.1f s; other machines had %.0f%% of the CPUs)", time.Since(began).Seconds(), steal)
	}
	return invalid
}

// wants reports whether a case is to be run.
func (b *bench) wants(c benchCase) bool {
	if c.round1 && b.round > 1 {
		return false
	}
	if c.postfix && !b.o.postfix {
		return false
	}
	if len(b.o.only) == 0 {
		return true
	}
	for _, name := range b.o.only {
		if name == c.name {
			return true
		}
	}
	return false
}

// prepare makes the working folder and the DKIM key.
func (b *bench) prepare() error {
	parent := b.o.dir
	if parent == "" {
		parent = "bin"
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	parent, err := filepath.Abs(parent)
	if err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(parent, "bench-"); err != nil {
		return err
	}
	if b.o.profile != "" {
		if err := os.MkdirAll(b.o.profile, 0o755); err != nil {
			return err
		}
	}
	b.key = filepath.Join(b.dir, "dkim.pem")
	return writeKey(b.key)
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.out, format+"\n", args...)
}

// set records a figure of this round.
func (b *bench) set(name string, value float64) { b.board.set(name, value) }
