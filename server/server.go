// Package server serves over HTTP what caches hold: credentials for programs on this machine, and health and metrics for
// monitoring.
//
// It knows the caches, but no AWS package: a failed exchange is a cache.Reason here.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"
)

const (
	// No client sends more than a kilobyte of headers or takes longer than its own first time-out. Some keep a connection
	// open for a minute between refreshes.
	readHeaderTimeout = 2 * time.Second
	readTimeout       = 5 * time.Second
	writeTimeout      = 5 * time.Second
	idleTimeout       = 75 * time.Second
	maxHeaderBytes    = 8<<10 - 4096 // net/http adds 4096
)

// MaxConnections is the most that a listener needs, however much memory there is.
const MaxConnections = 256

// Serve serves h on l until ctx ends, and then finishes the requests in progress for at most grace. It closes l. At most
// connections are open at once, each of which costs at most [ConnectionCost].
// What net/http logs goes to logger at debug level, because it is about clients.
func Serve(ctx context.Context, l net.Listener, h Handler, connections int, grace time.Duration, logger *slog.Logger) error {
	limit := newConnections(connections)
	limit.malformed = h.malformed
	s := &http.Server{
		Handler:           limit.handler(logPanics(h, logger)),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         limit.stateChanged,
		ConnContext:       withConn,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),

		// net/http would answer "OPTIONS *" itself, with 200 and without the guards.
		DisableGeneralOptionsHandler: true,
	}
	keepSocket(ctx, l, logger)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(limit.listener(l)) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := s.Shutdown(draining)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.Close()
	}
	<-ended
	return err
}

// logPanics lets a panic end only its own request, and logs it as an error: net/http's own log is at debug level.
func logPanics(h http.Handler, logger *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				if p != http.ErrAbortHandler {
					logger.Error("a bug: the handler panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				}
				panic(http.ErrAbortHandler)
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// trimSlash drops one trailing slash, except from "/".
func trimSlash(path string) string {
	if len(path) > 1 {
		return strings.TrimSuffix(path, "/")
	}
	return path
}
