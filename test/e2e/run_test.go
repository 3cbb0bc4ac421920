//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// run is a case that is being run.
type run struct {
	t      *testing.T
	dir    string // of the case
	tmp    string // its own, thrown away
	keys   *rig.Keys
	world  *world
	engine *rig.Engine

	vars     map[string]string
	conns    map[string]*dialogue
	response *response
	doc      any // the last JSON: a response, an event, the output of a command
	mail     *rig.Mail
	command  *finished
}

// action is what a step's first word does with the rest and the lines below.
type action struct {
	do      func(args, body string) error
	patient bool // waits until it succeeds
}

func (r *run) actions() map[string]action {
	args := func(f func(string) error) func(string, string) error {
		return func(args, _ string) error { return f(args) }
	}
	m := map[string]action{
		"send":   {do: r.send},
		"status": {do: args(r.status)}, "header": {do: args(r.headerField)}, "json": {do: args(r.jsonStep)},
		"body": {do: args(func(a string) error { return r.compare(r.response.body, a) })},
		"mail": {args(r.takeMail), true}, "sink": {args(r.sinkStep), true}, "event": {args(r.event), true},
		"log":   {args(func(a string) error { return r.compare(r.engine.Log(), a) }), true},
		"every": {args(r.every), true},
		"field": {do: args(r.field)}, "text": {do: args(r.textStep)}, "path": {do: args(r.path)}, "orcpt": {do: args(r.original)}, "dkim": {do: args(r.dkimStep)},
		"run": {do: r.command1}, "exit": {do: args(r.exit)},
		"out":    {do: args(func(a string) error { return r.compare(r.command.out, a) })},
		"err":    {do: args(func(a string) error { return r.compare(r.command.errOut, a) })},
		"signal": {do: args(r.signal)}, "exited": {do: args(r.exited)}, "start": {do: args(func(string) error { return r.engine.Restart() })},
		"config": {do: args(r.configure)}, "file": {do: r.file}, "truncate": {do: args(r.truncate)}, "events": {do: args(r.events)}, "set": {do: args(r.set)},
	}
	for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
		m[method] = action{do: func(args, body string) error { return r.request(method, args, body) }}
	}
	return m
}

// script runs steps until the first that fails.
func (r *run) script(steps []step) error {
	for _, s := range steps {
		if err := r.step(s, true); err != nil {
			return fmt.Errorf("line %d: %s: %w", s.line, shorten(s.text), err)
		}
	}
	return nil
}

// step runs one; wait is false inside a loop that does the waiting.
func (r *run) step(s step, wait bool) error {
	if len(r.engine.Ports.Pipeline) > 0 { // another one after each start
		r.vars["api"] = r.engine.Ports.Pipeline[0]
	}
	text, err := r.expand(s.text)
	if err != nil {
		return err
	}
	body, err := r.expand(s.body)
	if err != nil && s.text != "poll" {
		return err
	}
	word, rest := cut(text)
	switch word {
	case "poll":
		return r.poll(s)
	case "no":
		if r.step(step{line: s.line, text: rest, body: s.body}, false) == nil {
			return errors.New("it is so")
		}
		return nil
	}
	a, known := r.actions()[word]
	switch {
	case !known:
		return r.talk(word, rest, body)
	case a.patient && wait:
		return rig.Eventually(func() error { return a.do(rest, body) })
	}
	return a.do(rest, body)
}

// poll repeats the steps below until all of them succeed in a row.
func (r *run) poll(s step) error {
	steps, err := parseSteps(s.body, s.line+1)
	if err != nil {
		return err
	}
	return rig.Eventually(func() error {
		for _, s := range steps {
			if err := r.step(s, false); err != nil {
				return fmt.Errorf("line %d: %s: %w", s.line, s.text, err)
			}
		}
		return nil
	})
}

// set takes "NAME = TEXT".
func (r *run) set(args string) error {
	name, rest := cut(args)
	op, text := cut(rest)
	if op != "=" {
		return errors.New("set NAME = TEXT")
	}
	r.vars[name] = strings.TrimSpace(text)
	return nil
}
