package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pires/go-proxyproto"

	"github.com/godwit-mta/godwit/internal/mail"
)

var compare = []cmp.Option{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()}

func headers() []Header {
	v4 := Header{Source: netip.MustParseAddr("127.0.0.2"), Destination: netip.MustParseAddrPort("192.0.2.1:25")}
	full := v4
	full.Version, full.Request, full.Leases = Version, mail.ID{1, 2, 15: 3}, []uint64{1, 1<<64 - 1}
	full.Node, full.Name, full.Timeout = "node-1", "s1", 1500*time.Millisecond
	v6 := full
	v6.Source, v6.Destination = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddrPort("[2001:db8::2]:2525")
	bare := v4
	bare.Version = Version
	return []Header{v4, full, v6, bare}
}

func TestHeaderComesBack(t *testing.T) {
	for _, h := range headers() {
		b, err := h.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(io.MultiReader(bytes.NewReader(b), strings.NewReader("rest")))
		got, local, err := Read(r)
		if err != nil || local {
			t.Fatal(local, err)
		}
		if d := cmp.Diff(h, got, compare...); d != "" {
			t.Error(d)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "rest" {
			t.Errorf("left %q", rest)
		}
	}
}

func TestHeaderTakesNoMixtureOfFamilies(t *testing.T) {
	h := Header{Source: netip.MustParseAddr("127.0.0.2"), Destination: netip.MustParseAddrPort("[2001:db8::2]:25")}
	if b, err := h.Bytes(); err == nil {
		t.Errorf("%x", b)
	}
}

func TestUnusableHeaders(t *testing.T) {
	tlv := func(kind proxyproto.PP2Type, value string) string {
		h := headers()[0]
		p := &proxyproto.Header{Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.TCPv4}
		b, err := h.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		p, err = proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.SetTLVs([]proxyproto.TLV{{Type: kind, Value: []byte(value)}}); err != nil {
			t.Fatal(err)
		}
		b, err = p.Format()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	good, err := (&Header{Source: netip.MustParseAddr("127.0.0.2"), Destination: netip.MustParseAddrPort("192.0.2.1:25")}).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	udp := bytes.Clone(good)
	udp[13] = byte(proxyproto.UDPv4)
	noPort := bytes.Clone(good)
	noPort[26], noPort[27] = 0, 0
	for name, in := range map[string]string{
		"empty":            "",
		"SMTP":             "EHLO client.example\r\n",
		"version 1":        "PROXY TCP4 127.0.0.2 192.0.2.1 0 25\r\n",
		"cut":              string(good[:20]),
		"UDP":              string(udp),
		"port 0":           string(noPort),
		"version 0":        tlv(tlvVersion, "\x00"),
		"long version":     tlv(tlvVersion, "\x01\x01"),
		"short request":    tlv(tlvRequest, "123"),
		"odd leases":       tlv(tlvLeases, "123456789"),
		"too many leases":  tlv(tlvLeases, strings.Repeat("12345678", MaxLeases+1)),
		"long node":        tlv(tlvNode, strings.Repeat("x", 256)),
		"long source name": tlv(tlvSource, strings.Repeat("x", 256)),
		"short timeout":    tlv(tlvTimeout, "123"),
	} {
		if h, local, err := Read(bufio.NewReader(strings.NewReader(in))); !errors.Is(err, ErrHeader) || local {
			t.Errorf("%s: %+v, %v, %v", name, h, local, err)
		}
	}
	if _, _, err := Read(bufio.NewReader(strings.NewReader(tlv(0xEA, "of a later time")))); err != nil {
		t.Errorf("unknown field: %v", err)
	}
}

func TestLocalCommand(t *testing.T) {
	p := &proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	b, err := p.Format()
	if err != nil {
		t.Fatal(err)
	}
	if _, local, err := Read(bufio.NewReader(bytes.NewReader(b))); !local || err != nil {
		t.Error(local, err)
	}
}

func TestAnswerComesBack(t *testing.T) {
	for _, a := range []Answer{
		{},
		{Took: 1234 * time.Microsecond},
		{Status: Failed, Errno: syscall.ECONNREFUSED, Took: time.Millisecond, Text: "connection refused"},
		{Status: BadRequest, Text: strings.Repeat("x", 255)},
	} {
		b := a.Append(nil)
		r := strings.NewReader(string(b) + "220 mx")
		got, err := ReadAnswer(r)
		if err != nil || got != a {
			t.Errorf("%+v became %+v, %v", a, got, err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "220 mx" {
			t.Errorf("left %q", rest)
		}
		for n := range b {
			if got, err := ReadAnswer(bytes.NewReader(b[:n])); err == nil {
				t.Errorf("%d of %d bytes: %+v", n, len(b), got)
			}
		}
	}
	for _, in := range []string{"\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00", "220 mx.example\r\n"} {
		if a, err := ReadAnswer(strings.NewReader(in)); !errors.Is(err, errAnswer) {
			t.Errorf("%q: %+v, %v", in, a, err)
		}
	}
}

// FuzzRead checks that no bytes crash it, and that what it takes can be said again.
func FuzzRead(f *testing.F) {
	for _, h := range headers() {
		b, err := h.Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("PROXY TCP4 127.0.0.2 192.0.2.1 0 25\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, local, err := Read(bufio.NewReader(bytes.NewReader(in)))
		if err != nil || local {
			return
		}
		if h.Version == 0 { // fields without the version are nothing to us and not written
			h = Header{Source: h.Source, Destination: h.Destination}
		}
		b, err := h.Bytes()
		if err != nil {
			t.Fatalf("%+v: %v", h, err)
		}
		again, _, err := Read(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatalf("%+v: %v", h, err)
		}
		if d := cmp.Diff(h, again, compare...); d != "" {
			t.Error(d)
		}
	})
}

// FuzzReadAnswer checks that what it takes can be said again.
func FuzzReadAnswer(f *testing.F) {
	f.Add((&Answer{Status: Failed, Errno: syscall.ECONNREFUSED, Text: "connection refused"}).Append(nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := ReadAnswer(bytes.NewReader(in))
		if err != nil {
			return
		}
		if b := a.Append(nil); !bytes.HasPrefix(in, b) {
			t.Errorf("%x became %x", in, b)
		}
	})
}
