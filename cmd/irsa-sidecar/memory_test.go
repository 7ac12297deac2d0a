package main

import (
	"context"
	"maps"
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
		h := trimmed(ctx, map[string]server.Handler{"one": server.Credentials(server.Options{})})["one"]
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
	one, all := []string{"credentials"}, []string{"credentials", "ecs", "imds", "socket"}
	for _, row := range []struct {
		name        string
		limit       int64
		descriptors uint64
		outputs     []string
		want        []int // for each output, ops, admin
	}{
		{"the manifests' limit", 48 * mib, 1 << 20, one, []int{114, 24, 8}},
		{"no limit", 0, 1 << 20, one, []int{114, 24, 8}},
		{"a limit that leaves nothing", 16 * mib, 1 << 20, one, []int{29, 12, 7}},
		{"a limit of a byte", 1, 1 << 20, one, []int{29, 12, 7}},
		{"24 MiB", 24 * mib, 1 << 20, one, []int{29, 12, 7}},
		{"64 MiB", 64 * mib, 1 << 20, one, []int{211, 24, 8}},
		{"128 MiB", 128 * mib, 1 << 20, one, []int{256, 24, 8}},
		{"a machine's", 1 << 49, 1<<64 - 1, one, []int{256, 24, 8}},
		{"1,024 descriptors", 128 * mib, 1024, one, []int{256, 24, 8}},
		{"100 descriptors", 48 * mib, 100, one, []int{52, 20, 8}},
		{"24 descriptors", 48 * mib, 24, one, []int{4, 1, 1}},
		{"3 descriptors", 48 * mib, 3, one, []int{4, 1, 1}},

		{"two outputs", 48 * mib, 1 << 20, all[:2], []int{57, 24, 8}},
		{"all outputs", 48 * mib, 1 << 20, all, []int{28, 24, 8}},
		{"all outputs, and a limit of a byte", 1, 1 << 20, all, []int{7, 12, 7}},
		{"all outputs, and a machine's", 1 << 49, 1<<64 - 1, all, []int{256, 24, 8}},
		{"all outputs, and 3 descriptors", 48 * mib, 3, all, []int{1, 1, 1}},
	} {
		want := places{"ops": row.want[1], "admin": row.want[2]}
		for _, name := range row.outputs {
			want[name] = row.want[0]
		}
		if got := budget(row.limit, row.descriptors, row.outputs); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", row.name, got, want)
		}
	}
	// Whatever the limit: what all places may cost, and the rest, is below two thirds of it where it leaves anything at all.
	for limit := int64(32 * mib); limit < 1<<30; limit += mib {
		for n := range all {
			cost := int64(restingCost)
			for _, n := range budget(limit, 1<<20, all[:n+1]) {
				cost += int64(n) * server.ConnectionCost
			}
			if cost > limit/3*2 {
				t.Fatalf("%d MiB, %v: all places may cost %d bytes", limit/mib, all[:n+1], cost)
			}
		}
	}
}
