package sink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/internal/watch"
)

// ErrNoProvider is returned for a name that no provider has.
var ErrNoProvider = errors.New("sink: no provider of that name")

// AllProviders is the name that means all of them.
const AllProviders = "*"

// named returns the providers of a name.
func (s *Sink) named(name string) ([]*provider, error) {
	if name == AllProviders {
		return s.providers, nil
	}
	for _, p := range s.providers {
		if p.Name == name {
			return []*provider{p}, nil
		}
	}
	return nil, fmt.Errorf("%w: %q", ErrNoProvider, name)
}

// Change puts another behaviour of a provider in force at once, also for the
// connections that are open. What is fixed when a listener starts (tls, without,
// max_size) cannot be changed. Nothing changes if any provider cannot take it.
func (s *Sink) Change(name string, change func(*Behaviour) error) error {
	list, err := s.named(name)
	if err != nil {
		return err
	}
	s.control.Lock()
	defer s.control.Unlock()
	next := make([]Behaviour, len(list))
	for i, p := range list {
		old := p.behaviour()
		b := *old
		if err := change(&b); err != nil {
			return err
		}
		switch {
		case b.TLS != old.TLS:
			return errors.New("tls: cannot change while it runs")
		case b.MaxSize != old.MaxSize:
			return errors.New("max_size: cannot change while it runs")
		case !slices.Equal(b.Without, old.Without):
			return errors.New("without: cannot change while it runs")
		}
		if err := b.validate("behaviour", p.Mode != ModeFast); err != nil {
			return err
		}
		next[i] = b
	}
	for i, p := range list {
		p.policy.set(next[i])
	}
	s.log.Info("behaviour changed", "provider", name)
	return nil
}

// Block puts an address on a provider's block list for some time; 0 takes it from there.
func (s *Sink) Block(name string, addr netip.Addr, d time.Duration) error {
	list, err := s.named(name)
	if err != nil {
		return err
	}
	until := time.Time{}
	if d > 0 {
		until = time.Now().Add(d)
	}
	for _, p := range list {
		p.came.of(addr.Unmap()).block(until)
	}
	return nil
}

// Unblock empties a provider's block list.
func (s *Sink) Unblock(name string) error {
	list, err := s.named(name)
	if err != nil {
		return err
	}
	for _, p := range list {
		for _, from := range p.came.all() {
			from.block(time.Time{})
		}
	}
	return nil
}

// Deafen makes connects to a provider's address hang: they neither succeed nor
// fail. Open connections go on. Providers that share an address go deaf together.
func (s *Sink) Deafen(name string) error {
	list, err := s.named(name)
	if err != nil {
		return err
	}
	var ears []*ear
	for _, p := range list {
		if p.ear != nil && !slices.Contains(ears, p.ear) {
			ears = append(ears, p.ear)
		}
	}
	return deafenAll(ears)
}

// Hear ends Deafen.
func (s *Sink) Hear(name string) error {
	list, err := s.named(name)
	if err != nil {
		return err
	}
	for _, p := range list {
		if p.ear != nil {
			err = errors.Join(err, p.ear.hear())
		}
	}
	return err
}

// Watched is the watch record so far, nil without one.
func (s *Sink) Watched() (*watch.Record, error) {
	if s.watch == nil {
		return nil, nil
	}
	var b bytes.Buffer
	if _, err := s.watch.WriteTo(&b); err != nil {
		return nil, err
	}
	return watch.Read(&b)
}

// Mark puts a note in the watch record.
func (s *Sink) Mark(text string) { s.watch.Mark(text) }

// maxBody is far above what a behaviour needs.
const maxBody = 1 << 20

func (s *Sink) handleControl(mux *http.ServeMux) {
	act := func(pattern string, do func(r *http.Request, name string) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			switch err := do(r, r.PathValue("name")); {
			case errors.Is(err, ErrNoProvider):
				http.Error(w, err.Error(), http.StatusNotFound)
			case err != nil:
				http.Error(w, err.Error(), http.StatusBadRequest)
			default:
				w.WriteHeader(http.StatusNoContent)
			}
		})
	}
	act("POST /providers/{name}/behaviour", s.postBehaviour)
	act("POST /providers/{name}/block", s.postBlock)
	act("POST /providers/{name}/unblock", s.postUnblock)
	act("POST /providers/{name}/deaf", func(_ *http.Request, name string) error { return s.Deafen(name) })
	act("POST /providers/{name}/hear", func(_ *http.Request, name string) error { return s.Hear(name) })
	act("POST /watch/mark", func(r *http.Request, _ string) error { s.Mark(r.FormValue("text")); return nil })
	mux.HandleFunc("GET /watch", s.getWatch)
}

// postBehaviour takes keys as in the configuration file; those it does not name stay as they are.
func (s *Sink) postBehaviour(r *http.Request, name string) error {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return err
	}
	return s.Change(name, func(b *Behaviour) error {
		return toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(b)
	})
}

func (s *Sink) postBlock(r *http.Request, name string) error {
	addr, err := netip.ParseAddr(r.FormValue("source"))
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	d := units.Duration(defaultBlockFor)
	if text := r.FormValue("for"); text != "" {
		if err := d.UnmarshalText([]byte(text)); err != nil || d <= 0 {
			return fmt.Errorf("for: %q is not a positive duration", text)
		}
	}
	return s.Block(name, addr, d.D())
}

func (s *Sink) postUnblock(r *http.Request, name string) error {
	text := r.FormValue("source")
	if text == "" {
		return s.Unblock(name)
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	return s.Block(name, addr, 0)
}

func (s *Sink) getWatch(w http.ResponseWriter, _ *http.Request) {
	if s.watch == nil {
		http.Error(w, "no watch record is kept", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = s.watch.WriteTo(w)
}
