package main

import (
	"context"
	"math"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/server"
)

const (
	// manifestLimit is the memory limit of the manifests, in bytes. It is used where there is no limit.
	manifestLimit = 48 << 20

	// restingCost is what the kernel counts for an idle sidecar, in bytes: the pages of its program, which
	// may be charged to another container of the node, and some megabytes of its own.
	restingCost = 16 << 20

	// ownDescriptors are the open files that are not connections of clients: standard ones, the poller's, listeners,
	// the connection to STS, and files while they are read.
	ownDescriptors = 20
)

// places are how many connections the listeners of each name may have open at once.
type places map[string]int

// budget divides what a memory limit in bytes leaves for connections, so that even if all listeners are full at once,
// they stay below two thirds of the limit and within the number of file descriptors. Zero is no limit, and counts as that
// of the manifests. If the limit leaves too little, the result is the least that a Pod can work with. The outputs are the names of
// the listeners with credentials, which get equal parts.
func budget(limit int64, descriptors uint64, outputs []string) places {
	if limit == 0 {
		limit = manifestLimit
	}
	all := int(min((limit/3*2-restingCost)/server.ConnectionCost, 1<<20))
	all = max(all, 48)
	files := int(min(descriptors, 1<<20)) - ownDescriptors
	if slices.Contains(outputs, socketListener) {
		files /= 1 + server.UnreadPerConnection
	}
	all = max(min(all, files), 6)
	// Health and metrics have a handful of clients, and the status page one.
	p := places{opsListener: min(all/4, 24), adminListener: min(all/8+1, 8)}
	each := (all - p[opsListener] - p[adminListener]) / len(outputs)
	for _, name := range outputs {
		p[name] = min(max(each, 1), server.MaxConnections)
	}
	return p
}

// boundHeap makes the garbage collector work harder before garbage takes the memory that the budget leaves to
// connections. GOMEMLIMIT takes precedence.
func boundHeap(limit int64) {
	if limit == 0 {
		limit = manifestLimit
	}
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(limit / 3)
	}
}

// trimAfter is how long there must have been no request for credentials.
const trimAfter = 5 * time.Second

// trimmed returns the handlers, and gives memory back to the system once all have been idle for a while, until ctx ends.
//
// An exchange and a burst of requests leave several megabytes of garbage, above all from TLS, and then nothing happens
// for half an hour. The runtime gives them back by itself, but only after some six minutes. The collector's own settings
// (GOGC, a memory limit) save less, and make requests slower. The little that probes leave is left to the runtime.
func trimmed(ctx context.Context, handlers map[string]server.Handler) map[string]server.Handler {
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
	all := make(map[string]server.Handler)
	for name, h := range handlers {
		all[name] = trimming{h, work}
	}
	return all
}

// trimming is a handler that reports each request to work first.
type trimming struct {
	server.Handler
	work func()
}

func (t trimming) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t.work()
	t.Handler.ServeHTTP(w, r)
}
