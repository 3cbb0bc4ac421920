//go:build unix

package deliver

import (
	"errors"
	"net"
	"syscall"
)

// peek looks at a socket without waiting and without taking anything.
func peek(conn net.Conn) (n int, closed, ok bool) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return 0, false, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false, false
	}
	var buf [1]byte
	// Control, not Read: it does not care for a deadline that passed long ago.
	err = raw.Control(func(fd uintptr) {
		n, _, err = syscall.Recvfrom(int(fd), buf[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch {
		case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
			n = 0
		case err != nil || n == 0:
			n, closed = 0, true
		}
	})
	return n, closed || err != nil && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR), true
}
