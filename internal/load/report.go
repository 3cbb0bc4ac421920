package load

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
)

// Report is what a run came to. Acked, Refused and Unknown count copies.
type Report struct {
	Run     string    `json:"run"`
	Mode    string    `json:"mode"`
	Target  string    `json:"target"`
	Started time.Time `json:"started"` // first MAIL or request

	Acked        int64 `json:"acked"`
	Refused      int64 `json:"refused"`
	Unknown      int64 `json:"unknown"` // the connection broke after content was sent: they may or may not be accepted
	Transactions int64 `json:"transactions"`

	Seconds       float64          `json:"seconds"` // first MAIL to last acknowledgement
	AcceptRate    float64          `json:"accept_rate"`
	AckLatency    Latency          `json:"ack_latency"` // MAIL, or the request, to its acknowledgement
	Connections   int64            `json:"connections"`
	ConnectErrors int64            `json:"connect_errors"`
	Errors        map[string]int64 `json:"errors"` // by reply code, or what broke

	CPU           float64 `json:"cpu_seconds"`        // of this process, user and system
	CPUPerMessage float64 `json:"cpu_us_per_message"` // by acknowledged copies

	Delivery *Delivery `json:"delivery,omitempty"` // nil without a simulator
}

// Delivery is the provider simulator's side of a run, in copies.
type Delivery struct {
	Accepted int64 `json:"accepted"`
	Deferred int64 `json:"deferred"`
	Bounced  int64 `json:"bounced"`
	Dropped  int64 `json:"dropped"`

	Seconds float64 `json:"seconds"` // the source's first MAIL to the simulator's last 250
	Rate    float64 `json:"rate"`
	SinkCPU float64 `json:"sink_cpu_us_per_message"`

	FromMail Latency        `json:"latency_from_mail"` // MAIL at the source to the simulator's 250
	FromAck  Latency        `json:"latency_from_ack"`  // acknowledgement at the source to the simulator's 250
	Books    *ledger.Report `json:"books,omitempty"`   // nil when the simulator keeps no records
}

func (l *Load) report(t *tally, cpu time.Duration) *Report {
	r := &Report{
		Run: l.run, Mode: l.opts.Mode, Target: l.opts.Target, Started: t.first.Time().UTC(),
		Acked: t.acked, Refused: t.refused, Unknown: t.unknown, Transactions: t.transactions,
		AckLatency: t.latency.latency(), Connections: t.connections, ConnectErrors: t.connectErrors, Errors: t.errors,
		CPU: cpu.Seconds(), CPUPerMessage: ratio(float64(cpu.Microseconds()), float64(t.acked)),
	}
	if t.last > t.first {
		r.Seconds = t.last.Sub(t.first).Seconds()
		r.AcceptRate = ratio(float64(t.acked), r.Seconds)
	}
	return r
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// OK reports whether all went well: nothing refused, unknown, missing or altered.
func (r *Report) OK() bool {
	return r.Acked > 0 && r.Refused == 0 && r.Unknown == 0 &&
		(r.Delivery == nil || r.Delivery.Books == nil || r.Delivery.Books.OK())
}

// WriteText writes the report for people. Its JSON form is that of the struct.
func (r *Report) WriteText(w io.Writer) error {
	var s strings.Builder
	fmt.Fprintf(&s, "run %s by %s to %s\n", r.Run, r.Mode, r.Target)
	fmt.Fprintf(&s, "accepted   %d in %.2f s: %.0f/s; refused %d, unknown %d\n", r.Acked, r.Seconds, r.AcceptRate, r.Refused, r.Unknown)
	fmt.Fprintf(&s, "ack        %s\n", r.AckLatency)
	fmt.Fprintf(&s, "source     %.1f us CPU per message, %d connections, %d failed\n", r.CPUPerMessage, r.Connections, r.ConnectErrors)
	var codes []string
	for code := range r.Errors {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	for _, code := range codes {
		fmt.Fprintf(&s, "  %6d x %s\n", r.Errors[code], code)
	}
	if d := r.Delivery; d != nil {
		fmt.Fprintf(&s, "delivered  %d in %.2f s: %.0f/s; deferred %d, bounced %d, dropped %d\n", d.Accepted, d.Seconds, d.Rate, d.Deferred, d.Bounced, d.Dropped)
		fmt.Fprintf(&s, "simulator  %.1f us CPU per message\n", d.SinkCPU)
		if d.Books != nil {
			fmt.Fprintf(&s, "from MAIL  %s\nfrom ack   %s\nbooks      ", d.FromMail, d.FromAck)
			_ = d.Books.WriteText(&s) // memory does not fail
		}
	}
	_, err := io.WriteString(w, s.String())
	return err
}

// cpuTime is what the process has used so far, user and system.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
