package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Error is a mistake in a configuration file.
type Error struct {
	File         string
	Line, Column int // from 1; 0: not known
	Key          string
	Message      string
	Hint         string // what to write instead, "" if nothing comes close
}

// Error prints file:line:column, the key, what is wrong and the hint.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Message)
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// Load reads, checks and completes a file. The error joins every mistake
// found, each an *Error with its place.
func Load(path string) (*File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w; `godwit config defaults` prints a complete file to start from", err)
	}
	return Parse(path, text)
}

// Parse is Load for text that has been read already; path is for messages.
func Parse(path string, text []byte) (*File, error) {
	f := Defaults()
	d := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := d.Decode(f); err != nil {
		return nil, decodeError(path, err)
	}
	if err := f.validate(path, text); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	f.digest = hex.EncodeToString(sum[:8])
	return f, nil
}

// decodeError turns the decoder's errors into ours.
func decodeError(path string, err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		known := knownKeys()
		var list []error
		for i := range strict.Errors {
			e := &strict.Errors[i]
			line, column := e.Position()
			key := strings.Join(e.Key(), ".")
			list = append(list, &Error{File: path, Line: line, Column: column, Key: key,
				Message: "unknown key", Hint: nearest(key, known)})
		}
		return errors.Join(list...)
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		line, column := bad.Position()
		return &Error{File: path, Line: line, Column: column, Key: strings.Join(bad.Key(), "."),
			Message: strings.TrimPrefix(bad.Error(), "toml: ")}
	}
	return &Error{File: path, Message: strings.TrimPrefix(err.Error(), "toml: ")}
}

// nearest suggests the known key that is fewest edits away, "" if all are far.
func nearest(key string, known []string) string {
	best, distance := "", len(key)/2+2
	for _, k := range known {
		d := edits(key, k)
		if leaf := edits(lastPart(key), lastPart(k)) + 1; lastPart(k) != "" && leaf < d && parent(k) == parent(key) {
			d = leaf
		}
		if d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return "`godwit config defaults` lists every key"
	}
	return "did you mean " + best + "?"
}

func lastPart(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

func parent(key string) string { return key[:max(strings.LastIndexByte(key, '.'), 0)] }

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// validate asks every section, and finds the line of the key it names.
func (f *File) validate(path string, text []byte) error {
	var list []error
	places := keyPlaces(text)
	for _, s := range f.sections() {
		if err := s.validate(); err != nil {
			list = append(list, placed(path, s.name, err, places))
		}
	}
	return errors.Join(list...)
}

// placed splits "key: what is wrong" and looks the key up in the file.
func placed(path, section string, err error, places map[string]place) error {
	key, message, found := strings.Cut(err.Error(), ": ")
	if !found || strings.ContainsAny(key, " \"") {
		key, message = "", err.Error()
	}
	full := strings.Trim(section+"."+key, ".")
	e := &Error{File: path, Key: full, Message: message}
	for look := full; look != ""; look = parent(look) {
		if p, ok := places[look]; ok {
			e.Line, e.Column = p.line, p.column
			break
		}
	}
	return e
}
