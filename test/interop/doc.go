// Package interop has other people's software judge the real program: swaks
// and Postfix inject into it, Postfix takes what it delivers, OpenDKIM
// verifies its signatures, unbound and dnsmasq answer its DNS. What both ends
// of our own code get wrong in the same way, these find. Run it with
//
//	make interop
//
// A peer that is not installed skips its tests, unless GODWIT_INTEROP=require
// is set, as in CI: then it fails them. .ci/run installs the Debian packages.
//
// Nothing of the system is touched: Postfix runs as instances of its own below
// a temporary directory, and what needs port 53 runs in its own network and
// mount namespace (which takes root).
package interop
