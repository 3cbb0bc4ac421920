package grant

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle"
)

// Magic is what both sides send first. Its first byte differs from those of
// TLS and of the PROXY protocol, so a port can serve all of them.
const Magic = "GODWTGRL"

// Version is the newest version of the protocol that this code speaks, lowest the oldest.
const (
	Version = 1
	lowest  = 1
)

// Bounds of what a peer may send.
const (
	headerSize = 3        // type, length of the payload
	maxPayload = 16 << 10 // bytes
	maxField   = 1 << 10  // bytes of one field of a key
	maxText    = 512      // bytes of a name, token or reason
	maxCount   = 1 << 30  // permits granted, messages, flows
	maxWant    = 1 << 16  // permits wanted at once, so that granting them takes no time that others miss
	maxLeases  = 1000     // leases in one Hold frame
)

// frameType is the first byte of a frame.
type frameType uint8

// The types of frames, with who sends them: the client, the server, both.
const (
	frameHello   frameType = iota + 1 // c: who it is
	frameAnswer                       // s: accepted
	frameBye                          // s: not accepted, closes
	frameBeat                         // b: clocks
	frameDefine                       // c: a number for a key
	frameForget                       // c: the number will not be used again
	frameLimits                       // c: limits of a key
	frameWant                         // c
	frameOpened                       // c
	frameDone                         // c
	frameCharge                       // c
	frameUnused                       // c
	frameObserve                      // c
	frameHold                         // c
	frameReady                        // c: all that it holds has been told
	frameGrant                        // s
	frameHint                         // s
	frameChange                       // s
	frameRefused                      // s: not the owner of the key
)

// errFrame is what a peer gets its contact closed for.
var errFrame = errors.New("grant: malformed frame")

type (
	hello struct {
		lowest, highest uint8
		clock           int64 // of the sender, ns
		name, token     string
	}
	answer struct {
		version     uint8
		clock, echo int64
		name        string
	}
	beat struct {
		clock int64 // of the sender when it sent this, ns
		echo  int64 // the newest clock of the receiver that the sender has seen
		held  int64 // how long ago it saw that, ns
	}
	define struct {
		num uint64
		key throttle.Key
	}
	limits struct {
		num    uint64
		limits throttle.Limits
	}
	want struct {
		num      uint64
		kind     throttle.Kind
		n        int
		priority mail.Priority
		flows    int
	}
	leaseFrame struct { // Opened, Done
		num, lease uint64
		clean      bool
	}
	count struct { // Charge, Unused
		num  uint64
		kind throttle.Kind // of Unused
		n    int
	}
	observe struct {
		num    uint64
		sample throttle.Sample
	}
	grantFrame struct {
		num   uint64
		kind  throttle.Kind
		n     int
		lease uint64
		at    time.Duration
	}
	hint struct {
		num       uint64
		kind      throttle.Kind
		after     time.Duration
		contended bool
		reason    string
	}
	change struct {
		num, seq uint64
		factor   float64
		reason   string
	}
)

// open begins a frame; shut fills in its length. Between the two the payload is appended.
func open(b []byte, t frameType) []byte { return append(b, byte(t), 0, 0) }

func shut(b []byte, start int) []byte {
	binary.LittleEndian.PutUint16(b[start+1:], uint16(len(b)-start-headerSize))
	return b
}

func appendString(b []byte, s string, most int) []byte {
	s = s[:min(len(s), most)]
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendInt(b []byte, n int) []byte {
	return binary.AppendUvarint(b, uint64(min(max(n, 0), maxCount)))
}

func appendFloat(b []byte, f float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
}

func appendHello(b []byte, f hello) []byte {
	start := len(b)
	b = append(open(b, frameHello), f.lowest, f.highest)
	b = binary.AppendVarint(b, f.clock)
	return shut(appendString(appendString(b, f.name, maxText), f.token, maxText), start)
}

func appendAnswer(b []byte, f answer) []byte {
	start := len(b)
	b = append(open(b, frameAnswer), f.version)
	b = binary.AppendVarint(binary.AppendVarint(b, f.clock), f.echo)
	return shut(appendString(b, f.name, maxText), start)
}

func appendBye(b []byte, reason string) []byte {
	start := len(b)
	return shut(appendString(open(b, frameBye), reason, maxText), start)
}

func appendBeat(b []byte, f beat) []byte {
	start := len(b)
	b = binary.AppendVarint(open(b, frameBeat), f.clock)
	return shut(binary.AppendVarint(binary.AppendVarint(b, f.echo), f.held), start)
}

// appendDefine needs a key whose fields are no longer than maxField.
func appendDefine(b []byte, f define) []byte {
	start := len(b)
	b = binary.AppendUvarint(open(b, frameDefine), f.num)
	for _, s := range keyFields(&f.key) {
		b = appendString(b, *s, maxField)
	}
	return shut(b, start)
}

func appendForget(b []byte, num uint64) []byte {
	start := len(b)
	return shut(binary.AppendUvarint(open(b, frameForget), num), start)
}

func appendReady(b []byte) []byte { return shut(open(b, frameReady), len(b)) }

func appendRefused(b []byte, num uint64) []byte {
	start := len(b)
	return shut(binary.AppendUvarint(open(b, frameRefused), num), start)
}

func appendLimits(b []byte, f limits) []byte {
	start, l := len(b), &f.limits
	b = binary.AppendUvarint(open(b, frameLimits), f.num)
	b = appendInt(b, l.Connections)
	b = appendRate(appendRate(b, l.ConnectRate), l.MessageRate)
	b = binary.AppendUvarint(b, uint64(max(l.Daily, 0)))
	if l.Loop == (throttle.Loop{}) {
		return shut(append(b, 0), start)
	}
	b = append(b, 1)
	for _, v := range [...]float64{l.Loop.High, l.Loop.Low, l.Loop.Decrease, l.Loop.Increase, l.Loop.Floor} {
		b = appendFloat(b, v)
	}
	b = binary.AppendUvarint(b, uint64(max(l.Loop.Window, 0)))
	return shut(appendInt(b, l.Loop.Least), start)
}

func appendRate(b []byte, r units.Rate) []byte {
	if r.IsZero() {
		return append(b, 0)
	}
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(r.Count)), uint64(r.Per))
}

func appendWant(b []byte, f want) []byte {
	start := len(b)
	b = append(binary.AppendUvarint(open(b, frameWant), f.num), byte(f.kind), byte(f.priority))
	return shut(appendInt(appendInt(b, min(f.n, maxWant)), f.flows), start)
}

func appendLease(b []byte, t frameType, f leaseFrame) []byte {
	start := len(b)
	b = binary.AppendUvarint(binary.AppendUvarint(open(b, t), f.num), f.lease)
	return shut(appendBool(b, f.clean), start)
}

func appendCharge(b []byte, f count) []byte {
	start := len(b)
	return shut(appendInt(binary.AppendUvarint(open(b, frameCharge), f.num), f.n), start)
}

func appendUnused(b []byte, f count) []byte {
	start := len(b)
	b = append(binary.AppendUvarint(open(b, frameUnused), f.num), byte(f.kind))
	return shut(appendInt(b, f.n), start)
}

func appendObserve(b []byte, f observe) []byte {
	start := len(b)
	b = binary.AppendUvarint(open(b, frameObserve), f.num)
	return shut(appendInt(appendInt(b, f.sample.Delivered), f.sample.Deferred), start)
}

// appendHold writes at most maxLeases of the leases; more tells that others follow.
func appendHold(b []byte, num uint64, leases []uint64, more bool) []byte {
	start := len(b)
	b = appendBool(binary.AppendUvarint(open(b, frameHold), num), more)
	b = binary.AppendUvarint(b, uint64(len(leases)))
	for _, id := range leases {
		b = binary.AppendUvarint(b, id)
	}
	return shut(b, start)
}

func appendGrant(b []byte, f grantFrame) []byte {
	start := len(b)
	b = append(binary.AppendUvarint(open(b, frameGrant), f.num), byte(f.kind))
	b = binary.AppendUvarint(appendInt(b, f.n), f.lease)
	return shut(binary.AppendVarint(b, int64(f.at)), start)
}

func appendHint(b []byte, f hint) []byte {
	start := len(b)
	b = append(binary.AppendUvarint(open(b, frameHint), f.num), byte(f.kind))
	b = appendBool(binary.AppendUvarint(b, uint64(max(f.after, 0))), f.contended)
	return shut(appendString(b, f.reason, maxText), start)
}

func appendChange(b []byte, f change) []byte {
	start := len(b)
	b = binary.AppendUvarint(binary.AppendUvarint(open(b, frameChange), f.num), f.seq)
	return shut(appendString(appendFloat(b, f.factor), f.reason, maxText), start)
}

// keyFields lists the fields of a key in the order of the wire.
func keyFields(k *throttle.Key) [6]*string {
	return [...]*string{&k.Source, &k.Pool, &k.Tenant, &k.Provider, &k.Site, &k.Domain}
}

// fits reports whether k can go over the wire.
func fits(k *throttle.Key) bool {
	return len(k.Source) <= maxField && len(k.Pool) <= maxField && len(k.Tenant) <= maxField &&
		len(k.Provider) <= maxField && len(k.Site) <= maxField && len(k.Domain) <= maxField
}
