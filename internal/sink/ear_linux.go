package sink

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// queueFull tells whether the queue of connections that wait to be accepted is
// full, so that further ones are dropped. Of a listening socket the kernel gives
// its length and limit in these two fields (tcp_get_info in net/ipv4/tcp.c); a limit of n lets n+1 in.
func queueFull(l *net.TCPListener) (bool, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return false, err
	}
	var info *unix.TCPInfo
	var failed error
	if err := raw.Control(func(fd uintptr) { info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil {
		return false, err
	}
	if failed != nil {
		return false, fmt.Errorf("sink: TCP_INFO: %w", failed)
	}
	return info.Unacked > info.Sacked, nil
}
