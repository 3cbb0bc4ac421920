// Package crash kills the real program, and cuts the power of its volume, at
// random moments under load, and then compares what the source was promised
// with what the simulated providers recorded. Both keep their own books and are
// never killed.
//
// kill -9 alone proves nothing about fsync, since the page cache survives it.
// For the power cut the volume is a file system of its own that is shut down
// without flushing its journal before the process is killed.
//
// The tests have the build tag crash: `make crash-short`, `make crash`.
package crash
