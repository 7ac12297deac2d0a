package server

import (
	"context"
	"net"
)

// ConnectionCost is what one connection may cost, in bytes, at the worst: its goroutines and buffers, a head of 8 KiB,
// the garbage that all that makes, and what the kernel keeps of it in both directions. Measured with crowds that
// never read.
const ConnectionCost = 112 << 10

// What the kernel may keep of a connection, in bytes; it doubles both numbers for its own bookkeeping. A client sends
// one head at a time, and most answers are shorter than 4 KiB: what is left to the kernel's own judgement grows to
// megabytes where a client pipelines and never reads.
const (
	receiveBuffer = 8 << 10
	sendBuffer    = 16 << 10
)

// Listen is [net.Listen] for a listener that [Serve] is to serve on: what the kernel keeps of its connections is
// bounded.
func Listen(network, address string) (net.Listener, error) {
	config := net.ListenConfig{Control: boundBuffers}
	return config.Listen(context.Background(), network, address)
}
