package grant

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// served is a key that a client gave a number.
type served struct {
	num  uint64
	key  throttle.Key
	held []uint64 // of Hold frames whose last has not come

	// Under contact.owning.
	limits throttle.Limits
	wants  [2]bool // something is wanted, by kind
}

// contact is one node's link at the server. Its frames are dealt with by the
// goroutine that reads; what goes out is put into a buffer, of which another writes.
type contact struct {
	s     *Server
	l     *line
	node  string
	since time.Time
	gone  chan struct{} // closed when the contact has left the authority

	handle *throttle.Handle // nil until attached

	owning sync.Mutex // held from asking Owns until the want is told, so that recheck sees all wants
	joined bool       // between attach and leave

	mu       sync.Mutex
	keys     map[uint64]*served
	nums     map[throttle.Key]uint64
	out      []byte
	complete bool
}

func (c *contact) run() {
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.l.write(c.take)
	}()
	c.l.kick()
	c.l.read(func(_, _ time.Duration) {}, c.attach, c.frame)
	c.leave()
	<-written
}

// attach joins the authority at the first beat. That one echoes our answer, so the
// client is there now: an old Hello that sat in a buffer while we were paused joins nothing.
func (c *contact) attach() error {
	if c.handle != nil || !c.l.proven {
		return nil
	}
	if err := c.s.enter(c); err != nil {
		return err
	}
	if c.l.ended() || c.l.stale() { // while the older contact ended
		c.s.exit(c)
		return ErrLost
	}
	c.owning.Lock()
	c.handle, c.joined = c.s.d.Keeper.Attach(c.node, c.deliver), true
	c.owning.Unlock()
	c.s.d.Metrics.contact(sideServer, 1)
	return nil
}

// leave undoes attach.
func (c *contact) leave() {
	cause := c.l.err()
	if c.handle == nil {
		c.s.d.Logger.Warn("grant link ended before it was in use", slog.String("node", c.node), slog.Any("error", cause))
		return
	}
	c.owning.Lock()
	c.joined = false
	c.handle.Leave(false)
	c.owning.Unlock()
	if c.isComplete() {
		c.s.d.OnContact(c.node, false)
	}
	c.s.exit(c)
	c.s.d.Metrics.contact(sideServer, -1)
	c.s.d.Metrics.lost(sideServer, cause)
	c.s.d.Logger.Info("contact with node lost", slog.String("node", c.node), slog.Any("error", cause))
}

func (c *contact) isComplete() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.complete
}

func (c *contact) status() Contact {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Contact{Node: c.node, Address: address(c.l.conn), Since: c.since, Complete: c.complete,
		Age: c.l.age(), RoundTrip: time.Duration(c.l.trip.Load()), Keys: len(c.keys)}
}

// frame deals with one frame of the client.
func (c *contact) frame(t frameType, p []byte) error {
	if c.handle == nil {
		return errFrame
	}
	switch t {
	case frameDefine:
		f, err := decodeDefine(p)
		if err != nil {
			return err
		}
		return c.define(f)
	case frameReady:
		return c.ready(p)
	case frameWant:
		f, err := decodeWant(p)
		return c.with(f.num, err, func(k *served) { c.want(k, f) })
	case frameLimits:
		f, err := decodeLimits(p)
		return c.with(f.num, err, func(k *served) { c.limit(k, f.limits) })
	case frameOpened:
		f, err := decodeLease(p)
		return c.with(f.num, err, func(k *served) { c.handle.Opened(k.key, f.lease) })
	case frameDone:
		f, err := decodeLease(p)
		return c.with(f.num, err, func(k *served) { c.handle.Done(k.key, f.lease, f.clean) })
	case frameHold:
		return c.hold(p)
	case frameForget:
		num, err := decodeNum(p)
		return c.with(num, err, c.forget)
	}
	return c.account(t, p)
}

// account deals with the frames that only count.
func (c *contact) account(t frameType, p []byte) error {
	switch t {
	case frameCharge:
		f, err := decodeCharge(p)
		return c.with(f.num, err, func(k *served) { c.handle.Charge(k.key, f.n) })
	case frameUnused:
		f, err := decodeUnused(p)
		return c.with(f.num, err, func(k *served) { c.handle.Unused(k.key, f.kind, f.n) })
	case frameObserve:
		f, err := decodeObserve(p)
		return c.with(f.num, err, func(k *served) { c.handle.Observe(k.key, f.sample) })
	}
	return fmt.Errorf("%w: type %d", errFrame, t)
}

// with calls f with the key of a number. Only this goroutine changes the table,
// so it may read it without the lock.
func (c *contact) with(num uint64, err error, f func(*served)) error {
	if err != nil {
		return err
	}
	k := c.keys[num]
	if k == nil {
		return fmt.Errorf("%w: number %d is not defined", errFrame, num)
	}
	f(k)
	return nil
}

func (c *contact) define(f define) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.nums[f.key]
	if c.keys[f.num] != nil || known || len(c.keys) >= maxKeys {
		return fmt.Errorf("%w: number %d cannot be defined", errFrame, f.num)
	}
	c.keys[f.num], c.nums[f.key] = &served{num: f.num, key: f.key}, f.num
	return nil
}

func (c *contact) forget(k *served) {
	c.owning.Lock()
	c.withdraw(k)
	c.owning.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.keys, k.num)
	delete(c.nums, k.key)
}

func (c *contact) limit(k *served, l throttle.Limits) {
	c.owning.Lock()
	defer c.owning.Unlock()
	k.limits = l
}

func (c *contact) want(k *served, f want) {
	c.owning.Lock()
	defer c.owning.Unlock()
	if f.n > 0 && !c.s.d.Owns(k.key) {
		c.refuse(k)
		return
	}
	k.wants[f.kind-1] = f.n > 0
	c.handle.Want(throttle.Want{Key: k.key, Kind: f.kind, Limits: k.limits, N: f.n, Priority: f.priority, Flows: f.flows})
}

// withdraw takes back what is wanted of a key. Under owning.
func (c *contact) withdraw(k *served) {
	for i, wanted := range k.wants {
		if wanted {
			k.wants[i] = false
			c.handle.Want(throttle.Want{Key: k.key, Kind: throttle.Kind(i + 1), Limits: k.limits})
		}
	}
}

// refuse withdraws what is wanted of a key and tells the client. Under owning.
func (c *contact) refuse(k *served) {
	c.withdraw(k)
	c.mu.Lock()
	c.out = appendRefused(c.out, k.num)
	c.mu.Unlock()
	c.l.kick()
}

func (c *contact) recheck() {
	c.mu.Lock()
	keys := make([]*served, 0, len(c.keys))
	for _, k := range c.keys {
		keys = append(keys, k)
	}
	c.mu.Unlock()
	for _, k := range keys {
		c.owning.Lock()
		if c.joined && (k.wants[0] || k.wants[1]) && !c.s.d.Owns(k.key) {
			c.refuse(k)
		}
		c.owning.Unlock()
	}
}

func (c *contact) hold(p []byte) error {
	// The number comes first in the payload; the leases go behind those of earlier frames.
	num, err := decodePrefix(p)
	if err != nil {
		return err
	}
	k := c.keys[num]
	if k == nil {
		return fmt.Errorf("%w: number %d is not defined", errFrame, num)
	}
	_, held, more, err := decodeHold(p, k.held)
	if err != nil || len(held) > maxHeld {
		return errFrame
	}
	if more {
		k.held = held
		return nil
	}
	k.held = nil
	c.handle.Hold(k.key, held, k.limits)
	return nil
}

func (c *contact) ready(p []byte) error {
	if len(p) != 0 || c.isComplete() {
		return errFrame
	}
	c.mu.Lock()
	c.complete = true
	c.mu.Unlock()
	c.s.d.OnContact(c.node, true)
	c.s.d.Logger.Info("contact with node", slog.String("node", c.node), slog.String("address", address(c.l.conn)),
		slog.Duration("round_trip", time.Duration(c.l.trip.Load())))
	return nil
}

// deliver takes what the authority has for the client. It does not block.
func (c *contact) deliver(outs []throttle.Out) {
	c.mu.Lock()
	full := len(c.out) > maxBacklog
	for i := 0; i < len(outs) && !full; i++ {
		c.put(&outs[i])
	}
	c.mu.Unlock()
	if full {
		c.l.end(ErrBacklog)
		return
	}
	c.l.kick()
}

// put appends one thing. A key without a number is one that the client gave up:
// it wants nothing of it.
func (c *contact) put(o *throttle.Out) {
	switch {
	case o.Grant != nil:
		if num, ok := c.nums[o.Grant.Key]; ok {
			g := o.Grant
			c.out = appendGrant(c.out, grantFrame{num, g.Kind, g.N, g.Lease, g.At})
		}
	case o.Hint != nil:
		if num, ok := c.nums[o.Hint.Key]; ok {
			h := o.Hint
			c.out = appendHint(c.out, hint{num, h.Kind, h.After, h.Contended, h.Reason})
		}
	case o.Change != nil:
		if num, ok := c.nums[o.Change.Key]; ok {
			h := o.Change
			c.out = appendChange(c.out, change{num, h.Seq, h.Factor, h.Reason})
		}
	}
}

// take gives the writer what waits.
func (c *contact) take(b []byte) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b = append(b, c.out...)
	if c.out = c.out[:0]; cap(c.out) > 4*writeSize {
		c.out = nil
	}
	return b, false
}
