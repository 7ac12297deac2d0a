package server

import (
	"context"
	"net"
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
	config := net.ListenConfig{Control: boundBuffers(sendBuffer)}
	return config.Listen(context.Background(), network, address)
}
