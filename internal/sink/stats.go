package sink

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
)

// ProviderStats are the counters of one provider since the start or the last reset.
type ProviderStats struct {
	Name string `json:"name"`
	Addr string `json:"addr,omitempty"`
	// In recipients: 250, 4xx, 5xx (to RCPT or the final dot), closed without a reply.
	Accepted int64 `json:"accepted"`
	Deferred int64 `json:"deferred"`
	Bounced  int64 `json:"bounced"`
	Dropped  int64 `json:"dropped"`

	Transactions int64 `json:"transactions"` // accepted messages, of one or more recipients
	Bytes        int64 `json:"bytes"`        // of accepted copies

	Connections int64 `json:"connections"`
	Refused     int64 `json:"refused"` // connections above the limit
	TLS         int64 `json:"tls"`     // sessions that went over to TLS
	Open        int64 `json:"open"`    // now
	OpenMax     int64 `json:"open_max"`

	FirstMail   *time.Time `json:"first_mail,omitempty"` // first MAIL command
	FirstAccept *time.Time `json:"first_accept,omitempty"`
	LastAccept  *time.Time `json:"last_accept,omitempty"`
}

// SourceStats are what a provider counts of one sending address since the start or the last reset.
type SourceStats struct {
	Provider string `json:"provider"`
	Source   string `json:"source"`

	Connections int64 `json:"connections"` // also those that were turned away
	Refused     int64 `json:"refused"`     // connections that were turned away
	Open        int64 `json:"open"`        // now
	OpenMax     int64 `json:"open_max"`

	Mails   int64 `json:"mails"`   // MAIL commands, whatever the answer
	Limited int64 `json:"limited"` // connections and MAILs above a limit of the source
	Denied  int64 `json:"denied"`  // connections and MAILs while it was on the block list
	Blocks  int64 `json:"blocks"`  // how often it was put on the block list

	// In recipients: 250 to the final dot, 4xx and 5xx to RCPT or the final dot.
	Accepted int64 `json:"accepted"`
	Deferred int64 `json:"deferred"`
	Bounced  int64 `json:"bounced"`

	FirstMail    *time.Time `json:"first_mail,omitempty"`
	LastMail     *time.Time `json:"last_mail,omitempty"`
	BlockedUntil *time.Time `json:"blocked_until,omitempty"` // on the block list now
}

// Stats is what /stats answers. Total sums up the providers; its OpenMax is the sum of their maxima.
type Stats struct {
	Total     ProviderStats   `json:"total"`
	Providers []ProviderStats `json:"providers"`
	Sources   []SourceStats   `json:"sources"` // by provider and address
	Queries   int64           `json:"dns_queries"`
	Records   int64           `json:"records"`
	CPU       float64         `json:"cpu_seconds"` // of the process, user and system
	Port      int             `json:"smtp_port"`
	DNS       string          `json:"dns_addr,omitempty"`
	Domains   int             `json:"domains"`
	Now       time.Time       `json:"now"`
}

// Stats returns the present counters.
func (s *Sink) Stats() Stats {
	st := Stats{Total: ProviderStats{Name: "total"}, Port: s.Port(), DNS: s.DNSAddr(), Domains: s.domains.count,
		CPU: cpuTime().Seconds(), Now: time.Now().UTC()}
	for _, p := range s.providers {
		ps := p.stats()
		st.Providers = append(st.Providers, ps)
		st.Total.add(ps)
		for _, from := range p.came.all() {
			st.Sources = append(st.Sources, from.stats(p.Name))
		}
	}
	if s.dns != nil {
		st.Queries = s.dns.queries.Load()
	}
	if s.book != nil {
		st.Records = s.book.Len()
	}
	return st
}

func (t *ProviderStats) add(p ProviderStats) {
	t.Accepted += p.Accepted
	t.Deferred += p.Deferred
	t.Bounced += p.Bounced
	t.Dropped += p.Dropped
	t.Transactions += p.Transactions
	t.Bytes += p.Bytes
	t.Connections += p.Connections
	t.Refused += p.Refused
	t.TLS += p.TLS
	t.Open += p.Open
	t.OpenMax += p.OpenMax
	t.FirstMail = earlier(t.FirstMail, p.FirstMail)
	t.FirstAccept = earlier(t.FirstAccept, p.FirstAccept)
	if p.LastAccept != nil && (t.LastAccept == nil || p.LastAccept.After(*t.LastAccept)) {
		t.LastAccept = p.LastAccept
	}
}

func earlier(a, b *time.Time) *time.Time {
	if a == nil || b != nil && b.Before(*a) {
		return b
	}
	return a
}

// Rate is accepted copies per second from the first MAIL to the last 250.
func (p ProviderStats) Rate() float64 {
	if p.FirstMail == nil || p.LastAccept == nil || !p.LastAccept.After(*p.FirstMail) {
		return 0
	}
	return float64(p.Accepted) / p.LastAccept.Sub(*p.FirstMail).Seconds()
}

// WriteText writes a table, for people.
func (st Stats) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "provider\taccepted\tdeferred\tbounced\tdropped\tper s\tconns\tmax\trefused\ttls\t")
	for _, p := range append(st.Providers[:len(st.Providers):len(st.Providers)], st.Total) {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%.0f\t%d\t%d\t%d\t%d\t\n", p.Name, p.Accepted, p.Deferred, p.Bounced, p.Dropped,
			p.Rate(), p.Connections, p.OpenMax, p.Refused, p.TLS)
	}
	if err := t.Flush(); err != nil || len(st.Sources) <= len(st.Providers) {
		return err // a source each: the table above says it all
	}
	fmt.Fprintln(t, "\nprovider\tsource\tmails\taccepted\tdeferred\tbounced\tconns\tmax\trefused\tlimited\tdenied\tblocked\t")
	for _, s := range st.Sources {
		blocked := fmt.Sprint(s.Blocks)
		if s.BlockedUntil != nil {
			blocked += " (now)"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t\n", s.Provider, s.Source, s.Mails, s.Accepted, s.Deferred, s.Bounced,
			s.Connections, s.OpenMax, s.Refused, s.Limited, s.Denied, blocked)
	}
	return t.Flush()
}

// cpuTime is what the process has used so far, user and system.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// startHTTP serves the statistics endpoint.
func (s *Sink) startHTTP() error {
	l, err := net.Listen("tcp", s.opts.HTTP)
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	s.httpAddr = l.Addr().String()
	s.http = &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}
	s.wg.Go(func() { _ = s.http.Serve(l) }) // ends by Stop
	return nil
}

// Handler is the statistics endpoint:
//
//	GET  /stats     Stats as JSON; as a table with ?format=text
//	GET  /ledger    the records in the ledger format; one JSON object a line with ?format=ndjson
//	POST /reset     forgets records, counters, block lists and earlier attempts
//	GET  /healthz   200
//	GET  /watch     the watch record so far (docs/formats/watch.md)
//	POST /watch/mark?text=…   a note in it
//
// And it changes a provider while it runs; the name * means all of them:
//
//	POST /providers/{name}/behaviour   the body is keys of a behaviour block, as in the configuration
//	POST /providers/{name}/block?source=IP&for=10m   puts an address on the block list
//	POST /providers/{name}/unblock?source=IP         takes it, or without source all, from it
//	POST /providers/{name}/deaf        connects to its address neither succeed nor fail
//	POST /providers/{name}/hear        they succeed again
func (s *Sink) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", s.getStats)
	mux.HandleFunc("GET /ledger", s.getLedger)
	mux.HandleFunc("POST /reset", s.postReset)
	s.handleControl(mux)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	return mux
}

func (s *Sink) getStats(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("format") == "text" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_ = s.Stats().WriteText(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.Stats())
}

func (s *Sink) getLedger(w http.ResponseWriter, r *http.Request) {
	if s.book == nil || s.opts.Forget {
		http.Error(w, "records are not kept in memory", http.StatusNotFound)
		return
	}
	if r.URL.Query().Get("format") != "ndjson" {
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = s.book.WriteTo(w)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	pr, pw := io.Pipe()
	go func() {
		_, err := s.book.WriteTo(pw)
		pw.CloseWithError(err)
	}()
	err := ledger.WriteNDJSON(w, pr)
	pr.CloseWithError(err) // ends the writer if the client went away
}

func (s *Sink) postReset(w http.ResponseWriter, _ *http.Request) {
	if err := s.Reset(); err != nil {
		http.Error(w, strings.TrimSpace(err.Error()), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
