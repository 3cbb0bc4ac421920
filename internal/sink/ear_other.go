//go:build !linux

package sink

import (
	"errors"
	"net"
)

func queueFull(*net.TCPListener) (bool, error) {
	return false, errors.New("sink: only on Linux can a listener swallow connects")
}
