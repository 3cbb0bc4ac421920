//go:build !linux

package wire

import "syscall"

// BindNoPort does nothing where the system cannot bind without a port.
func BindNoPort(_, _ string, _ syscall.RawConn) error { return nil }
