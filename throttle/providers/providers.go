// Package providers holds the provider packs that are shipped with the program:
// rule files in the format of docs/formats/rules.md, one for each provider.
//
// The limits are starting points, from what providers publish and from
// what operators have found out; the closed loop adapts below them. Every automation rule
// carries replies that it must match and replies that it must not, and is held against them whenever it is loaded.
// The replies are as providers write them, with addresses and names of documentation put in.
package providers

import (
	"embed"
	"fmt"
	"slices"
	"strings"
)

//go:embed *.toml
var files embed.FS

// base is the pack that the others stand on: it is read first.
const base = "default"

// Names returns the names of the packs: default, then the others by name.
func Names() []string {
	names := []string{base}
	entries, err := files.ReadDir(".")
	if err != nil { // what is embedded can be read
		return nil
	}
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".toml"); name != base {
			names = append(names, name)
		}
	}
	slices.Sort(names[1:]) // by name, not by name with its ending
	return names
}

// Read returns the text of a pack.
func Read(name string) ([]byte, error) {
	data, err := files.ReadFile(name + ".toml")
	if err != nil {
		return nil, fmt.Errorf("providers: no pack %q: %w", name, err)
	}
	return data, nil
}
