package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/server"
)

func TestMemoryIsGivenBackWhenNobodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h := trimmed(ctx, server.Credentials(server.Options{}))
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		step := func(what string, d time.Duration, want uint32) {
			t.Helper()
			before := forcedCollections()
			time.Sleep(d) // of the bubble's clock, like every sleep in a bubble
			synctest.Wait()
			if got := forcedCollections() - before; got != 2*want { // a trim makes two
				t.Errorf("%s: %d forced collections, not %d", what, got, 2*want)
			}
		}
		step("before it is idle", trimAfter-1, 0)
		step("after the start", 1, 1)
		step("with nothing to do", time.Hour, 0)
		for range 10 {
			h.ServeHTTP(httptest.NewRecorder(), request)
			step("between requests", trimAfter-time.Second, 0)
		}
		step("after the last request", 2*trimAfter, 1)
		cancel()
		h.ServeHTTP(httptest.NewRecorder(), request)
		step("after the end", time.Hour, 0)
	})
}

func forcedCollections() uint32 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NumForcedGC
}

func TestConnectionsFitIntoTheMemoryThatThereIs(t *testing.T) {
	const mib = 1 << 20
	for _, row := range []struct {
		name        string
		limit       int64
		descriptors uint64
		want        places
	}{
		{"the manifests' limit", 48 * mib, 1 << 20, places{114, 24, 8}},
		{"no limit", 0, 1 << 20, places{114, 24, 8}},
		{"a limit that leaves nothing", 16 * mib, 1 << 20, places{29, 12, 7}},
		{"a limit of a byte", 1, 1 << 20, places{29, 12, 7}},
		{"24 MiB", 24 * mib, 1 << 20, places{29, 12, 7}},
		{"64 MiB", 64 * mib, 1 << 20, places{211, 24, 8}},
		{"128 MiB", 128 * mib, 1 << 20, places{256, 24, 8}},
		{"a machine's", 1 << 49, 1<<64 - 1, places{256, 24, 8}},
		{"1,024 descriptors", 128 * mib, 1024, places{256, 24, 8}},
		{"100 descriptors", 48 * mib, 100, places{52, 20, 8}},
		{"24 descriptors", 48 * mib, 24, places{4, 1, 1}},
		{"3 descriptors", 48 * mib, 3, places{4, 1, 1}},
	} {
		if got := budget(row.limit, row.descriptors); got != row.want {
			t.Errorf("%s: %+v, want %+v", row.name, got, row.want)
		}
	}
	// Whatever the limit: what all places may cost, and the rest, is below two thirds of it where it leaves anything at all.
	for limit := int64(32 * mib); limit < 1<<30; limit += mib {
		p := budget(limit, 1<<20)
		if cost := int64(p.credentials+p.ops+p.admin)*server.ConnectionCost + restingCost; cost > limit/3*2 {
			t.Fatalf("%d MiB: %+v may cost %d bytes", limit/mib, p, cost)
		}
	}
}
