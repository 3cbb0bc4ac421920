// Package meter registers the metrics of a part together, and takes them out together, so that another of its kind can follow it in the
// same process.
package meter

import "github.com/prometheus/client_golang/prometheus"

// Set is what was registered. The zero Set is nothing.
type Set struct {
	in  prometheus.Registerer
	all []prometheus.Collector
}

// Register registers all of them, or none if one is refused. With a nil registerer it does nothing.
func (s *Set) Register(in prometheus.Registerer, all ...prometheus.Collector) error {
	if in == nil {
		return nil
	}
	s.in = in
	for _, c := range all {
		if err := in.Register(c); err != nil {
			s.Unregister()
			return err
		}
		s.all = append(s.all, c)
	}
	return nil
}

// Unregister takes out what is in.
func (s *Set) Unregister() {
	for _, c := range s.all {
		s.in.Unregister(c)
	}
	s.all = nil
}
