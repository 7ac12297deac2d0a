package server

import (
	"context"
	"errors"
	"net"
	"sync"
)

// ConnectionCost is the most memory that a connection uses, in bytes: goroutines, buffers, a head of 8 KiB, their garbage,
// and the kernel's buffers in both directions. It was measured with many clients that never read.
const ConnectionCost = 112 << 10

// What the kernel may buffer for a connection, in bytes; it doubles the numbers for its bookkeeping. A client sends one head
// at a time and gets one answer at a time. By default, the kernel buffers megabytes for a client that pipelines requests
// and never reads.
const (
	receiveBuffer = 8 << 10

	// CredentialsBuffer has room for one answer with credentials, not for many.
	CredentialsBuffer = 4 << 10

	// PagesBuffer has room for most of the metrics, or of a page.
	PagesBuffer = 16 << 10
)

// Listen is [net.Listen] for a listener of [Serve]: it limits what the kernel buffers for each connection, to sendBuffer
// bytes for what a client does not read.
func Listen(network, address string, sendBuffer int) (net.Listener, error) {
	config := net.ListenConfig{Control: prepare(sendBuffer, false)}
	return config.Listen(context.Background(), network, address)
}

// ErrNotLocal is why [ListenLocal] fails where a socket cannot be bound to an interface.
var ErrNotLocal = errors.New("cannot bind the socket to the loopback interface, which needs Linux 5.7 or later")

// ListenLocal is [Listen] for an address of this machine that is not a loopback address. The kernel would also accept
// connections to it that come from another machine on the same network, whatever interface the address is on. The listener
// accepts only what comes over the loopback interface.
func ListenLocal(network, address string, sendBuffer int) (net.Listener, error) {
	config := net.ListenConfig{Control: prepare(sendBuffer, true)}
	return config.Listen(context.Background(), network, address)
}

// Join returns one listener that accepts what any of all accepts. Its address is the first one's. If one fails, it fails. Its
// Close closes all.
func Join(all ...net.Listener) net.Listener {
	if len(all) == 1 {
		return all[0]
	}
	j := &joined{Listener: all[0], all: all, accepted: make(chan accepted), closed: make(chan struct{})}
	for _, l := range all {
		go j.acceptFrom(l)
	}
	return j
}

type joined struct {
	net.Listener
	all      []net.Listener
	accepted chan accepted
	closing  sync.Once
	closed   chan struct{}
}

type accepted struct {
	conn net.Conn
	err  error
}

// acceptFrom hands over one connection at a time: those that there is no room for yet wait in the kernel's queue.
func (j *joined) acceptFrom(l net.Listener) {
	for {
		conn, err := l.Accept()
		select {
		case j.accepted <- accepted{conn, err}:
		case <-j.closed:
			if conn != nil {
				conn.Close()
			}
			return
		}
	}
}

func (j *joined) Accept() (net.Conn, error) {
	select {
	case <-j.closed:
		return nil, net.ErrClosed
	case a := <-j.accepted:
		return a.conn, a.err
	}
}

func (j *joined) Close() (err error) {
	j.closing.Do(func() {
		close(j.closed)
		for _, l := range j.all {
			if one := l.Close(); err == nil {
				err = one
			}
		}
	})
	return err
}
