package mta

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/trace"
)

// serialDialer is a lease of the gate, as the deliverer sees it.
type serialDialer struct{ conn net.Conn }

func (d serialDialer) Dial(context.Context, mail.Route, netip.AddrPort) (net.Conn, error) {
	return d.conn, nil
}
func (serialDialer) Serial() bool { return true }

// TestTracingLeases: connections that leases dial are recorded, and stay serial.
func TestTracingLeases(t *testing.T) {
	r := trace.New(trace.DefaultTraces)
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	d := tracingDialer{serialDialer{a}, r}
	if !d.Serial() {
		t.Error("a counted connection would be raced")
	}
	c, err := d.Dial(t.Context(), mail.Route{}, netip.AddrPort{})
	if err != nil || c != a {
		t.Fatalf("not recording: %v, %v", c, err)
	}
	r.On(time.Minute)
	if c, err = d.Dial(t.Context(), mail.Route{}, netip.AddrPort{}); err != nil || c == a {
		t.Fatalf("recording: %v, %v", c, err)
	}
}
