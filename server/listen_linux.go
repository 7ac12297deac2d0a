package server

import (
	"syscall"
	"time"
)

// unreadFor is how long the kernel keeps what a client has not taken, of a connection that we have closed as well.
const unreadFor = 5 * time.Second

// boundBuffers sets on a listening socket what every connection that it accepts inherits: tcp(7), socket(7). What a
// sandbox does not know costs a bound and not the service.
func boundBuffers(_, _ string, c syscall.RawConn) error {
	const userTimeout = 18 // TCP_USER_TIMEOUT, in milliseconds
	return c.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receiveBuffer)
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer)
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, userTimeout, int(unreadFor/time.Millisecond))
	})
}
