package adminapi

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/internal/mail"
)

// TestPeerToken: a member of the cluster may import, and nothing else; without a token of the cluster nobody is one.
func TestPeerToken(t *testing.T) {
	b := setup(t)
	d := b.server.deps
	d.PeerToken = "of-the-cluster"
	with, err := New(options(), d)
	if err != nil {
		t.Fatal(err)
	}
	if err := with.Reload(options()); err != nil { // it is not one of the file's
		t.Fatal(err)
	}
	for _, c := range []struct {
		server              *Server
		method, path, token string
		status              int
	}{
		{with, "POST", PathImport, "of-the-cluster", 200},
		{with, "POST", PathImport, token, 200},
		{with, "POST", PathImport, "of-the-clusteR", 401},
		{with, "POST", PathImport, "", 401},
		{with, "GET", PathStats, "of-the-cluster", 401},
		{with, "POST", PathBounce, "of-the-cluster", 401},
		{with, "GET", PathStats, token, 200},
		{b.server, "POST", PathImport, "of-the-cluster", 401},
		{b.server, "POST", PathImport, "", 401},
	} {
		b.server = c.server
		body := ""
		if c.path == PathImport {
			body = "line\n"
		}
		if w := b.do(c.method, c.path, body, "Content-Type", typeLines, "Authorization", "Bearer "+c.token); w.Code != c.status {
			t.Errorf("%s %s with %q: %d %s", c.method, c.path, c.token, w.Code, w.Body)
		}
	}
}

// TestImportTellsWhatIsThere: a sender must know whether a call that failed left messages behind.
func TestImportTellsWhatIsThere(t *testing.T) {
	b := setup(t)
	for _, c := range []struct {
		err     error
		body    string
		nothing bool
		status  int
	}{
		{mail.ErrDraining, "", true, 503},
		{mail.ErrDraining, "line\n", false, 503},
		{mail.ErrDiskFull, "known\n", false, 503},
		{nil, "bad\n", true, 422},
		{nil, "line\nbad\n", false, 422},
	} {
		b.engine.err = c.err
		w := b.do("POST", PathImport, c.body, "Content-Type", typeLines)
		got := false
		for _, e := range errorsOf(t, w) {
			got = got || e.Code == CodeNothingStored
		}
		if w.Code != c.status || got != c.nothing {
			t.Errorf("%v %q: %d %s", c.err, c.body, w.Code, w.Body)
		}
	}
}

// refusing is Orders that take none.
type refusing struct{ *egress }

func (refusing) Set(context.Context, OrderRequest, string) (Order, error) {
	return Order{}, fmt.Errorf("%w: orders are not about pools", ErrBadOrder)
}

func TestBadOrder(t *testing.T) {
	b := setup(t)
	b.server.deps.Orders = refusing{b.egress}
	w := b.do("POST", PathOrders, `{"scope":{"pool":"x"},"action":"suspend"}`)
	if e := errorsOf(t, w)[0]; w.Code != http.StatusUnprocessableEntity || e.Code != CodeScope || !strings.Contains(e.Detail, "not about pools") {
		t.Errorf("%d %+v", w.Code, e)
	}
}

func TestAdvertised(t *testing.T) {
	tcp := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	served := []net.Addr{&net.UnixAddr{Name: "/run/x.sock", Net: "unix"}, tcp("0.0.0.0:1"), tcp("127.0.0.1:2"), tcp("192.0.2.1:3"), tcp("192.0.2.2:4")}
	for _, c := range []struct {
		advertise string
		served    []net.Addr
		loopback  bool
		want      string
	}{
		{"", served, false, "192.0.2.1:3"},
		{"", served, true, "127.0.0.1:2"},
		{"mta1:9", served, false, "mta1:9"},
		{"", served[:3], false, ""},
		{"", nil, true, ""},
	} {
		if got := (Options{Advertise: c.advertise}).Advertised(c.served, c.loopback); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
	for _, bad := range []string{"mta1", ":8026", "mta1:0", "mta1:x", "unix:/run/x"} {
		o := DefaultOptions()
		o.Advertise = bad
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), "advertise: ") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
