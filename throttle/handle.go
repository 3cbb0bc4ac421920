package throttle

import "time"

// Handle is one client's way to a Keeper, from Attach until Leave or until the
// client attaches again; then its methods do nothing. They are safe for concurrent use and never block for long.
type Handle struct {
	keeper  *Keeper
	client  string
	deliver func([]Out)
}

// call runs f if the handle is the client's present one.
func (h *Handle) call(f func(a *Authority, now time.Duration)) {
	h.keeper.call(func(a *Authority, now time.Duration) {
		if h.keeper.handles[h.client] == h {
			f(a, now)
		}
	})
}

// Want sets how many permits of a key and kind the client could use at once; see Want.
func (h *Handle) Want(w Want) {
	h.call(func(a *Authority, now time.Duration) { a.Want(h.client, w, now) })
}

// Opened says that a lease became a connection; see Authority.Opened.
func (h *Handle) Opened(key Key, lease uint64) {
	h.call(func(a *Authority, now time.Duration) { a.Opened(h.client, key, lease, now) })
}

// Done says that a connection ended or a lease will not be used; see Authority.Done.
func (h *Handle) Done(key Key, lease uint64, clean bool) {
	h.call(func(a *Authority, now time.Duration) { a.Done(h.client, key, lease, clean, now) })
}

// Charge says that n more messages went with the latest permit; see Authority.Charge.
func (h *Handle) Charge(key Key, n int) {
	h.call(func(a *Authority, now time.Duration) { a.Charge(h.client, key, n, now) })
}

// Unused says that n permits lapsed at the client; see Authority.Unused.
func (h *Handle) Unused(key Key, kind Kind, n int) {
	h.call(func(a *Authority, now time.Duration) { a.Unused(h.client, key, kind, n, now) })
}

// Observe tells what became of messages; see Authority.Observe.
func (h *Handle) Observe(key Key, s Sample) {
	h.call(func(a *Authority, now time.Duration) { a.Observe(h.client, key, s, now) })
}

// Hold lists the leases that the client still has; see Authority.Hold.
func (h *Handle) Hold(key Key, leases []uint64, limits Limits) {
	h.call(func(a *Authority, now time.Duration) { a.Hold(h.client, key, leases, limits, now) })
}

// Leave says that contact with the client is lost, dead: because its process is gone; see Authority.Leave.
func (h *Handle) Leave(dead bool) {
	h.call(func(a *Authority, now time.Duration) {
		delete(h.keeper.handles, h.client)
		a.Leave(h.client, dead, now)
	})
}
