package main

import (
	"context"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// trimAfter is how long nobody must have asked for credentials.
const trimAfter = 5 * time.Second

// trimmed returns h, and gives memory back to the system once h has had nothing to do for a while,
// until ctx ends.
//
// An exchange and a burst of requests leave several megabytes of garbage, above all from TLS, and then
// nothing happens for half an hour. The runtime does give them back by itself, but takes some six
// minutes, on every Pod that starts or wakes. The collector's own settings (GOGC, a memory limit) save
// less, and make it slower when there is work. What little the probes leave is the runtime's affair.
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
			select { // no ticker: an idle process should sleep
			case <-wake:
			case <-ctx.Done():
				return
			}
			for worked.Swap(false) {
				select {
				case <-wake: // taken in already
				default:
				}
				select {
				case <-time.After(trimAfter):
				case <-ctx.Done():
					return
				}
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
