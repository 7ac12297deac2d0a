package doctor

import (
	"errors"
	"syscall"
)

// refused reports whether nothing listens where a connection was tried. Here, syscall.ECONNREFUSED is an invented number
// that the system never returns.
// https://learn.microsoft.com/windows/win32/winsock/windows-sockets-error-codes-2
func refused(err error) bool {
	const connectionRefused = syscall.Errno(10061) // WSAECONNREFUSED
	return errors.Is(err, connectionRefused)
}
