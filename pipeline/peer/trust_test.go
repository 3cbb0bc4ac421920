package peer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/internal/keyed"
)

func TestTrust(t *testing.T) {
	c := newCluster(t)
	c.trust.Token = "the cluster's"
	b := newFake("b")
	b.fill(t, spot, 1)
	c.serve(b)
	node := c.nodes["b"]
	for _, token := range []string{"", "another", "the cluster"} {
		wrong := newClient(Trust{Token: token})
		for _, path := range []string{pathTable, pathGet, pathPage, pathWait, pathAsk, pathAnswer} {
			_, err := wrong.call(t.Context(), readWithin, node, path, spot.query(), []byte("k00000"))
			if err == nil || !strings.Contains(err.Error(), "status 401") || passes(err) {
				t.Errorf("%s with token %q: %v", path, token, err)
			}
		}
		wrong.close()
	}
	own := newClient(c.trust)
	defer own.close()
	if _, err := own.call(t.Context(), readWithin, node, pathGet, spot.query(), []byte("k00000")); err != nil {
		t.Error(err)
	}
	some := &tls.Config{MinVersion: tls.VersionTLS13}
	for _, c := range []struct {
		listen string
		trust  Trust
	}{{"0.0.0.0:0", Trust{}}, {":0", Trust{}}, {"192.0.2.1:0", Trust{}}, {"localhost.test:0", Trust{}}, {"0.0.0.0:0", Trust{Token: "x"}}, {"0.0.0.0:0", Trust{Server: some}}} {
		if _, err := Listen(Options{Listen: c.listen}, b, c.trust, slog.New(slog.DiscardHandler)); !errors.Is(err, errOpen) {
			t.Errorf("%s, %+v: %v", c.listen, c.trust, err)
		}
	}
}

func TestBadRequests(t *testing.T) {
	c := newCluster(t)
	b := newFake("b")
	b.fill(t, spot, 1)
	c.serve(b)
	cl := newClient(Trust{})
	defer cl.close()
	sized := spot.query()
	sized.Set("size", "10")
	huge := spot.query()
	huge.Set("size", fmt.Sprint(maxPage+1))
	for _, x := range []struct {
		path   string
		query  map[string][]string
		body   []byte
		status string
	}{
		{pathGet, nil, nil, "status 400"},
		{pathGet, Spot{"customer", 3}.query(), []byte("k"), "status 421"},
		{pathGet, Spot{"customer", -1}.query(), []byte("k"), "status 421"},
		{pathPage, spot.query(), bounds([]byte("a"), []byte("z")), "status 400"},
		{pathPage, huge, bounds([]byte("a"), []byte("z")), "status 400"},
		{pathPage, sized, []byte{200}, "status 400"},
		{pathWait, spot.query(), nil, "status 400"},
		{pathAsk, nil, nil, "status 400"},
		{pathAnswer, nil, nil, "status 501"},
		{"/peer/v2/get", spot.query(), nil, "status 404"},
		{pathGet, spot.query(), make([]byte, maxRequest+1), "status 400"},
	} {
		if _, err := cl.call(t.Context(), readWithin, c.nodes["b"], x.path, x.query, x.body); err == nil || !strings.Contains(err.Error(), x.status) {
			t.Errorf("%s %v: %v", x.path, x.query, err)
		}
	}
}

// TestCutOff: an answer that ends early is none, wherever it ends.
func TestCutOff(t *testing.T) {
	whole := page([]keyed.Row{{Key: []byte("a"), Value: []byte("1")}, {Key: []byte("b"), Value: nil}}, true)
	for n := range len(whole) {
		if rows, _, err := parsePage(whole[:n]); err == nil {
			t.Errorf("%d of %d bytes are %v", n, len(whole), rows)
		}
	}
	if rows, more, err := parsePage(whole); err != nil || len(rows) != 2 || !more {
		t.Errorf("%v, %v, %v", rows, more, err)
	}
	if _, _, err := parsePage(append(whole, 0)); err == nil {
		t.Error("more than a page is a page")
	}
	for _, b := range [][]byte{nil, {2}, {absent, 0}} {
		if _, err := parseValue(b); !errors.Is(err, errFormat) {
			t.Errorf("%v: %v", b, err)
		}
	}
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte{present, 'x'})
	}))
	defer cut.Close()
	cl := newClient(Trust{})
	defer cl.close()
	_, err := cl.call(t.Context(), readWithin, Node{"b", cut.Listener.Addr().String()}, pathGet, spot.query(), nil)
	if !errors.Is(err, errUnreachable) {
		t.Errorf("a body that is cut off: %v", err)
	}
}

func TestOptions(t *testing.T) {
	for _, good := range []Options{{}, {Listen: "127.0.0.1:0"}, {Listen: ":8029", Advertise: "mta1:8029"}} {
		if err := good.Validate(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for key, bad := range map[string]Options{"listen": {Listen: "host"}, "advertise": {Listen: ":1", Advertise: ":8029"}} {
		if err := bad.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	at := func(s string) net.Addr { a, _ := net.ResolveTCPAddr("tcp", s); return a }
	for _, c := range []struct {
		o        Options
		bound    string
		loopback bool
		want     string
	}{
		{Options{Advertise: "x:1"}, "0.0.0.0:2", false, "x:1"}, {Options{}, "0.0.0.0:2", false, ""}, {Options{}, "192.0.2.1:2", false, "192.0.2.1:2"},
		{Options{}, "127.0.0.1:2", false, ""}, {Options{}, "127.0.0.1:2", true, "127.0.0.1:2"},
	} {
		if got := c.o.Advertised(at(c.bound), c.loopback); got != c.want {
			t.Errorf("%+v bound to %s: %q", c.o, c.bound, got)
		}
	}
}
