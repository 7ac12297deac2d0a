//go:build !linux

package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
)

// ListenUnix fails: Pods run on Linux.
func ListenUnix(string, int) (net.Listener, error) {
	return nil, errors.New("a Unix socket is served only on Linux")
}

func keepSocket(context.Context, net.Listener, *slog.Logger) {}

func peerUser(*net.UnixConn) (uid uint32, err error) { return 0, errLinuxOnly }
