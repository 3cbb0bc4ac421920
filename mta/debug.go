package mta

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/godwit-mta/godwit/internal/debugz"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/trace"
	"github.com/godwit-mta/godwit/mta/deliver"
	"github.com/godwit-mta/godwit/mta/smtp"
	"github.com/godwit-mta/godwit/queue"
)

// DebugPages are the engine's entries in the /debug/ index.
func (e *Engine) DebugPages() []debugz.Page {
	return []debugz.Page{
		{Path: "queue", Title: "scheduled queues, the longest first", Handler: http.HandlerFunc(e.debugQueue)},
		{Path: "stats", Title: "totals of the queue and its volume (JSON)", Handler: http.HandlerFunc(e.debugStats)},
		{Path: "message", Title: "everything about one message: /debug/message?id=ID (JSON)", Handler: http.HandlerFunc(e.debugMessage)},
		{Path: "connections", Title: "dialogues of recent connections; /debug/connections?record=5m starts recording", Handler: http.HandlerFunc(e.debugConnections)},
	}
}

func (e *Engine) debugQueue(w http.ResponseWriter, _ *http.Request) {
	list, err := e.queue.List(queue.Filter{All: true})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	tw := tabwriter.NewWriter(w, 2, 2, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "messages\tready\tin flight\tpriority\ttenant\tstream\tdomain\tsite\tnext due\tstate\tlast reply")
	const most = 1000
	for i, q := range list {
		if i == most {
			_, _ = fmt.Fprintf(tw, "… and %d more\n", len(list)-most)
			break
		}
		state := ""
		if q.Suspended {
			state = "suspended"
		} else if !q.Held.IsZero() {
			state = "no connection before " + q.Held.Format(time.TimeOnly)
		}
		due := ""
		if !q.NextDue.IsZero() {
			due = q.NextDue.UTC().Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(tw, "%d\t%d\t%d\t%v\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", q.Messages, q.Ready, q.InFlight, q.Priority,
			q.Tenant, q.Stream, q.Domain, q.Site, due, state, q.LastReply)
	}
	_ = tw.Flush()
}

func (e *Engine) debugStats(w http.ResponseWriter, _ *http.Request) { writeJSON(w, e.queue.Stats()) }

func (e *Engine) debugMessage(w http.ResponseWriter, r *http.Request) {
	id, err := mail.ParseID(r.URL.Query().Get("id"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h, err := e.queue.History(r.Context(), "", id)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	writeJSON(w, h)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}

func (e *Engine) debugConnections(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if v := r.URL.Query().Get("record"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 || d > time.Hour {
			http.Error(w, "record: a duration up to 1h, such as 5m; 0s stops", http.StatusBadRequest)
			return
		}
		e.trace.On(d)
		_, _ = fmt.Fprintf(w, "recording for %v\n\n", d)
	}
	for _, t := range e.trace.Traces() {
		_, _ = fmt.Fprintf(w, "%s %s\n", t.Started.UTC().Format(time.RFC3339Nano), t.Title)
		for _, l := range t.Lines {
			_, _ = fmt.Fprintf(w, "  %s %c: %s\n", l.At.UTC().Format("15:04:05.000000"), l.From, l.Text)
		}
		if t.Dropped > 0 {
			_, _ = fmt.Fprintf(w, "  … %d more lines\n", t.Dropped)
		}
		_, _ = fmt.Fprintln(w)
	}
}

// traceInjection records the dialogue of injecting connections.
func (e *Engine) traceInjection(id smtp.ConnID, from smtp.Direction, line string) {
	key := "in " + strconv.FormatUint(uint64(id), 10)
	e.trace.Add(key, "injection, connection "+key[3:], byte(from), line)
}

// tracingDialer records the dialogue of outgoing connections while recording is on.
type tracingDialer struct {
	deliver.Dialer
	r *trace.Recorder
}

// Serial implements deliver.Serial for dialers that do.
func (d tracingDialer) Serial() bool {
	s, ok := d.Dialer.(deliver.Serial)
	return ok && s.Serial()
}

// Dial implements deliver.Dialer.
func (d tracingDialer) Dial(ctx context.Context, route mail.Route, addr netip.AddrPort) (net.Conn, error) {
	c, err := d.Dialer.Dial(ctx, route, addr)
	if err != nil || !d.r.Active() {
		return c, err
	}
	key := "out " + c.LocalAddr().String() + " " + addr.String()
	return d.r.Conn(c, key, "delivery to "+route.Site+" at "+addr.String()), nil
}
