//go:build !linux

package world

import (
	"errors"
	"testing"
)

var errNoNamespaces = errors.New("namespaces are Linux's")

// Reexec says that there are no namespaces here.
func Reexec(*testing.T, uintptr) (inside bool, err error) { return false, errNoNamespaces }

// InNetwork says that there are no namespaces here.
func InNetwork(ready chan<- error, _ <-chan func()) { ready <- errNoNamespaces }
