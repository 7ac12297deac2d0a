//go:build !linux

package world

import (
	"errors"
	"testing"
)

var errNoNamespaces = errors.New("namespaces are Linux's")

// Reexec says that there are no namespaces here.
func Reexec(*testing.T, uintptr) (inside bool, err error) { return false, errNoNamespaces }

// InNamespaces skips the test: there are no namespaces here.
func InNamespaces(t *testing.T, _ uintptr) bool {
	t.Helper()
	NotRun(t, "namespaces", errNoNamespaces.Error())
	return false
}

// InNetwork says that there are no namespaces here.
func InNetwork(ready chan<- error, _ <-chan func()) { ready <- errNoNamespaces }

// NewNetwork says that there are no namespaces here.
func NewNetwork(t *testing.T, _ ...[4]byte) *Network {
	t.Helper()
	t.Fatal(errNoNamespaces)
	return nil
}

// NewPodNetwork says that there are no namespaces here.
func NewPodNetwork(t *testing.T) (pod, node *Network) {
	t.Helper()
	t.Fatal(errNoNamespaces)
	return nil, nil
}
