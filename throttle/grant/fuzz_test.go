package grant

import (
	"bytes"
	"io"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle"
)

// recode decodes a payload and writes it again. ok is false if it is malformed.
func recode(t frameType, p []byte) (b []byte, ok bool) {
	switch t {
	case frameHello:
		return again(decodeHello, appendHello)(p)
	case frameAnswer:
		return again(decodeAnswer, appendAnswer)(p)
	case frameBye:
		return again(decodeBye, appendBye)(p)
	case frameBeat:
		return again(decodeBeat, appendBeat)(p)
	case frameDefine:
		return again(decodeDefine, appendDefine)(p)
	case frameForget:
		return again(decodeNum, appendForget)(p)
	case frameLimits:
		return again(decodeLimits, appendLimits)(p)
	case frameWant:
		return again(decodeWant, appendWant)(p)
	case frameOpened, frameDone:
		return again(decodeLease, func(b []byte, f leaseFrame) []byte { return appendLease(b, t, f) })(p)
	case frameCharge:
		return again(decodeCharge, appendCharge)(p)
	case frameUnused:
		return again(decodeUnused, appendUnused)(p)
	case frameObserve:
		return again(decodeObserve, appendObserve)(p)
	case frameHold:
		num, leases, more, err := decodeHold(p, nil)
		return appendHold(nil, num, leases, more), err == nil
	case frameReady:
		return appendReady(nil), len(p) == 0
	case frameGrant:
		return again(decodeGrant, appendGrant)(p)
	case frameHint:
		return again(decodeHint, appendHint)(p)
	case frameChange:
		return again(decodeChange, appendChange)(p)
	case frameRefused:
		return again(decodeNum, appendRefused)(p)
	}
	return nil, false
}

func again[F any](decode func([]byte) (F, error), encode func([]byte, F) []byte) func([]byte) ([]byte, bool) {
	return func(p []byte) ([]byte, bool) {
		f, err := decode(p)
		if err != nil {
			return nil, false
		}
		return encode(nil, f), true
	}
}

// samples has a frame of each type, with fields that differ.
func samples() map[frameType][]byte {
	key := throttle.Key{Source: "s1", Pool: "p", Tenant: "t", Provider: "google", Site: "mx.example", Domain: "example.com"}
	loop := throttle.Loop{High: 0.2, Low: 0.05, Decrease: 0.5, Increase: 0.1, Floor: 0.01, Window: time.Minute, Least: 20}
	all := throttle.Limits{Connections: 5, ConnectRate: units.Rate{Count: 3, Per: time.Second},
		MessageRate: units.Rate{Count: 7, Per: time.Minute}, Daily: 5000, Loop: loop}
	return map[frameType][]byte{
		frameHello:   appendHello(nil, hello{1, 3, 12345678, "node", "token"}),
		frameAnswer:  appendAnswer(nil, answer{1, 98765, -3, "proxy1"}),
		frameBye:     appendBye(nil, "wrong token"),
		frameBeat:    appendBeat(nil, beat{1 << 40, 1 << 41, 77}),
		frameDefine:  appendDefine(nil, define{2, key}),
		frameForget:  appendForget(nil, 1<<63),
		frameLimits:  appendLimits(nil, limits{2, all}),
		frameWant:    appendWant(nil, want{2, throttle.Connect, 100, mail.Urgent, 9}),
		frameOpened:  appendLease(nil, frameOpened, leaseFrame{num: 2, lease: 1 << 62}),
		frameDone:    appendLease(nil, frameDone, leaseFrame{2, 1 << 62, true}),
		frameCharge:  appendCharge(nil, count{num: 2, n: 4}),
		frameUnused:  appendUnused(nil, count{2, throttle.Send, 4}),
		frameObserve: appendObserve(nil, observe{2, throttle.Sample{Delivered: 8, Deferred: 1}}),
		frameHold:    appendHold(nil, 2, []uint64{1, 1 << 63, 5}, true),
		frameReady:   appendReady(nil),
		frameGrant:   appendGrant(nil, grantFrame{2, throttle.Send, 12, 1 << 50, 17 * time.Second}),
		frameHint:    appendHint(nil, hint{2, throttle.Connect, time.Second, true, "message rate 10/min"}),
		frameChange:  appendChange(nil, change{2, 6, 0.25, "30% deferred"}),
		frameRefused: appendRefused(nil, 2),
	}
}

func TestFramesSurviveTheWire(t *testing.T) {
	all := samples()
	for f := frameHello; f <= frameRefused; f++ {
		b, ok := recode(f, all[f][headerSize:])
		if !ok || !bytes.Equal(b, all[f]) {
			t.Errorf("type %d: %x became %x", f, all[f], b)
		}
		for i := range len(all[f]) - headerSize {
			if _, ok := recode(f, all[f][headerSize:headerSize+i]); ok {
				t.Errorf("type %d: the first %d of %d bytes are taken for whole", f, i, len(all[f])-headerSize)
			}
		}
	}
	l, err := decodeLimits(all[frameLimits][headerSize:])
	if err != nil || l.limits.Loop.Window != time.Minute || l.limits.MessageRate.Count != 7 || l.limits.ConnectRate.Per != time.Second {
		t.Errorf("limits %+v, %v", l, err)
	}
	g, err := decodeGrant(all[frameGrant][headerSize:])
	if want := (grantFrame{2, throttle.Send, 12, 1 << 50, 17 * time.Second}); err != nil || g != want {
		t.Errorf("grant %+v, %v", g, err)
	}
}

// FuzzFrames reads any bytes as frames, in pieces of any size. What is accepted must
// come out the same when it is written and read again.
func FuzzFrames(f *testing.F) {
	var stream []byte
	for _, t := range slices.Sorted(maps.Keys(samples())) {
		b := samples()[t]
		f.Add(b, 3)
		stream = append(stream, b...)
	}
	f.Add(stream, 7)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		r := newReader(&pieces{b, max(piece&0xffff, 1)})
		for {
			typ, p, err := r.wait()
			if err != nil {
				return
			}
			one, ok := recode(typ, p)
			if !ok {
				continue
			}
			if len(one)-headerSize > maxPayload {
				t.Fatalf("type %d: %d bytes were accepted and need %d", typ, len(p), len(one))
			}
			two, ok := recode(typ, one[headerSize:])
			if !ok || !bytes.Equal(one, two) {
				t.Fatalf("type %d: %x became %x", typ, one, two)
			}
		}
	})
}

// pieces is a reader that gives a few bytes at a time.
type pieces struct {
	b []byte
	n int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.n)], p.b)
	p.b = p.b[n:]
	return n, nil
}

// FuzzContact lets a node that has shown its token send anything. The keeper is closed: its
// goroutine would make each input look like a new one.
func FuzzContact(f *testing.F) {
	stream := samples()[frameDefine]
	for _, t := range slices.Sorted(maps.Keys(samples())) {
		if t > frameForget && t <= frameReady {
			stream = append(stream, samples()[t]...)
		}
	}
	for _, t := range slices.Sorted(maps.Keys(samples())) {
		f.Add(append(slices.Clone(stream), samples()[t]...))
	}
	server, err := NewServer(ServerOptions{Name: "proxy1"}, ServerDeps{Keeper: throttle.NewKeeper(throttle.DefaultOptions())})
	if err != nil {
		f.Fatal(err)
	}
	server.d.Keeper.Close()
	f.Fuzz(func(t *testing.T, b []byte) {
		near, far := net.Pipe()
		defer far.Close()
		c := &contact{s: server, l: newLine(near, server.d.Keeper.Now), node: "n1", gone: make(chan struct{}),
			keys: map[uint64]*served{}, nums: map[throttle.Key]uint64{}}
		c.handle = server.d.Keeper.Attach(c.node, c.deliver)
		defer c.handle.Leave(true)
		r := newReader(bytes.NewReader(b))
		for {
			typ, p, err := r.wait()
			if err != nil || c.frame(typ, p) != nil {
				break
			}
		}
		if len(c.keys) != len(c.nums) {
			t.Errorf("%d numbers, %d keys", len(c.keys), len(c.nums))
		}
	})
}
