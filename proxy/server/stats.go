package server

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/godwit-mta/godwit/proxy/wire"
	"github.com/godwit-mta/godwit/throttle"
)

// statuses is the number of results that a connect can have.
const statuses = int(wire.BadRequest) + 1

// counters are what one source did since the start.
type counters struct {
	opening, open atomic.Int64
	results       [statuses]atomic.Uint64 // by wire.Status
	up, down      atomic.Uint64           // bytes to the providers, and from them
}

// keyCounts are the connections that each permit's key has.
type keyCounts struct {
	mu   sync.Mutex
	open map[throttle.Key]int
}

func (k *keyCounts) add(keys []throttle.Key, n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range keys {
		if k.open[key] += n; k.open[key] == 0 {
			delete(k.open, key)
		}
	}
}

// Stats is what the proxy does and did.
type Stats struct {
	Name        string        `json:"name"`
	Zone        string        `json:"zone,omitempty"`
	Draining    bool          `json:"draining"`
	Connections int           `json:"connections"` // from nodes, with a header that was accepted
	Sources     []SourceStats `json:"sources"`
	Keys        []KeyStats    `json:"keys"` // those with connections, in order of their text
}

// SourceStats is one source.
type SourceStats struct {
	Name    string            `json:"name"`
	Bind    string            `json:"bind,omitempty"`
	Bind6   string            `json:"bind6,omitempty"`
	Opening int               `json:"opening"` // connects under way
	Open    int               `json:"open"`    // connections to providers
	Results map[string]uint64 `json:"results"` // connects since the start, by name of the result
	Sent    uint64            `json:"sent"`    // bytes to providers
	Got     uint64            `json:"got"`     // bytes from them
}

// KeyStats is what one limit counts.
type KeyStats struct {
	Key         string `json:"key"`
	Connections int    `json:"connections"` // with those opening
}

// Stats returns the present state.
func (s *Server) Stats() Stats {
	conf := s.conf.Load()
	st := Stats{Name: conf.Name, Zone: conf.Zone, Draining: s.draining.Load(), Connections: s.Conns()}
	for i, src := range conf.sources.list {
		out := SourceStats{Name: src.name, Bind: conf.Sources[i].Bind, Bind6: conf.Sources[i].Bind6,
			Opening: int(src.opening.Load()), Open: int(src.open.Load()), Results: map[string]uint64{},
			Sent: src.up.Load(), Got: src.down.Load()}
		for r := range src.results {
			if n := src.results[r].Load(); n > 0 {
				out.Results[wire.Status(r).String()] = n
			}
		}
		st.Sources = append(st.Sources, out)
	}
	s.keys.mu.Lock()
	for key, n := range s.keys.open {
		st.Keys = append(st.Keys, KeyStats{Key: key.String(), Connections: n})
	}
	s.keys.mu.Unlock()
	slices.SortFunc(st.Keys, func(a, b KeyStats) int { return cmp.Compare(a.Key, b.Key) })
	return st
}
