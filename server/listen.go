package server

import (
	"context"
	"net"
)

// ConnectionCost is the most memory that one connection may cost, in bytes: its goroutines and buffers, a head of 8 KiB,
// their garbage, and the kernel's buffers in both directions. Measured with many clients that never read.
const ConnectionCost = 112 << 10

// What the kernel may keep of a connection, in bytes; it doubles the numbers for its own bookkeeping. A client sends one
// head at a time, and has one answer under way: by default, the kernel keeps megabytes for a client that pipelines and
// never reads.
const (
	receiveBuffer = 8 << 10

	// CredentialsBuffer has room for an answer with credentials, and not for many.
	CredentialsBuffer = 4 << 10

	// PagesBuffer has room for most of the metrics, or of a page.
	PagesBuffer = 16 << 10
)

// Listen is [net.Listen] for a listener that [Serve] is to serve on: what the kernel keeps of its connections is
// bounded, sendBuffer bytes of what they do not read.
func Listen(network, address string, sendBuffer int) (net.Listener, error) {
	config := net.ListenConfig{Control: boundBuffers(sendBuffer)}
	return config.Listen(context.Background(), network, address)
}
