package world

import (
	"net"
	"net/netip"
	"testing"
)

// Network is a network of its own, with only a loopback, and a thread in it.
type Network struct {
	work   chan func()
	thread int
}

// Inside calls a function in the network, where the sockets and processes that it creates remain.
func (n *Network) Inside(do func() error) error {
	done := make(chan error)
	n.work <- func() { done <- do() }
	return <-done
}

// Listen listens in the network.
func (n *Network) Listen(t *testing.T, address string) (l net.Listener) {
	t.Helper()
	err := n.Inside(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Dial connects from the network.
func (n *Network) Dial(address string) (conn net.Conn, err error) {
	err = n.Inside(func() (err error) {
		conn, err = net.DialTimeout("tcp", address, Soon)
		return err
	})
	return conn, err
}

// MetadataAddress is where EC2's metadata service listens.
var MetadataAddress = netip.MustParseAddrPort("169.254.169.254:80")
