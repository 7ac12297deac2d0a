package main

import (
	"context"
	"math"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/server"
)

const (
	// manifestLimit is the memory limit of the manifests, in bytes. It stands in for a limit that is not there.
	manifestLimit = 48 << 20

	// restingCost is what the kernel counts of a sidecar that nobody asks, in bytes: the pages of its program, which
	// may be charged to another container of the node, and some megabytes of its own.
	restingCost = 16 << 20

	// ownDescriptors are the open files that are not connections of clients: standard ones, the poller's, listeners,
	// the connection to STS, and files while they are read.
	ownDescriptors = 20
)

// places are how many connections each listener may have open at once.
type places struct{ credentials, ops, admin int }

// budget divides what a memory limit in bytes leaves for connections, so that the worst crowd on all listeners at once
// stays below two thirds of the limit; and no more than the file descriptors that there are. Zero is no limit: then it
// is as with that of the manifests. A limit that leaves too little leaves the least that a Pod can do with.
func budget(limit int64, descriptors uint64) places {
	if limit == 0 {
		limit = manifestLimit
	}
	all := int(min((limit/3*2-restingCost)/server.ConnectionCost, 1<<20))
	all = max(all, 48)
	all = max(min(all, int(min(descriptors, 1<<20))-ownDescriptors), 6)
	// Health and metrics have a handful of clients, and the status page one.
	p := places{ops: min(all/4, 24), admin: min(all/8+1, 8)}
	p.credentials = min(all-p.ops-p.admin, server.MaxConnections)
	return p
}

// boundHeap has the collector work harder before garbage takes what the budget leaves to connections. Whoever sets
// GOMEMLIMIT has decided that otherwise.
func boundHeap(limit int64) {
	if limit == 0 {
		limit = manifestLimit
	}
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(limit / 3)
	}
}

// trimAfter is how long nobody must have asked for credentials.
const trimAfter = 5 * time.Second

// trimmed returns h, and gives memory back to the system once h has had nothing to do for a while,
// until ctx ends.
//
// An exchange and a burst of requests leave several megabytes of garbage, above all from TLS, and then
// nothing happens for half an hour. The runtime does give them back by itself, but takes some six
// minutes, on every Pod that starts or wakes. The collector's own settings (GOGC, a memory limit) save
// less, and make it slower when there is work. What little the probes leave is the runtime's affair.
func trimmed(ctx context.Context, h server.Handler) server.Handler {
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
	return trimming{h, work}
}

// trimming is a handler that says first that it has work.
type trimming struct {
	server.Handler
	work func()
}

func (t trimming) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t.work()
	t.Handler.ServeHTTP(w, r)
}
