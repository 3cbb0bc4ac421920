package config

import (
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// place is where a key stands, from 1.
type place struct{ line, column int }

// keyPlaces finds where each key and table of a document stands. Elements of
// an array of tables are numbered: "smtp.listeners[0].address". It is called
// only with text that the decoder took.
func keyPlaces(text []byte) map[string]place {
	places := map[string]place{}
	var p unstable.Parser
	p.Reset(text)
	table := ""
	arrays := map[string]int{}
	for p.NextExpression() {
		e := p.Expression()
		key, at := keyOf(&p, e)
		switch e.Kind {
		case unstable.Table:
			table = key
		case unstable.ArrayTable:
			n := arrays[key]
			arrays[key]++
			places[key] = at
			table = fmt.Sprintf("%s[%d]", key, n)
			key = table
		case unstable.KeyValue:
			if table != "" {
				key = table + "." + key
			}
		}
		places[key] = at
	}
	return places
}

func keyOf(p *unstable.Parser, e *unstable.Node) (string, place) {
	var parts []string
	var at place
	it := e.Key()
	for it.Next() {
		n := it.Node()
		if len(parts) == 0 {
			s := p.Shape(n.Raw).Start
			at = place{s.Line, s.Column}
		}
		parts = append(parts, string(n.Data))
	}
	return strings.Join(parts, "."), at
}
