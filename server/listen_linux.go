package server

import (
	"fmt"
	"net"
	"syscall"
	"unsafe"
)

// prepare limits the buffers of a listening socket, which every accepted connection inherits: socket(7). A sandbox may not
// support that; then there is no limit. If local is true, it binds the socket to the loopback interface, or fails.
func prepare(sendBuffer int, local bool) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		failed := c.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receiveBuffer)
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer)
			if local { // a socket that is bound to no interface yet may be without CAP_NET_RAW, since Linux 5.7
				err = syscall.BindToDevice(int(fd), "lo")
			}
		})
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotLocal, err)
		}
		return failed
	}
}

// hasUnread reports whether a client has sent something that has not been read yet.
func hasUnread(conn net.Conn) (unread bool) {
	var one [1]byte
	withSocket(conn, func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		unread = n > 0 && err == nil
	})
	return unread
}

// hasUntaken reports whether something was written that the client's kernel has not accepted, because the client does not
// read. For a connection that is not a socket, it is true; for one that is closed here, false.
func hasUntaken(conn net.Conn) bool {
	var bytes int32 = 1
	err := withSocket(conn, func(fd uintptr) { // SIOCOUTQ, which is TIOCOUTQ: tcp(7)
		syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&bytes)))
	})
	return bytes > 0 && err == nil
}

// withSocket calls do with the file descriptor of a connection, if it is a socket. It returns an error if that is closed.
func withSocket(conn net.Conn, do func(fd uintptr)) error {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(do)
}
