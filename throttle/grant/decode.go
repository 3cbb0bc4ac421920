package grant

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle"
)

// decoder takes a payload apart. After anything malformed it is bad, and all
// that follows is zero.
type decoder struct {
	b   []byte
	bad bool
}

// end reports whether the payload was good and is used up.
func (d *decoder) end() error {
	if d.bad || len(d.b) != 0 {
		return errFrame
	}
	return nil
}

func (d *decoder) fail() { d.b, d.bad = nil, true }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) bool() bool {
	c := d.byte()
	if c > 1 {
		d.fail()
	}
	return c == 1
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// int reads a count of at most most.
func (d *decoder) int(most uint64) int {
	v := d.uvarint()
	if v > most {
		d.fail()
		return 0
	}
	return int(v)
}

// span reads a duration that is not negative.
func (d *decoder) span() time.Duration {
	v := d.uvarint()
	if v > math.MaxInt64 {
		d.fail()
		return 0
	}
	return time.Duration(v)
}

// float reads a number that is finite and not negative.
func (d *decoder) float() float64 {
	if len(d.b) < 8 {
		d.fail()
		return 0
	}
	v := math.Float64frombits(binary.LittleEndian.Uint64(d.b))
	d.b = d.b[8:]
	if !(v >= 0) || math.IsInf(v, 0) {
		d.fail()
		return 0
	}
	return v
}

// text reads a string of at most most bytes. The copy is the only allocation of a decoder.
func (d *decoder) text(most uint64) string {
	n := d.uvarint()
	if n > most || n > uint64(len(d.b)) {
		d.fail()
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) kind() throttle.Kind {
	k := throttle.Kind(d.byte())
	if k != throttle.Connect && k != throttle.Send {
		d.fail()
	}
	return k
}

func (d *decoder) priority() mail.Priority {
	p := mail.Priority(d.byte())
	if p > mail.Urgent {
		d.fail()
	}
	return p
}

func (d *decoder) rate() units.Rate {
	n := d.uvarint()
	if n == 0 {
		return units.Rate{}
	}
	r := units.Rate{Count: int64(n), Per: d.span()}
	if n > math.MaxInt64 || r.Per == 0 {
		d.fail()
	}
	return r
}

func decodeHello(p []byte) (hello, error) {
	d := decoder{b: p}
	f := hello{lowest: d.byte(), highest: d.byte(), clock: d.varint(), name: d.text(maxText), token: d.text(maxText)}
	// A newer version may say more here.
	if d.bad || f.highest == Version && len(d.b) > 0 {
		return f, errFrame
	}
	return f, nil
}

func decodeAnswer(p []byte) (answer, error) {
	d := decoder{b: p}
	f := answer{version: d.byte(), clock: d.varint(), echo: d.varint(), name: d.text(maxText)}
	return f, d.end()
}

func decodeBye(p []byte) (string, error) {
	d := decoder{b: p}
	s := d.text(maxText)
	return s, d.end()
}

func decodeBeat(p []byte) (beat, error) {
	d := decoder{b: p}
	f := beat{clock: d.varint(), echo: d.varint(), held: d.varint()}
	return f, d.end()
}

func decodeDefine(p []byte) (define, error) {
	d := decoder{b: p}
	f := define{num: d.uvarint()}
	for _, s := range keyFields(&f.key) {
		*s = d.text(maxField)
	}
	return f, d.end()
}

func decodeNum(p []byte) (uint64, error) {
	d := decoder{b: p}
	n := d.uvarint()
	return n, d.end()
}

// decodePrefix reads only the number, of a payload that has more.
func decodePrefix(p []byte) (uint64, error) {
	d := decoder{b: p}
	n := d.uvarint()
	if d.bad {
		return 0, errFrame
	}
	return n, nil
}

func decodeLimits(p []byte) (limits, error) {
	d := decoder{b: p}
	f := limits{num: d.uvarint()}
	l := &f.limits
	l.Connections = d.int(maxCount)
	l.ConnectRate, l.MessageRate = d.rate(), d.rate()
	l.Daily = int64(d.span())
	if d.bool() {
		for _, v := range [...]*float64{&l.Loop.High, &l.Loop.Low, &l.Loop.Decrease, &l.Loop.Increase, &l.Loop.Floor} {
			*v = d.float()
		}
		l.Loop.Window, l.Loop.Least = d.span(), d.int(maxCount)
	}
	return f, d.end()
}

func decodeWant(p []byte) (want, error) {
	d := decoder{b: p}
	f := want{num: d.uvarint(), kind: d.kind(), priority: d.priority(), n: d.int(maxWant), flows: d.int(maxCount)}
	return f, d.end()
}

func decodeLease(p []byte) (leaseFrame, error) {
	d := decoder{b: p}
	f := leaseFrame{num: d.uvarint(), lease: d.uvarint(), clean: d.bool()}
	return f, d.end()
}

func decodeCharge(p []byte) (count, error) {
	d := decoder{b: p}
	f := count{num: d.uvarint(), n: d.int(maxCount)}
	return f, d.end()
}

func decodeUnused(p []byte) (count, error) {
	d := decoder{b: p}
	f := count{num: d.uvarint(), kind: d.kind(), n: d.int(maxCount)}
	return f, d.end()
}

func decodeObserve(p []byte) (observe, error) {
	d := decoder{b: p}
	f := observe{num: d.uvarint(), sample: throttle.Sample{Delivered: d.int(maxCount), Deferred: d.int(maxCount)}}
	return f, d.end()
}

// decodeHold appends the leases to those of earlier frames of the same key.
func decodeHold(p []byte, leases []uint64) (num uint64, all []uint64, more bool, err error) {
	d := decoder{b: p}
	num, more = d.uvarint(), d.bool()
	n := d.int(maxLeases)
	for range n {
		if d.bad {
			break
		}
		leases = append(leases, d.uvarint())
	}
	return num, leases, more, d.end()
}

func decodeGrant(p []byte) (grantFrame, error) {
	d := decoder{b: p}
	f := grantFrame{num: d.uvarint(), kind: d.kind(), n: d.int(maxCount), lease: d.uvarint(), at: time.Duration(d.varint())}
	return f, d.end()
}

func decodeHint(p []byte) (hint, error) {
	d := decoder{b: p}
	f := hint{num: d.uvarint(), kind: d.kind(), after: d.span(), contended: d.bool(), reason: d.text(maxText)}
	return f, d.end()
}

func decodeChange(p []byte) (change, error) {
	d := decoder{b: p}
	f := change{num: d.uvarint(), seq: d.uvarint(), factor: d.float(), reason: d.text(maxText)}
	return f, d.end()
}
