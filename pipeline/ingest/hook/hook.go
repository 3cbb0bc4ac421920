// Package hook takes the web hooks of other systems in: JSON bodies that become events as configured.
//
// A request is first proven to come from who knows the secret of its hook, over the bytes as
// they came; only then the body is read, mapped to the documents of the API and put through the door as one bulk job.
package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/pipeline/ingest"
	"github.com/godwit-mta/godwit/pipeline/ingest/mapping"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// Hook is what a configuration file can set for one.
type Hook struct {
	Name   string        `toml:"name" doc:"Last part of the hook's address, /hooks/NAME."`
	Tenant string        `toml:"tenant" doc:"Tenant whose events come in."`
	Auth   Auth          `toml:"auth"`
	Each   string        `toml:"each" doc:"Where the array of events is found in the body, such as $.events. Empty: the body is one event, or an array of them."`
	Event  mapping.Event `toml:"event"`
	// Delivery makes a repeated delivery harmless where events have no unique id of their own.
	Delivery string `toml:"delivery_header" doc:"Header that names a delivery, the same when it is repeated, such as webhook-id. Events without a unique id count once per delivery then."`
}

// Door is what hooks need of an ingest.Door.
type Door interface {
	Bulk(ctx context.Context, tenant string, body []byte, seed string) (ingest.Position, *ingest.Report, error)
}

// Deps are what a Handler works with.
type Deps struct {
	Door       Door
	MaxPayload units.Size // of a body in bytes; 0: 5 MiB
	Now        func() time.Time
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Handler serves POST /hooks/{name}.
type Handler struct {
	hooks    map[string]*hook
	d        Deps
	requests *prometheus.CounterVec
}

type hook struct {
	Hook
	prove  *prover
	mapper *mapping.Mapper
	each   mapping.Path
}

// New returns a handler for hooks. Its errors name the hook and the key at fault.
func New(hooks []Hook, d Deps) (*Handler, error) {
	if d.Door == nil {
		return nil, errors.New("hooks: there is no door")
	}
	if d.MaxPayload == 0 {
		d.MaxPayload = 5 << 20
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Handler{hooks: map[string]*hook{}, d: d, requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "godwit_hook_requests_total",
		Help: "Requests to web hooks, by hook and status of the answer. 401 are requests without the right signature, 400 those whose body does not fit the configuration.",
	}, []string{"hook", "status"})}
	for _, o := range hooks {
		k, err := newHook(o)
		if err == nil && h.hooks[o.Name] != nil {
			err = errors.New("name: is there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("hook %q: %w", o.Name, err)
		}
		h.hooks[o.Name] = k
	}
	if d.Registerer != nil {
		if err := d.Registerer.Register(h.requests); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func newHook(o Hook) (*hook, error) {
	k := &hook{Hook: o}
	if o.Name == "" || strings.Trim(o.Name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return nil, errors.New("name: has letters a-z, digits, - and _")
	}
	if o.Tenant == "" {
		return nil, errors.New("tenant: must be set")
	}
	var err error
	if k.prove, err = newProver(o.Auth); err != nil {
		return nil, fmt.Errorf("auth.%w", err)
	}
	if k.mapper, err = mapping.New(o.Event); err == nil {
		err = o.Event.CheckEvent()
	}
	if err != nil {
		return nil, fmt.Errorf("event.%w", err)
	}
	if o.Each != "" {
		if k.each, err = mapping.ParsePath(o.Each); err != nil {
			return nil, fmt.Errorf("each: %w", err)
		}
	}
	return k, nil
}

// answer is the body of a response.
type answer struct {
	Accepted int       `json:"accepted"`
	Refused  []refusal `json:"refused,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// refusal tells why an event was not taken.
type refusal struct {
	Event  int    `json:"event"`           // from 0
	Field  string `json:"field,omitempty"` // path in the body
	Detail string `json:"detail"`
}

// ServeHTTP implements http.Handler. The name of the hook is the path value "name", or the last part of the path.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if name == "" {
		name = r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	}
	k := h.hooks[name]
	status, a := http.StatusNotFound, answer{Error: "there is no such hook"}
	label := "unknown"
	if k != nil {
		label = name
		status, a = h.serve(w, r, k)
	}
	h.requests.WithLabelValues(label, fmt.Sprint(status)).Inc()
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(a) // the client is gone: nothing is to be done
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, k *hook) (int, answer) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return http.StatusMethodNotAllowed, answer{Error: "a hook takes POST"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(h.d.MaxPayload)))
	if err != nil {
		if large := new(http.MaxBytesError); errors.As(err, &large) {
			return http.StatusRequestEntityTooLarge, answer{Error: fmt.Sprintf("a body has at most %v", h.d.MaxPayload)}
		}
		return http.StatusBadRequest, answer{Error: "the body could not be read"}
	}
	if err := k.prove.check(r.Header, body, h.d.Now()); err != nil {
		h.d.Logger.Warn("web hook refused", "hook", k.Name, "peer", r.RemoteAddr, "error", err)
		return http.StatusUnauthorized, answer{Error: err.Error()}
	}
	items, err := k.items(body)
	if err != nil {
		return http.StatusBadRequest, answer{Error: err.Error()}
	}
	seed := ""
	if id := r.Header.Get(k.Delivery); k.Delivery != "" && id != "" {
		seed = k.Name + "\x00" + id
	}
	return h.put(r.Context(), k, items, seed)
}

// items are the events of a body.
func (k *hook) items(body []byte) ([]any, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("the body is not JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("the body is not JSON: something follows it")
	}
	if k.each.IsZero() {
		if all, ok := v.([]any); ok {
			return all, nil
		}
		return []any{v}, nil
	}
	found, ok := k.each.Get(v)
	all, isArray := found.([]any)
	if !ok || !isArray {
		return nil, fmt.Errorf("%s: is not an array of events", k.each)
	}
	return all, nil
}

// put takes the events in that can be used.
func (h *Handler) put(ctx context.Context, k *hook, items []any, seed string) (int, answer) {
	var a answer
	var docs [][]byte
	var index []int // of each doc among the items
	for i, v := range items {
		rest, ok := v.(map[string]any)
		if !ok {
			a.Refused = append(a.Refused, refusal{i, "", "is not an object"})
			continue
		}
		doc, err := k.mapper.Item(v, rest, "")
		if bad := new(mapping.Error); errors.As(err, &bad) {
			a.Refused = append(a.Refused, refusal{i, bad.Path, bad.Detail})
			continue
		}
		docs, index = append(docs, doc), append(index, i)
	}
	if len(docs) > 0 {
		_, report, err := h.d.Door.Bulk(ctx, k.Tenant, mapping.Job(docs), seed)
		if errs := (jsonapi.Errors)(nil); errors.As(err, &errs) && len(errs) > 0 {
			return max(errs[0].Status, http.StatusBadRequest), answer{Error: errs[0].Detail}
		}
		if err != nil {
			h.d.Logger.Error("web hook could not be taken in", "hook", k.Name, "error", err)
			return http.StatusServiceUnavailable, answer{Error: "the events could not be made durable; try again"}
		}
		a.Accepted = report.Accepted
		for _, r := range report.Refused {
			for _, e := range r.Errors {
				a.Refused = append(a.Refused, refusal{index[r.Item], k.mapper.Where(e.Pointer), e.Detail})
			}
		}
	}
	if a.Accepted == 0 && len(items) > 0 {
		a.Error = "none of the events could be used"
		return http.StatusBadRequest, a
	}
	return http.StatusAccepted, a
}
