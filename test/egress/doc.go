// Package egress breaks the way out: it runs the real program as nodes and
// proxies on loopback, each source an address of its own, between a load source
// and the provider simulator, and ends, cuts off, slows down and stops
// parts of it. Run it with
//
//	make egress
//	go test -tags egress ./test/egress/... -run Loss
//
// The judge of limits is the simulator's watch record: every MAIL command and
// connection with its sending address (docs/formats/watch.md). The judge of what
// arrived are the books of source and simulator (docs/formats/ledger.md).
//
// Network faults come from a relay that stands in front of a proxy, or of
// a node's grant link, and from network namespaces, which take root; what a
// run cannot do is skipped, unless GODWIT_INTEROP=require.
package egress
