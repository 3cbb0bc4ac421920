package meter

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func count(name string) prometheus.Collector {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name})
}

func registered(t *testing.T, r *prometheus.Registry) int {
	t.Helper()
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestAllOrNone(t *testing.T) {
	r := prometheus.NewRegistry()
	var first, second Set
	if err := first.Register(r, count("a"), count("b")); err != nil {
		t.Fatal(err)
	}
	if err := second.Register(r, count("c"), count("b")); err == nil {
		t.Error("a name was taken twice")
	}
	if n := registered(t, r); n != 2 {
		t.Errorf("%d are registered after a refusal, want 2", n)
	}
	first.Unregister()
	first.Unregister()
	if n := registered(t, r); n != 0 {
		t.Errorf("%d are left", n)
	}
	if err := second.Register(r, count("c"), count("b")); err != nil {
		t.Error(err)
	}
}

func TestNoRegisterer(t *testing.T) {
	var s Set
	if err := s.Register(nil, count("a")); err != nil {
		t.Error(err)
	}
	s.Unregister()
}
