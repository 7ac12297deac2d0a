//go:build !windows

package doctor

import (
	"errors"
	"syscall"
)

// refused reports whether nothing listens where a connection was tried.
func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
