//go:build !unix

package deliver

import "net"

// peek cannot look at sockets here.
func peek(net.Conn) (n int, closed, ok bool) { return 0, false, false }
