//go:build !linux

package main

import (
	"errors"
	"net/netip"
)

// addAddress is never called: Pods run on Linux.
func addAddress(int, netip.Addr) error { return errors.ErrUnsupported }
