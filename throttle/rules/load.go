package rules

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/godwit-mta/godwit/throttle/providers"
)

// AllPacks in a list of packs stands for every shipped one.
const AllPacks = "all"

// maxFile bounds a rule file in bytes.
const maxFile = 8 << 20

// Options is what a configuration file can set.
type Options struct {
	Packs []string `toml:"packs" doc:"shipped provider packs to use, by name; all stands for every one"`
	Files []string `toml:"files" doc:"rule files of your own, in TOML; a later one overrides an earlier one and the packs, value by value"`
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options { return Options{Packs: []string{AllPacks}} }

// Validate loads everything; the error begins with the key and names file, line, rule and reason.
func (o Options) Validate() error {
	_, err := Load(o.Packs, o.Files)
	if err == nil {
		return nil
	}
	var key *optionError
	if errors.As(err, &key) {
		return key
	}
	var first *Error
	if errors.As(err, &first) {
		if i := slices.Index(o.Files, first.File); i >= 0 {
			return fmt.Errorf("files[%d]: %w", i, err)
		}
	}
	return fmt.Errorf("packs: %w", err)
}

// optionError is a mistake in the options themselves.
type optionError struct {
	key string
	err error
}

func (e *optionError) Error() string { return e.key + ": " + e.err.Error() }

func (e *optionError) Unwrap() error { return e.err }

// Load reads packs by name and then files by path. The error joins every
// mistake found, each an *Error with its place.
func Load(packs, files []string) (*Set, error) {
	texts, err := Read(packs, files)
	if err != nil {
		return nil, err
	}
	return Parse(texts...)
}

// Read is the first half of Load: it reads the texts. A reload that keeps them tells by their bytes what changed.
func Read(packs, files []string) ([]Text, error) {
	var texts []Text
	add := func(name string) error {
		data, err := providers.Read(name)
		if err == nil && !slices.ContainsFunc(texts, func(t Text) bool { return t.Name == name+".toml" }) {
			texts = append(texts, Text{Name: name + ".toml", Builtin: true, Data: data})
		}
		return err
	}
	for i, p := range packs {
		if p == AllPacks {
			for _, name := range providers.Names() {
				if err := add(name); err != nil {
					return nil, err
				}
			}
			continue
		}
		if err := add(p); err != nil {
			return nil, &optionError{fmt.Sprintf("packs[%d]", i),
				fmt.Errorf("there is no pack %q; the packs are %s", p, strings.Join(providers.Names(), ", "))}
		}
	}
	for i, path := range files {
		if slices.Contains(files[:i], path) {
			return nil, &optionError{fmt.Sprintf("files[%d]", i), fmt.Errorf("%s is there twice", path)}
		}
		data, err := os.ReadFile(path)
		if err == nil && len(data) > maxFile {
			err = fmt.Errorf("%s is longer than %d bytes", path, maxFile)
		}
		if err != nil {
			return nil, &optionError{fmt.Sprintf("files[%d]", i), err}
		}
		texts = append(texts, Text{Name: path, Data: data})
	}
	return texts, nil
}

// Parse makes a set of texts that have been read; later ones override earlier ones.
func Parse(texts ...Text) (*Set, error) {
	var bad problems
	c := newCompiler(&bad)
	for _, t := range texts {
		s, err := decode(t)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		c.take(s)
	}
	if len(bad) > 0 {
		return nil, bad.err()
	}
	set := c.finish()
	if len(bad) > 0 {
		return nil, bad.err()
	}
	set.digest = digestOf(texts)
	return set, nil
}
