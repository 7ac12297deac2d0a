package main

import (
	"context"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

const (
	// trimAfter is how long nobody must have asked for credentials.
	trimAfter = 5 * time.Second

	// trimEvery is for what is not asked for by anybody: the exchanges, the kubelet's probes, scrapes.
	trimEvery = 10 * time.Minute
)

// trimmed returns h, and gives memory back to the system when h has nothing to do, until ctx ends.
//
// A sidecar does nothing nearly always, on every node many times over. Left to itself the runtime
// keeps what the last exchange needed for TLS, and collects no garbage before there are four megabytes
// of it: together that is nearly half of what the process holds. The collector's own settings (GOGC,
// a memory limit) save less, and make it slower when there is work; this makes the first request after
// a pause slower by some microseconds.
func trimmed(ctx context.Context, h http.Handler) http.Handler {
	var worked atomic.Bool
	wake := make(chan struct{}, 1)
	work := func() { // nearly always no more than a read
		if worked.Load() || worked.Swap(true) {
			return
		}
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	work() // the first exchange
	go func() {
		for {
			// No ticker: an idle process should sleep.
			pause(ctx, trimEvery, wake)
			for worked.Swap(false) {
				select {
				case <-wake: // taken in already
				default:
				}
				pause(ctx, trimAfter, nil)
			}
			if ctx.Err() != nil {
				return
			}
			runtime.GC() // pooled buffers survive one collection, and FreeOSMemory makes the second
			debug.FreeOSMemory()
		}
	}()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		work()
		h.ServeHTTP(w, r)
	})
}

// pause returns after d, when it is woken, or when ctx ends.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
}
