// Package wire is what a node and a Godwit proxy say to each other at the start
// of a data connection: a PROXY protocol v2 header with fields of ours, and the
// proxy's answer. docs/formats/proxy.md has every byte.
//
// The header's source is the sending address and its destination the mail
// exchanger, so a header without our fields is what any client of an HAProxy
// would send. Our fields are TLVs of the range that the protocol leaves to
// applications (PROXY protocol §2.2.8).
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Version is the version of the fields and of the answer.
const Version = 1

// The types of our TLVs.
const (
	tlvVersion proxyproto.PP2Type = 0xE0 + iota // u8, first of ours
	tlvRequest                                  // 16 bytes
	tlvLeases                                   // u64 each
	tlvNode                                     // text
	tlvSource                                   // text
	tlvTimeout                                  // u32, milliseconds
)

// Bounds of what a header may hold.
const (
	MaxLeases = 64
	maxName   = 255
)

// maxTimeout is the longest time that fits the field.
const maxTimeout = time.Duration(1<<32-1) * time.Millisecond

// First is the first byte of a header. Neither a TLS handshake nor a grant link begins with it.
const First = '\r'

// ErrHeader is wrapped by every error of Read that is about what the bytes say.
var ErrHeader = errors.New("not a usable PROXY v2 header")

// Header begins a data connection.
type Header struct {
	Source      netip.Addr     // local address of the connection to make
	Destination netip.AddrPort // mail exchanger, of the same family

	// Version is that of our fields; 0: there are none, and the client expects no answer.
	Version uint8
	Request mail.ID       // names the connection in logs of both sides
	Leases  []uint64      // permits that the proxy's authority granted for it
	Node    string        // who asks
	Name    string        // of the source; "": whichever has the address
	Timeout time.Duration // for the connect; 0: as the proxy likes
}

// Bytes is the header as it goes out.
func (h *Header) Bytes() ([]byte, error) {
	p := &proxyproto.Header{Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.TCPv4,
		SourceAddr:      net.TCPAddrFromAddrPort(netip.AddrPortFrom(h.Source, 0)),
		DestinationAddr: net.TCPAddrFromAddrPort(h.Destination)}
	if h.Source.Is4() != h.Destination.Addr().Is4() {
		return nil, fmt.Errorf("wire: %v and %v are not of the same family", h.Source, h.Destination)
	}
	if h.Source.Is6() {
		p.TransportProtocol = proxyproto.TCPv6
	}
	if h.Version > 0 {
		raw, err := h.fields()
		if err != nil {
			return nil, err
		}
		if err := p.SetTLVs(raw); err != nil {
			return nil, err
		}
	}
	return p.Format()
}

func (h *Header) fields() ([]proxyproto.TLV, error) {
	if len(h.Leases) > MaxLeases || len(h.Node) > maxName || len(h.Name) > maxName {
		return nil, errors.New("wire: too many leases or too long a name")
	}
	list := []proxyproto.TLV{{Type: tlvVersion, Value: []byte{h.Version}}}
	add := func(t proxyproto.PP2Type, v []byte) {
		if len(v) > 0 {
			list = append(list, proxyproto.TLV{Type: t, Value: v})
		}
	}
	if !h.Request.IsZero() {
		add(tlvRequest, h.Request[:])
	}
	var leases []byte
	for _, id := range h.Leases {
		leases = binary.BigEndian.AppendUint64(leases, id)
	}
	add(tlvLeases, leases)
	add(tlvNode, []byte(h.Node))
	add(tlvSource, []byte(h.Name))
	if h.Timeout > 0 {
		add(tlvTimeout, binary.BigEndian.AppendUint32(nil, uint32(min(h.Timeout, maxTimeout).Milliseconds())))
	}
	return list, nil
}

// Read reads a header. What follows it stays in r. local is true for the
// LOCAL command, by which balancers try whether we are alive: there is no
// header then and nothing to connect.
func Read(r *bufio.Reader) (h Header, local bool, err error) {
	p, err := proxyproto.Read(r)
	if err != nil {
		return Header{}, false, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	if p.Version != 2 {
		return Header{}, false, fmt.Errorf("%w: version %d", ErrHeader, p.Version)
	}
	if p.Command.IsLocal() {
		return Header{}, true, nil
	}
	source, destination, ok := p.TCPAddrs()
	if !ok {
		return Header{}, false, fmt.Errorf("%w: not about TCP", ErrHeader)
	}
	h.Source = source.AddrPort().Addr().Unmap()
	h.Destination = netip.AddrPortFrom(destination.AddrPort().Addr().Unmap(), destination.AddrPort().Port())
	if h.Source.Is4() != h.Destination.Addr().Is4() || h.Destination.Port() == 0 {
		return Header{}, false, fmt.Errorf("%w: from %v to %v", ErrHeader, h.Source, h.Destination)
	}
	list, err := p.TLVs()
	if err != nil {
		return Header{}, false, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	for _, t := range list {
		if err := h.field(t); err != nil {
			return Header{}, false, err
		}
	}
	return h, false, nil
}

// field takes one TLV. Types that are not ours are others' business.
func (h *Header) field(t proxyproto.TLV) error {
	bad := false
	switch v := t.Value; t.Type {
	case tlvVersion:
		if bad = len(v) != 1 || v[0] == 0; !bad {
			h.Version = v[0]
		}
	case tlvRequest:
		bad = len(v) != len(h.Request)
		copy(h.Request[:], v)
	case tlvLeases:
		if bad = len(v)%8 != 0 || len(v) > 8*MaxLeases; bad {
			break
		}
		for ; len(v) > 0; v = v[8:] {
			h.Leases = append(h.Leases, binary.BigEndian.Uint64(v))
		}
		bad = len(h.Leases) > MaxLeases
	case tlvNode:
		bad = len(v) > maxName
		h.Node = string(v)
	case tlvSource:
		bad = len(v) > maxName
		h.Name = string(v)
	case tlvTimeout:
		if bad = len(v) != 4; !bad {
			h.Timeout = time.Duration(binary.BigEndian.Uint32(v)) * time.Millisecond
		}
	}
	if bad {
		return fmt.Errorf("%w: malformed field %#x", ErrHeader, byte(t.Type))
	}
	return nil
}
