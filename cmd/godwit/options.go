package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/pelletier/go-toml/v2"
)

// readOptions reads a TOML file into o, which holds the defaults. An unknown
// key is an error, and every error names its line.
func readOptions(path string, o any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return usageError{err}
	}
	d := toml.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err = d.Decode(o)
	var unknown *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case errors.As(err, &unknown) && len(unknown.Errors) > 0:
		line, column := unknown.Errors[0].Position()
		return usageError{fmt.Errorf("%s:%d:%d: unknown key %v; `--help` lists what can be set", path, line, column, unknown.Errors[0].Key())}
	case errors.As(err, &bad):
		line, column := bad.Position()
		return usageError{fmt.Errorf("%s:%d:%d: %w", path, line, column, err)}
	case err != nil:
		return usageError{fmt.Errorf("%s: %w", path, err)}
	}
	return nil
}

// set takes a flag over, if it was given: flags win over the file.
func set[T any](to *T, flag *T) {
	if flag != nil {
		*to = *flag
	}
}

// writeJSONFile writes v so that the file appears whole.
func writeJSONFile(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".tmp", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
