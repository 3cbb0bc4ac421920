package account

import "encoding/binary"

// eventKey names an event by whom it is of.
type eventKey struct {
	profile uint32 // dense
	metric  uint32 // its number
	uid     [16]byte
}

// hash mixes the parts; the unique id's hash is even already.
func (k *eventKey) hash() uint64 {
	h := binary.LittleEndian.Uint64(k.uid[:]) ^ uint64(k.profile)*0x9e3779b97f4a7c15 ^ uint64(k.metric)*0xc2b2ae3d27d4eb4f
	return h ^ h>>29
}

// append appends the key of an event's row.
func (k *eventKey) append(b []byte) []byte {
	b = appendEvents(b, k.profile)
	b = binary.AppendUvarint(b, uint64(k.metric))
	return append(b, k.uid[:]...)
}

// appendEvents appends what the keys of a profile's events begin with.
func appendEvents(b []byte, profile uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, prefixEvent), profile)
}

// parseEventKey reads a key.
func parseEventKey(b []byte) (k eventKey, ok bool) {
	if len(b) < 5 {
		return k, false
	}
	k.profile = binary.BigEndian.Uint32(b[1:])
	metric, n := binary.Uvarint(b[5:])
	if n <= 0 || len(b) != 5+n+len(k.uid) {
		return k, false
	}
	k.metric = uint32(metric)
	copy(k.uid[:], b[5+n:])
	return k, true
}

// dim is a dimension of an event by its number.
type dim struct {
	number uint32
	value  []byte
}

// eventValue is what taking an event back needs. A row without it is of a profile that was deleted:
// it only says that the event was counted.
type eventValue struct {
	at    int64 // Unix seconds
	value int64 // millionths
	dims  []dim
}

func (e *eventValue) append(b []byte) []byte {
	b = binary.AppendVarint(b, e.at)
	b = binary.AppendVarint(b, e.value)
	for _, d := range e.dims {
		b = binary.AppendUvarint(b, uint64(d.number))
		b = binary.AppendUvarint(b, uint64(len(d.value)))
		b = append(b, d.value...)
	}
	return b
}

// parse reads a value. What it has lies in b.
func (e *eventValue) parse(b []byte) (ok bool) {
	p := parser{b: b}
	e.at, e.value, e.dims = p.varint(), p.varint(), e.dims[:0]
	for len(p.b) > 0 && !p.bad {
		e.dims = append(e.dims, dim{p.number(), p.bytes()})
	}
	return !p.bad
}

// parser takes values off the front of b. After something did not fit, bad is set and all is zero.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 || p.bad {
		p.bad = true
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *parser) varint() int64 {
	v := p.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

// number is a uvarint of 32 bits.
func (p *parser) number() uint32 {
	v := p.uvarint()
	if v > 1<<32-1 {
		p.bad = true
		return 0
	}
	return uint32(v)
}

func (p *parser) take(n uint64) []byte {
	if p.bad || n > uint64(len(p.b)) {
		p.bad = true
		return nil
	}
	out := p.b[:n:n]
	p.b = p.b[n:]
	return out
}

func (p *parser) bytes() []byte { return p.take(p.uvarint()) }

func (p *parser) string() string { return string(p.bytes()) }

func appendBytes[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// filter says of an event that it was not counted, without asking the state, if it covers the profile: if
// all events of the profile are in it. It has two generations, so that it can forget.
type filter struct {
	now, before bloom
	epoch       uint32 // of now; counts from 1
	added       int
}

const (
	filterProbes = 6
	filterBits   = 10 // for each thing
	blockWords   = 8  // one cache line
)

func newFilter(bytes int) *filter {
	return &filter{now: newBloom(bytes / 2), before: newBloom(bytes / 2), epoch: 1}
}

// covers reports whether a profile whose events are all in the filter since an epoch is covered.
func (f *filter) covers(since uint32) bool { return since != 0 && since+1 >= f.epoch }

func (f *filter) add(hash uint64) {
	f.added++
	f.now.add(hash)
}

// turn begins a new generation if the last one is full. It must not be called while a window has events.
func (f *filter) turn() {
	if f.added < f.now.capacity() {
		return
	}
	f.now, f.before = f.before, f.now
	clear(f.now)
	f.epoch++
	f.added = 0
}

// has reports whether an event may have been added.
func (f *filter) has(hash uint64) bool { return f.now.has(hash) || f.epoch > 1 && f.before.has(hash) }

// bloom is a Bloom filter whose bits for one thing are in one cache line.
type bloom []uint64

func newBloom(bytes int) bloom { return make(bloom, max(blockWords, bytes/8/blockWords*blockWords)) }

// capacity is how many things it can have before it errs much more often than once in a hundred times.
func (b bloom) capacity() int { return len(b) * 64 / filterBits }

func (b bloom) block(hash uint64) []uint64 {
	return b[hash>>32%uint64(len(b)/blockWords)*blockWords:][:blockWords]
}

func (b bloom) add(hash uint64) {
	block, h := b.block(hash), uint32(hash)
	for range filterProbes {
		h = h*0x9e3779b1 + 0x7f4a7c15
		block[h>>29] |= 1 << (h >> 23 & 63)
	}
}

func (b bloom) has(hash uint64) bool {
	block, h := b.block(hash), uint32(hash)
	for range filterProbes {
		h = h*0x9e3779b1 + 0x7f4a7c15
		if block[h>>29]&(1<<(h>>23&63)) == 0 {
			return false
		}
	}
	return true
}
