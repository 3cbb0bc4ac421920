package deliver

import "time"

// lostSince probes a connection that was idle after its last use; a fresh one is taken as it is.
func (w *wire) lostSince(lastUse time.Time, transactions int) bool {
	return transactions > 0 && (w.buffered() > 0 || time.Since(lastUse) > probeAfter && w.lost())
}

// lost reports whether the peer has closed the connection, or sent something
// unasked for, which at this point can only be a 421. False when that cannot be told.
func (w *wire) lost() bool {
	n, closed, ok := peek(w.base)
	if !ok {
		return false
	}
	// Under TLS bytes may be a session ticket, or an alert; only the end is certain.
	return closed || n > 0 && w.conn == w.base
}
