package wire

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// BindNoPort is a net.Dialer's Control. With it, binding to a source address
// takes no port: connect chooses one that is free towards that destination.
// Without it a source address would be good for some 28,000 connections
// to all destinations together (ip(7), IP_BIND_ADDRESS_NO_PORT).
func BindNoPort(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}); cerr != nil {
		return cerr
	}
	if err == unix.ENOPROTOOPT {
		return nil // a kernel before 4.2
	}
	return err
}
