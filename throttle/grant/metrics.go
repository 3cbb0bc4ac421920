package grant

import (
	"errors"
	"io"
	"net"
	"os"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	sideServer = "server"
	sideClient = "client"
)

// Metrics are the numbers of all links of a process. A nil *Metrics counts nothing.
type Metrics struct {
	contacts *prometheus.GaugeVec
	losses   *prometheus.CounterVec
	falls    prometheus.Counter
	noRoom   prometheus.Counter
}

// NewMetrics registers the numbers; reg may be nil.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		contacts: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "godwit_grant_contacts",
			Help: "Grant links in contact, by side: server (this process is the authority) or client. A node should have one to each proxy and each other node.",
		}, []string{"side"}),
		losses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_grant_losses_total",
			Help: "Contacts lost, by side and cause: silence (no echo of a heartbeat in time), closed, replaced, backlog, protocol, other. A rise of silence means a network or a machine that stalls for over half a second.",
		}, []string{"side", "cause"}),
		falls: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_grant_delay_falls_total",
			Help: "Times at which the way from an authority became faster at once, so that message permits were not used for half a second. A steady rise means an unsteady network.",
		}),
		noRoom: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_grant_no_room_total",
			Help: "Wants and other notes that were not sent because more keys were in use than a link can number, or a key was too long. Any increase leaves mail waiting.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(reg.Register(m.contacts), reg.Register(m.losses), reg.Register(m.falls), reg.Register(m.noRoom))
}

func (m *Metrics) contact(side string, n float64) {
	if m != nil {
		m.contacts.WithLabelValues(side).Add(n)
	}
}

func (m *Metrics) lost(side string, err error) {
	if m != nil {
		m.losses.WithLabelValues(side, cause(err)).Inc()
	}
}

func (m *Metrics) fell(n int) {
	if m != nil && n > 0 {
		m.falls.Add(float64(n))
	}
}

func (m *Metrics) full() {
	if m != nil {
		m.noRoom.Inc()
	}
}

func cause(err error) string {
	switch {
	case errors.Is(err, ErrLost), errors.Is(err, os.ErrDeadlineExceeded):
		return "silence"
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe):
		return "closed"
	case errors.Is(err, ErrReplaced):
		return "replaced"
	case errors.Is(err, ErrBacklog):
		return "backlog"
	case errors.Is(err, errFrame):
		return "protocol"
	}
	return "other"
}
